"""Paths in settings: `~`, lists of paths, paths inside the data folder. Imports no torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

from benchmark.plugins.code_folders import folder_of
from benchmark.text.notation import parse_list

CONFIGS = folder_of("configs")


def grid_names() -> list[str]:
    """The names of the grids that come with the package."""
    return sorted(path.stem for path in (CONFIGS / "grid").glob("[!.]*.yaml"))


RESOLVER = re.compile(r"\$\{\s*[\w.]+\s*:")  # of OmegaConf: `${oc.env:HOME}`, `${hydra:...}`


def reject_resolvers(word: str) -> str:
    """Returns an argument unchanged. ValueError where it holds a resolver of OmegaConf, as `${oc.env:SECRET}`.

    The resolved value would end up in the records. `${x}` passes, because a folder may have that name.
    """
    if match := RESOLVER.search(word):
        raise ValueError(
            f"{word}: {match[0]}...}} is not resolved in arguments: write the value, or let your shell insert it"
        )
    return word


def expand_home(path: str, setting: str) -> str:
    """Replaces `~` or `~user` at the start of a path by the home folder.

    Args:
        path: the path as typed.
        setting: the setting for the message, as `data=~/x`.

    Raises:
        ValueError: there is no such user, or the home folder is not known.
    """
    whole = os.path.expanduser(path)
    if path.startswith("~") and whole == path:
        user = path.partition("/")[0].removeprefix("~")
        what = f"there is no user {user}" if user else "the home folder of this user is not known (HOME is not set)"
        raise ValueError(f"{setting}: {what}: write the whole path")
    return whole


def path_as_typed(path: Path) -> str:
    """Writes a path as it is typed in a setting; `expand_home` reverses it."""
    return f"./{path}" if str(path).startswith("~") else str(path)


def parse_paths(text: str, setting: str) -> list[str]:
    """Parses the paths of a setting that takes several, and expands `~`.

    A text that is an existing path is that one path. Otherwise commas separate paths: `a,b`. Names with commas are
    quoted, in brackets: `[a,"b,c"]`.

    Args:
        text: the value of the setting.
        setting: the setting for messages, as `records=a,b`.

    Raises:
        ValueError: a bracket or a quote is not closed, a home folder is not known, or a name is too long.
    """
    if os.path.exists(whole := expand_home(text, setting)):
        return [whole]
    return [check_name_length(expand_home(part, setting), setting) for part in parse_list(text)]


def check_name_length(path: str, setting: str) -> str:
    """Returns a path unchanged. ValueError where a name in it is longer than file systems allow."""
    if any(len(os.fsencode(part)) > 255 for part in path.encode(errors="replace").decode().split("/")):
        raise ValueError(f"{setting:.60}: a name of more than 255 bytes")
    return path


def resolve_data_path(path: str, folder: Path | None) -> Path:
    """Resolves a user's path: an absolute one stays, another lies inside the data folder.

    Raises:
        ValueError: the path is relative, and the data folder is not set.
    """
    whole = Path(expand_home(path, path))
    if folder is None and not whole.is_absolute():
        place = "set data=DIR or $AL_BENCHMARK_DATA"
        if path == ".":
            raise ValueError(f"the folder of your data sets is not known: {place}")
        raise ValueError(f"{path} is looked for in the folder of your data sets: {place}")
    return whole if folder is None else folder / whole
