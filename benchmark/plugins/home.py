"""Where this code lies: a checkout, in which the folders of plug-ins are beside the package, or an installation."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
INSTALL_ROOT = PACKAGE.parent  # the checkout, or site-packages


def folder_of(name: str) -> Path:
    """The folder of strategies, tasks, encoders or configs: inside the package, or beside it."""
    return next((folder for folder in (PACKAGE / name, INSTALL_ROOT / name) if folder.is_dir()), PACKAGE / name)
