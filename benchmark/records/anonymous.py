"""Removes from results what identifies their author, for an anonymous review: `anonymous=true`.

docs/privacy.md lists what a results folder reveals. Imports no torch.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import socket
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.plugins.code_folders import INSTALL_ROOT

if TYPE_CHECKING:
    from benchmark.experiment.cell import Cell

FOLDER_SETTINGS = {  # settings that name a place, and the substitute of each value
    "data": "DATA", "out": "OUT", "to": "TO", "records": "RECORDS", "against": "AGAINST", "plugins": "PLUGINS",
    "ray_address": "ADDRESS",
}  # fmt: skip
COMMON_WORDS = {  # names of users and machines that identify nobody
    "root", "user", "ubuntu", "admin", "runner", "docker", "localhost", "home", "test", "data", "work",
}  # fmt: skip
PATH_PART = r"[^\s/\"'`<>|:;,()\[\]{}=]+"  # between two slashes of a path
QUOTED_PATH = re.compile(r"""(["'])(?:~|[A-Za-z]:)?[/\\][^"'\n]*[/\\]([^"'/\\\n]*)\1""")
ABSOLUTE_PATH = re.compile(rf"(?<![\w.~/:\\*-])(?:~[\w.-]*|[A-Za-z]:)?(?:/{PATH_PART})*/({PATH_PART})/?")


@cache
def machine_folders() -> list[tuple[str, str]]:
    """Returns folders whose names may identify someone, with the substitute of each; nested folders come first."""
    paths = sysconfig.get_paths()
    substitutes = {
        str(INSTALL_ROOT): "", paths["purelib"]: "site-packages", paths["stdlib"]: "python", sys.prefix: "python",
        os.getcwd(): "", os.path.expanduser("~"): "HOME", os.environ.get("AL_BENCHMARK_DATA") or "/": "DATA",
    }  # fmt: skip
    with_real_paths = {
        place: name for path, name in substitutes.items() for place in (path.rstrip("/"), os.path.realpath(path))
    }
    pairs = [(path, name) for path, name in with_real_paths.items() if len(path) > 1]
    return sorted(pairs, key=lambda pair: -len(pair[0]))


@cache
def machine_names() -> list[tuple[str, str]]:
    """Returns the names of this machine and of its user, and the substitute of each, without common words."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    users = {user, os.environ.get("USER", ""), os.path.basename(os.path.expanduser("~"))}
    hosts = {socket.gethostname(), socket.gethostname().partition(".")[0], os.environ.get("HOSTNAME", "")}
    pairs = [(word, "USER") for word in users] + [(word, "HOST") for word in hosts]
    uncommon = [pair for pair in pairs if len(pair[0]) > 2 and pair[0].lower() not in COMMON_WORDS]
    return sorted(uncommon, key=lambda pair: -len(pair[0]))


def redact(text: str) -> str:
    """Returns text without this machine's folders, its name and its user's name.

    Of an absolute path the last part is kept; of files of the project and of libraries, the path inside them.
    """
    for path, name in machine_folders():
        text = re.sub(rf"{re.escape(path)}(?![\w.-])/?", f"{name}/" if name else "", text)
    text = ABSOLUTE_PATH.sub(r"\1", QUOTED_PATH.sub(r"\1\2\1", text))
    for word, name in machine_names():
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", name, text)
    return text


def redact_command(words: Sequence[str]) -> list[str]:
    """Returns the words of a command with `data=DATA` in place of a folder: they still say what was run."""
    return [redact_word(word) for word in words]


def redact_word(word: str) -> str:
    """Returns one word of a command without folders."""
    key, equals, value = word.partition("=")
    if key in FOLDER_SETTINGS and equals and value != "null" and (names_outer_folders(value) or redact(value) != value):
        return f"{key}={FOLDER_SETTINGS[key]}"
    return redact(word)


def redact_run(run: Mapping[str, Any]) -> dict[str, str]:
    """Returns a run of a manifest with a redacted command and without its commit, which identifies a repository."""
    try:
        words = shlex.split(str(run.get("command", "")))
    except ValueError:
        words = []
    return {"command": shlex.join(redact_command(words)), "version": str(run.get("version", "")), "commit": ""}


def names_outer_folders(path: str) -> bool:
    """Whether a path names folders outside the working folder: `/a/b`, `~/b`, `../b`."""
    return path.startswith(("/", "~")) or os.pardir in Path(path).parts


def check_parameters(cells: Iterable[Cell]) -> None:
    """Raises ValueError where a parameter names a folder, since parameters stand in the records and in their paths."""
    for spec in {spec.label: spec for cell in cells for spec in (cell.task, cell.strategy)}.values():
        for name, text in text_values(spec.plugin.non_defaults(spec.values)):
            if names_outer_folders(text) or redact(text) != text:
                raise ValueError(
                    f"anonymous=true: {spec.name}[{name}={text}] would be in the records: give the folder with "
                    f"data=DIR, which is not recorded, and {name}= inside it"
                )


def text_values(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the texts in parameters, with the parameter's name."""
    for name, value in values.items():
        for part in value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]:
            if isinstance(part, str):
                yield name, part
