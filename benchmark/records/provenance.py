"""Which code runs: the command, the package version, and the commit of the checkout. Imports no torch."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, or the folder that packages are installed in
CODE_FOLDERS = ("benchmark", "strategies", "tasks", "encoders", "configs")  # what can change a run's results
GIT_TIMEOUT = 20.0  # seconds; git may be slow on a network disk
GIT_SETTINGS = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}")  # keep git from starting programs


def provenance(verb: str, words: Sequence[str]) -> dict[str, str]:
    """Returns the command, and the version and commit of the code that runs it.

    Args:
        verb: `run` or `variance`.
        words: the arguments of the command.
    """
    command = shlex.join(["python", "-m", "benchmark", verb, *words])
    return {"command": command, "version": package_version(), "commit": checkout_commit(ROOT) or installed_commit(ROOT)}


def checkout_commit(root: Path) -> str:
    """Returns the commit that is checked out in a folder, with ` and changes` if code differs from it or is untracked.

    Returns "" where the folder is not itself the top of a repository, since it may lie in someone else's.
    """
    try:
        top = run_git(root, "rev-parse", "--show-toplevel")
        if not top or Path(top).resolve() != root.resolve():
            return ""
        number = run_git(root, "rev-parse", "--verify", "HEAD")
        changed = run_git(root, "status", "--porcelain", "--untracked-files=all", "--", *CODE_FOLDERS)
    except (OSError, ValueError, subprocess.SubprocessError):  # no git, no commit, or an unreadable one
        return ""
    return number + " and changes" * bool(changed)


def run_git(root: Path, *words: str) -> str:
    """Returns what git prints about a folder.

    The environment cannot lead git to another repository; git runs no program that its settings name, and
    writes no index.
    Raises OSError, ValueError or subprocess.SubprocessError.
    """
    settings = [part for setting in (*GIT_SETTINGS, f"safe.directory={root}") for part in ("-c", setting)]
    names = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    output = subprocess.check_output(
        ["git", *settings, "-C", str(root), *words], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=names | {"GIT_OPTIONAL_LOCKS": "0"}, encoding="utf-8", errors="surrogateescape", timeout=GIT_TIMEOUT,
    )  # fmt: skip
    return output.strip("\n")


def installed_commit(root: Path) -> str:
    """Returns the commit that an installed package was built from, if pip was given a repository; "" otherwise.

    Args:
        root: the folder that contains the running package; another one may be installed as well.
    """
    try:
        package = distribution("al-benchmark")
        [origin] = [file for file in package.files or () if file.name == "direct_url.json"]
        direct_url = json.loads(origin.read_text(encoding="utf-8"))
        is_running = Path(str(package.locate_file("benchmark"))).resolve() == root.resolve() / "benchmark"
        return str(direct_url["vcs_info"]["commit_id"]) if is_running else ""
    except (PackageNotFoundError, OSError, ValueError, TypeError, KeyError):
        return ""


def package_version() -> str:
    """Returns the version of the package."""
    try:
        return version("al-benchmark")
    except PackageNotFoundError:
        return "unknown"
