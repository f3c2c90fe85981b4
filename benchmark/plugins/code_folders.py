"""The folders of this code: in a checkout, plug-ins lie beside the package; in an installation, inside it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
INSTALL_ROOT = PACKAGE.parent  # the checkout, or site-packages


def folder_of(name: str) -> Path:
    """The folder called strategies, tasks, encoders or configs: inside the package, or beside it."""
    return next((folder for folder in (PACKAGE / name, INSTALL_ROOT / name) if folder.is_dir()), PACKAGE / name)
