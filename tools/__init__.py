"""Programs that render pages of this repository from records and docstrings; they are not installed."""
