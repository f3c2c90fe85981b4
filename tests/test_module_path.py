"""Whatever lies in the working folder or on PYTHONPATH, the product's own packages are those beside it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWN = ("tasks", "strategies", "encoders")
NOT_OURS = "raise RuntimeError('not ours')"
MAIN = "import sys; from benchmark.cli.commands import main; sys.argv[0] = 'al-benchmark'; main()"


def fill(folder: Path, *names: str) -> None:
    """Modules and packages of these names that must not be imported."""
    for number, name in enumerate(names):
        path = folder / f"{name}.py" if number % 2 else folder / name / "__init__.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(NOT_OURS)


def run(*command: str, cwd: Path, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=environment)


def test_the_working_folder_shadows_nothing(tmp_path: Path) -> None:
    """Nor a library: `random.py` is what somebody's first strategy is called."""
    fill(tmp_path, *OWN, "random", "yaml", "hydra", "wandb")
    done = run("-m", "benchmark", "list", "strategies", "format=json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "random" in {row["name"] for row in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "words",
    [
        ("run", "tasks=[digits[epochs=1]]", "strategies=[random]", "seeds=1", "rounds=1", "device=cpu", "out=out"),
        ("list", "grids"),
        ("new", "strategy", "mine_only", "plugins=mine"),
        pytest.param(("check", "margin"), marks=pytest.mark.slow),
    ],
    ids=["run", "list", "new", "check"],
)
def test_no_command_takes_what_lies_in_the_working_folder(words: tuple[str, ...], tmp_path: Path) -> None:
    fill(tmp_path, "tests", *OWN, "configs", "random")
    (tmp_path / "configs" / "grid").mkdir(parents=True, exist_ok=True)
    (tmp_path / "configs" / "grid" / "quick.yaml").write_text("not: ours\n")
    (tmp_path / "configs" / "config.yaml").write_text("not: ours\n")
    done = run("-m", "benchmark", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_script_shadows_nothing_wherever_it_is_called(tmp_path: Path) -> None:
    """The script has its own folder first on the module path; here it is started so that there is none."""
    fill(tmp_path, "benchmark", *OWN)
    done = run("-P", "-c", MAIN, "list", "tasks", "format=json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "digits" in {row["name"] for row in json.loads(done.stdout)}


def test_pythonpath_shadows_none_of_our_packages_and_processes_inherit_that(tmp_path: Path) -> None:
    fill(tmp_path, *OWN)
    (tmp_path / "main.py").write_text(
        "import importlib, multiprocessing\n"
        "def where(name): return importlib.import_module(f'benchmark.{name}').__path__[0]\n"
        "if __name__ == '__main__':\n"
        "    from benchmark.plugins import discovery\n"
        "    discovery.discover()\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        f"        print(*pool.map(where, {OWN}), sep='\\n')\n"
    )
    done = run("-P", str(tmp_path / "main.py"), cwd=tmp_path, path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(ROOT / name) for name in OWN]


def test_a_copy_of_the_checkout_runs_its_own_code(tmp_path: Path) -> None:
    """As in a git worktree, beside an installation of another one."""
    for name in ("benchmark", "configs", "results/published", *OWN):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = (ROOT / "strategies" / "random.py").read_text()
    (tmp_path / "strategies" / "only_here.py").write_text(code.replace("def random(", "def only_here("))
    done = run("-m", "benchmark", "list", "strategies", "format=json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "only_here" in {row["name"] for row in json.loads(done.stdout)}


def test_packages_can_be_walked_to_their_end() -> None:
    """In a checkout the folder that holds `benchmark` is on its path: it must not be found in itself."""
    code = (
        "import benchmark, pkgutil; print(*(m.name for m in pkgutil.walk_packages(benchmark.__path__, 'benchmark.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=100)
    names = done.stdout.split()
    assert {"benchmark.strategies.isal", "benchmark.runner.loop"} <= set(names)
    assert not [name for name in names if name.startswith("benchmark.benchmark.")]


@pytest.mark.slow
def test_workers_of_ray_take_no_module_of_the_working_folder(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    fill(tmp_path, "random", "benchmark", *OWN)
    words = ["tasks=[digits[epochs=1]]", "strategies=[random]", "seeds=1", "rounds=1", "validation=0", "device=cpu"]
    done = run("-P", "-c", MAIN, "run", *words, "launcher=ray", "out=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
