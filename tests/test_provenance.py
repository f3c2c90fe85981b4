"""The recorded commit is that of the package's own checkout, whatever surrounds it or the environment names."""

import os
import subprocess
from pathlib import Path

import pytest

from benchmark.records import provenance
from benchmark.records.provenance import CODE_FOLDERS, checkout_commit, installed_commit

ROOT = Path(__file__).parents[1]
AS_SOMEBODY = ["-c", "user.email=a@b", "-c", "user.name=x", "-c", "commit.gpgsign=false"]


def run_git(folder: Path, *words: str) -> str:
    names = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    said = subprocess.check_output(["git", *AS_SOMEBODY, "-C", str(folder), *words], env=names, encoding="utf-8")
    return said.strip()


def repository(folder: Path) -> str:
    """A checkout with one file of code and one other file, and its commit."""
    (folder / "strategies").mkdir(parents=True)
    (folder / "strategies" / "mine.py").write_text("first = 1\n")
    (folder / "README.md").write_text("read me\n")
    run_git(folder, "init", "-q")
    run_git(folder, "add", ".")
    run_git(folder, "commit", "-qm", "thesis")
    return run_git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path) -> tuple[Path, str]:
    return tmp_path / "checkout", repository(tmp_path / "checkout")


def test_the_commit_of_a_checkout(checkout: tuple[Path, str]) -> None:
    folder, number = checkout
    assert checkout_commit(folder) == number
    (folder / "README.md").write_text("other words\n")
    (folder / "notes.txt").write_text("no code\n")
    assert checkout_commit(folder) == number, "no code was changed"
    (folder / "strategies" / "mine.py").write_text("first = 2\n")
    assert checkout_commit(folder) == f"{number} and changes"


def test_untracked_plugins_are_changes(checkout: tuple[Path, str]) -> None:
    folder, number = checkout
    (folder / "strategies" / "new.py").write_text("second = 1\n")
    assert checkout_commit(folder) == f"{number} and changes"


def test_a_repository_around_an_installation_is_not_its_own(checkout: tuple[Path, str]) -> None:
    folder, _ = checkout
    (installation := folder / "venv" / "site-packages" / "benchmark").mkdir(parents=True)
    assert checkout_commit(installation.parent) == ""
    assert checkout_commit(folder / "strategies") == ""


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE"])
def test_the_environment_leads_git_nowhere_else(
    name: str, checkout: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, number = checkout
    repository(other := tmp_path / "other")
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv(name, str(other / ".git" / "index" if name == "GIT_INDEX_FILE" else other / ".git"))
    assert checkout_commit(folder) == number
    assert checkout_commit(tmp_path / "nothing") == ""
    assert checkout_commit(other / "strategies") == ""


def test_a_worktree_and_a_folder_behind_a_link_are_checkouts(checkout: tuple[Path, str], tmp_path: Path) -> None:
    folder, number = checkout
    run_git(folder, "worktree", "add", "-q", str(tmp_path / "tree"))
    (tmp_path / "link").symlink_to(folder)
    assert checkout_commit(tmp_path / "tree") == checkout_commit(tmp_path / "link") == number


def test_git_starts_no_program_and_writes_nothing(checkout: tuple[Path, str], tmp_path: Path) -> None:
    folder, number = checkout
    (script := tmp_path / "program").write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    script.chmod(0o755)
    run_git(folder, "config", "core.fsmonitor", str(script))
    (hook := folder / ".git" / "hooks" / "post-index-change").parent.mkdir(exist_ok=True)
    hook.write_text(script.read_text())
    hook.chmod(0o755)
    index = (folder / ".git" / "index").stat().st_mtime_ns
    os.utime(folder / "strategies" / "mine.py", (1, 1))  # git would note that its content is the same
    assert checkout_commit(folder) == number
    assert not (tmp_path / "started").exists()
    assert (folder / ".git" / "index").stat().st_mtime_ns == index


def test_without_git_or_a_commit_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_git(tmp_path, "init", "-q")
    assert checkout_commit(tmp_path) == ""
    assert checkout_commit(tmp_path / "missing") == ""
    monkeypatch.setenv("PATH", "")
    assert checkout_commit(ROOT) == ""


def test_a_git_that_hangs_costs_no_run(checkout: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*args: object, timeout: float, **more: object) -> str:
        raise subprocess.TimeoutExpired("git", timeout)

    monkeypatch.setattr(provenance.subprocess, "check_output", hangs)
    assert checkout_commit(checkout[0]) == ""


class Installed:
    """A distribution as pip leaves it."""

    def __init__(self, folder: Path, direct_url: str | None) -> None:
        self.folder, self.direct_url = folder, direct_url

    @property
    def files(self) -> list[Path]:
        if self.direct_url is None:
            return []
        (origin := self.folder / "direct_url.json").write_text(self.direct_url, encoding="utf-8")
        return [self.folder / "RECORD", origin]

    def locate_file(self, name: str) -> Path:
        return self.folder / name


@pytest.mark.parametrize(
    ("direct_url", "number"),
    [
        ('{"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc1"}}', "abc1"),
        ('{"url": "file:///x", "dir_info": {"editable": true}}', ""), ('{"vcs_info": null}', ""), ("[]", ""), ("{", ""),
        (None, ""),
    ],
)  # fmt: skip
def test_the_commit_of_a_wheel_is_what_pip_recorded(
    direct_url: str | None, number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "distribution", lambda name: Installed(tmp_path, direct_url))
    assert installed_commit(tmp_path) == number
    assert installed_commit(tmp_path / "other") == "", "another installation than the one that runs"


def test_code_is_what_a_checkout_has() -> None:
    assert all((ROOT / name).is_dir() for name in CODE_FOLDERS)
    assert ROOT.resolve() == provenance.ROOT
