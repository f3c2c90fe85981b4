"""Which code runs: the command, the version of the package, and the commit of its own checkout. Imports no torch."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, or the folder that packages are installed in
CODE_FOLDERS = ("benchmark", "strategies", "tasks", "encoders", "configs")  # what of the checkout decides a run
GIT_TIMEOUT = 20.0  # that git may take, as on a network's disk
GIT_SETTINGS = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}")  # git starts no program


def provenance(verb: str, words: Sequence[str]) -> dict[str, str]:
    """The command, and the version and commit of the code that runs it.

    Args:
        verb: `run` or `variance`.
        words: of the command.
    """
    command = shlex.join(["python", "-m", "benchmark", verb, *words])
    return {"command": command, "version": package_version(), "commit": checkout_commit(ROOT) or installed_commit(ROOT)}


def checkout_commit(root: Path) -> str:
    """The commit that is checked out in a folder, with ` and changes` where its code has others; untracked files of
    code are changes. "" where the folder is not itself the top of a repository: it may lie in somebody else's."""
    try:
        top = run_git(root, "rev-parse", "--show-toplevel")
        if not top or Path(top).resolve() != root.resolve():
            return ""
        number = run_git(root, "rev-parse", "--verify", "HEAD")
        changed = run_git(root, "status", "--porcelain", "--untracked-files=all", "--", *CODE_FOLDERS)
    except (OSError, ValueError, subprocess.SubprocessError):  # no git, no commit, or none that may be read
        return ""
    return number + " and changes" * bool(changed)


def run_git(root: Path, *words: str) -> str:
    """What git says of a folder: nothing of the environment leads it to another, and it runs no program of its settings
    and writes no index. Raises OSError, ValueError or subprocess.SubprocessError."""
    settings = [part for one in (*GIT_SETTINGS, f"safe.directory={root}") for part in ("-c", one)]
    names = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    said = subprocess.check_output(
        ["git", *settings, "-C", str(root), *words], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=names | {"GIT_OPTIONAL_LOCKS": "0"}, encoding="utf-8", errors="surrogateescape", timeout=GIT_TIMEOUT,
    )  # fmt: skip
    return said.strip("\n")


def installed_commit(root: Path) -> str:
    """The commit that an installed package was built from, where pip was given a repository; "" otherwise.

    Args:
        root: the folder that the package which runs is in: another one may be installed besides.
    """
    try:
        package = distribution("al-benchmark")
        [origin] = [one for one in package.files or () if one.name == "direct_url.json"]
        told = json.loads(origin.read_text(encoding="utf-8"))
        here = Path(str(package.locate_file("benchmark"))).resolve() == root.resolve() / "benchmark"
        return str(told["vcs_info"]["commit_id"]) if here else ""
    except (PackageNotFoundError, OSError, ValueError, TypeError, KeyError):
        return ""


def package_version() -> str:
    """The version of the package."""
    try:
        return version("al-benchmark")
    except PackageNotFoundError:
        return "unknown"
