"""Names of folders and files as people write them: `~`, and several of them in one setting. Imports no torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

from benchmark.plugins.home import folder_of
from benchmark.text.notation import parse_list

CONFIGS = folder_of("configs")


def grid_names() -> list[str]:
    """The grids that come with the package."""
    return sorted(path.stem for path in (CONFIGS / "grid").glob("[!.]*.yaml"))


RESOLVER = re.compile(r"\$\{\s*[\w.]+\s*:")  # of OmegaConf: `${oc.env:HOME}`, `${hydra:...}`


def reject_resolvers(word: str) -> str:
    """A word as it was typed. ValueError where it asks for a value from elsewhere, which would end up in the records: a
    folder may be called `${x}`, but `${oc.env:SECRET}` is a slip."""
    if match := RESOLVER.search(word):
        raise ValueError(
            f"{word}: nothing is looked up in what you type: write the value for {match[0]}...}}, or have your shell "
            "put it there"
        )
    return word


def expand_home(path: str, setting: str) -> str:
    """A path with the home folder in the place of `~` or `~user`.

    Args:
        path: as it was given.
        setting: what it is to be called in the message, `data=~/x`.

    Raises:
        ValueError: nobody is called so, or the home folder of the user is not known.
    """
    whole = os.path.expanduser(path)
    if path.startswith("~") and whole == path:
        user = path.partition("/")[0].removeprefix("~")
        what = f"there is no user {user}" if user else "the home folder of this user is not known (HOME is not set)"
        raise ValueError(f"{setting}: {what}: write the whole path")
    return whole


def path_as_typed(path: Path) -> str:
    """A path as a setting takes it: `expanded` gives it back."""
    return f"./{path}" if str(path).startswith("~") else str(path)


def parse_paths(text: str, setting: str) -> list[str]:
    """The paths of a setting that takes several, with `~` expanded.

    A path that exists as it is given is that path; else commas divide: `a,b`. Names that hold commas themselves go into
    quotes, in brackets: `[a,"b,c"]`.

    Raises:
        ValueError: a bracket or a quote is not closed, or `~` is not known.
    """
    if os.path.exists(whole := expand_home(text, setting)):
        return [whole]
    return [check_name_length(expand_home(part, setting), setting) for part in parse_list(text)]


def check_name_length(path: str, setting: str) -> str:
    """The path, where a file can be called so. ValueError for a name that is longer than any system takes."""
    if any(len(os.fsencode(part)) > 255 for part in path.encode(errors="replace").decode().split("/")):
        raise ValueError(f"{setting:.60}: a name of more than 255 bytes")
    return path


def resolve_data_path(path: str, folder: Path | None) -> Path:
    """A path that the user gave: absolute, or inside the data folder. ValueError where there is none."""
    whole = Path(expand_home(path, path))
    if folder is None and not whole.is_absolute():
        place = "set data=DIR or $AL_BENCHMARK_DATA"
        if path == ".":
            raise ValueError(f"the folder of your data sets is not known: {place}")
        raise ValueError(f"{path} is looked for in the folder of your data sets: {place}")
    return whole if folder is None else folder / whole
