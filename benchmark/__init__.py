"""Active-learning strategies, compared fairly."""

from pathlib import Path

if not (Path(__file__).parent / "strategies").is_dir():  # in a checkout the folders of plug-ins lie beside this one
    __path__.append(str(Path(__file__).resolve().parents[1]))
