"""The wheel works where the repository is not: its own modules, its own configs, a run of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; fails with its errors. The repository is not on its module path."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AL_BENCHMARK"))}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Installed:
    """A fresh environment with the wheel in it, and an empty folder to work in."""

    wheel: Path
    python: Path
    folder: Path

    def benchmark(self, *words: str) -> str:
        return run(self.python, "-m", "benchmark", *words, cwd=self.folder)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Builds and installs the wheel; its dependencies are those of this environment, seen through a .pth file."""
    top = tmp_path_factory.mktemp("wheel")
    folder = top / "elsewhere"
    folder.mkdir()
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", top, ROOT, cwd=folder)
    (wheel,) = top.glob("*.whl")
    home = top / "venv"
    venv.create(home)
    python = home / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(wheel, python, folder)


def test_it_holds_the_packages_and_the_configs(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"benchmark", "al_benchmark-0.1.0.dist-info"}
    for folder in ("strategies", "tasks", "encoders"):
        plugins = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(f"{folder}/**/*.py")}
        assert plugins == {name.removeprefix("benchmark/") for name in names if name.startswith(f"benchmark/{folder}/")}
    configs = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/**/*.yaml")}
    assert configs == {name.removeprefix("benchmark/") for name in names if name.startswith("benchmark/configs/")}
    assert "benchmark/configs/config.yaml" in names
    assert "benchmark/analysis/report.html" in names
    published = {path.name for path in ROOT.glob("results/published/*") if path.is_file()}
    assert published == {Path(name).name for name in names if re.fullmatch(r"benchmark/published/[^/]+", name)}


def test_only_benchmark_is_new_on_the_top_level(installed: Installed) -> None:
    site = run(installed.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=installed.folder)
    there = {path.name for path in Path(site.strip()).iterdir()} - {"dependencies.pth"}
    assert {name for name in there if not name.startswith(("pip", "setuptools", "__pycache__"))} == {
        "benchmark",
        "al_benchmark-0.1.0.dist-info",
    }


def test_its_modules_are_its_own(installed: Installed) -> None:
    names = "benchmark, benchmark.strategies, benchmark.tasks, benchmark.encoders"
    code = f"import {names}; [print(m.__path__[0]) for m in ({names})]"
    paths = run(installed.python, "-c", code, cwd=installed.folder).splitlines()
    assert len(paths) == 4
    assert all(Path(path).is_relative_to(installed.python.parent.parent) for path in paths), paths


def test_it_lists_strategies_and_grids(installed: Installed) -> None:
    assert "random" in installed.benchmark("list", "strategies")
    assert "quick" in installed.benchmark("list", "grids")
    script = installed.python.with_name("al-benchmark")
    assert "quick" in run(script, "list", "grids", cwd=installed.folder)


def test_what_lies_in_the_working_folder_changes_nothing(installed: Installed, tmp_path: Path) -> None:
    """A user's tasks.py, strategies/, encoders/, configs/ and tests/, and files that are called as libraries are."""
    for name in ("tasks.py", "random.py", "strategies/__init__.py", "encoders/__init__.py", "tests/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('not ours')")
    (tmp_path / "configs" / "grid").mkdir(parents=True)
    for name in ("config", "grid/quick"):
        (tmp_path / "configs" / f"{name}.yaml").write_text("not: ours\n")
    small = ("tasks=[digits[epochs=1]]", "strategies=[random]", "seeds=1", "rounds=1", "device=cpu", "out=out")
    plugins = f"plugins={tmp_path / 'mine'}"
    script = installed.python.with_name("al-benchmark")
    for command in ([installed.python, "-m", "benchmark"], [script]):
        assert "digits" in run(*command, "list", "tasks", cwd=tmp_path)
        assert "random" in run(*command, "run", *small, cwd=tmp_path)
        assert "failed" not in run(*command, "check", "margin", cwd=tmp_path)
    run(script, "new", "strategy", "mine_only", plugins, cwd=tmp_path)
    assert "mine_only" in run(script, "list", "strategies", plugins, cwd=tmp_path)
    (tmp_path / "random.py").unlink()  # `python -c` itself would take it for the library
    code = "import benchmark; print(len(benchmark.load('out').frame()), len(benchmark.published().names))"
    assert run(installed.python, "-c", code, cwd=tmp_path).split()[0] == "1"


def test_it_runs_a_grid(installed: Installed) -> None:
    small = ("tasks=[digits]", "strategies=[random]", "seeds=1", "rounds=2")
    shown = installed.benchmark("run", *small, f"out={installed.folder / 'records'}")
    assert "random" in shown
    (records,) = (installed.folder / "records" / "cells").rglob("*.jsonl")
    rounds = [json.loads(line)["body"] for line in records.read_text().splitlines()[1:]]
    assert [record["round"] for record in rounds] == [0, 1]


def test_it_answers_from_published_curves(installed: Installed) -> None:
    assert "11.8" in installed.benchmark("savings", "records=published", "task=cifar10", "strategy=isal")
    assert "isal-2021" in installed.benchmark("list", "published")
    page = installed.benchmark(
        "report", "records=published", "task=isal_2021_cifar10", f"to={installed.folder / 'page'}"
    )
    assert "45.51799931" in Path(page.strip()).read_text()
