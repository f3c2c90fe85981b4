"""Where cells are run: in this process, in worker processes of this machine, or on Ray.

`launcher` chooses from the settings. Each launcher yields the events of `runner.events`. Records do not depend on it.
"""
