"""What a plug-in changes in torch or in the process is restored, reported, and named by `check`."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from _cells import FAULTY, bytes_of, cell, run

from benchmark.api import Machine
from benchmark.conformance.checks import run_checks
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery, registry
from benchmark.runner.events import Failure, Round
from benchmark.runner.time_limit import time_limit
from benchmark.system import process_state, remarks
from benchmark.system.process_state import isolate_plugin, restore, snapshot

discovery.discover(FAULTY)
CHANGES = sys.modules[registry.get("strategy", "leaves").function.__module__].CHANGES
STATES = [name for name in CHANGES if name != "seeds"]


@pytest.fixture(autouse=True)
def state() -> Iterator[None]:
    """Restores the state after a test, and forgets which remarks were made before it.

    Jobs in the background of a shell ignore Ctrl-C; here it interrupts, as in the foreground.
    """
    before = snapshot()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    remarks.remark_once.cache_clear()
    yield
    restore(before)


def remarks_of(act: Callable[[], object]) -> list[str]:
    """Returns the remarks that are made in the block."""
    lines = list[str]()
    remarks.send_remarks_to(lines.append)
    act()
    return lines


def call(change: Callable[[], object], seed: int = 0) -> None:
    """Calls a function in a block of its own."""
    with isolate_plugin("it", seed):
        change()


@pytest.mark.parametrize("name", STATES)
def test_what_a_block_leaves_changed_is_put_back_and_said(name: str) -> None:
    before = snapshot()
    [line] = remarks_of(lambda: call(CHANGES[name]))
    assert line.startswith("it leaves changed: ")
    assert line.endswith("; it is restored, so that other cells are the same")
    assert snapshot() == before


def test_a_tidy_block_says_nothing_and_nothing_is_said_twice() -> None:
    assert remarks_of(lambda: call(lambda: None)) == []
    twice = remarks_of(lambda: [call(CHANGES["dtype"]) for _ in range(2)])
    assert twice == ["it leaves changed: the default dtype; it is restored, so that other cells are the same"]
    [line] = remarks_of(lambda: call(CHANGES["environment"]))
    assert "the environment (AL_UNTIDY, OMP_NUM_THREADS);" in line


def test_state_is_put_back_where_the_block_is_ended() -> None:
    before = snapshot()

    def hang() -> None:
        for name in STATES:
            if name != "alarm":  # which would be the only one
                CHANGES[name]()
        torch.set_default_device("cpu")
        while True:
            time.sleep(0.01)

    with pytest.raises(TimeoutError, match="did not select"), isolate_plugin("it", 0), time_limit(0.05, "it"):
        hang()
    assert snapshot() == before
    with pytest.raises(SystemExit):
        call(lambda: (CHANGES["gradients"](), sys.exit(0)))
    assert snapshot() == before


def test_mixed_precision_left_open_leaves_no_stale_weights_behind() -> None:
    layer, ones = torch.nn.Linear(4, 4, bias=False), torch.ones(1, 4)
    call(lambda: (CHANGES["autocast"](), layer(ones)))
    with torch.autocast("cpu"):
        before = layer(ones)
    torch.nn.init.constant_(layer.weight, 2.0)
    with torch.autocast("cpu"):
        assert layer(ones).tolist() == [[8.0] * 4] != before.tolist()


def test_what_cannot_be_put_back_is_said(tmp_path: Path) -> None:
    home = Path.cwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")

    def leave() -> None:
        os.chdir(home)
        (tmp_path / "gone").rmdir()

    lines = remarks_of(lambda: call(leave))
    assert lines[1:] == ["it: cannot be restored: the working folder: other cells may differ; run it alone"]


def test_a_library_may_change_what_libraries_change_when_it_is_imported(tmp_path: Path) -> None:
    (tmp_path / "lazy_library_of_a_test.py").write_text(
        "import os, warnings\nos.environ['AL_LAZY'] = '1'\nwarnings.simplefilter('ignore')\n"
    )
    sys.path.append(str(tmp_path))
    before = snapshot()
    assert remarks_of(lambda: call(lambda: __import__("lazy_library_of_a_test"))) == []
    assert snapshot() == before
    sys.path.remove(str(tmp_path))


def test_a_library_that_is_loaded_with_threads_of_its_own_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = process_state.thread_pools(0)

    def load() -> None:
        more = types.SimpleNamespace(filepath="new", num_threads=3, set_num_threads=lambda number: None)
        monkeypatch.setattr(process_state, "thread_pools", lambda num_modules: [more, *pools])

    assert remarks_of(lambda: call(load)) == []
    [line] = remarks_of(lambda: call(CHANGES["blas"]))
    assert "numbers of threads" in line


# --- global generators ------------------------------------------------------------------------
def draw() -> tuple[float, float, float]:
    """Draws a number from each global generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_global_generators_are_the_blocks_own() -> None:
    draws = list[tuple[float, float, float]]()
    CHANGES["seeds"]()
    expected = draw()
    CHANGES["seeds"]()
    for seed in (1, 1, 2):
        call(lambda: draws.append(draw()), seed)
    call(CHANGES["seeds"])
    assert draw() == expected
    assert draws[0] == draws[1] != draws[2]
    assert remarks_of(lambda: call(draw)) == []


def test_a_strategy_that_draws_from_global_generators_repeats_itself_and_differs_by_seed(tmp_path: Path) -> None:
    cells = [cell("forgetful", task="shelf", seed=number) for number in (0, 1)]
    bought = [
        [event.record.bought for event in run(cells, tmp_path / name) if isinstance(event, Round)] for name in "ab"
    ]
    assert bought[0] == bought[1]
    assert bought[0][1] != bought[0][2] != bought[0][4]
    assert len({tuple(purchase) for purchase in bought[0]}) == 6


# --- runs -------------------------------------------------------------------------------------
@pytest.mark.parametrize("changed", ["all", "device"])
def test_cells_beside_a_strategy_that_leaves_everything_changed_are_as_without_it(tmp_path: Path, changed: str) -> None:
    others = [cell("random"), cell("margin")]
    run(others, tmp_path / "without")
    untidy = cell(f"leaves[changed={changed}]")
    events = run([untidy, *others], tmp_path / "with")
    assert not [event.trace for event in events if isinstance(event, Failure)]
    without = bytes_of(tmp_path / "without" / "run")
    contents = bytes_of(tmp_path / "with" / "run")
    assert {path: contents[path] for path in without} == without
    assert len(contents) == 3


def test_a_run_says_it_once_a_strategy_and_records_everything(
    tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    grid = ["tasks=[shelf]", "rounds=4", "initial=20", "budget=5", "validation=10", "seeds=2", "device=cpu"]
    words = [*grid, "strategies=[random,leaves,leaves[changed=folder]]", f"plugins={FAULTY}", f"out={tmp_path / 'run'}"]
    code, said = command("run", *words)
    assert code == 0, said
    assert said.count("leaves leaves changed: gradients on or off; it is restored") == 1
    assert said.count("leaves[changed=folder] leaves changed: the working folder; it is restored") == 1
    assert said.count("leaves changed") == 2
    assert "cannot be restored" not in said
    assert sum(content.count(b"\n") for content in bytes_of(tmp_path / "run").values()) == 6 * 5


@pytest.mark.parametrize("part", ["build", "fit", "score"])
def test_a_task_is_contained_too(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one_cell = cell("random", task="shelf")
    kind = sys.modules[registry.get("task", "shelf").function.__module__].Shelf
    method = {"build": "__init__"}.get(part, part)
    original = getattr(kind, method)

    def untidy(*args: object, **named: object) -> object:
        torch.set_default_dtype(torch.float64)
        return original(*args, **named)

    monkeypatch.setattr(kind, method, untidy)
    before = snapshot()
    lines = remarks_of(lambda: run([one_cell], tmp_path))
    assert lines == ["shelf leaves changed: the default dtype; it is restored, so that other cells are the same"]
    assert snapshot() == before


@pytest.mark.parametrize("part", ["cost", "pictures"])
def test_other_questions_to_a_task_are_contained_too(
    tmp_path: Path, command: Callable[..., tuple[int, str]], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(build_digits())
    original = getattr(kind, part)

    def untidy(*args: object, **named: object) -> object:
        torch.set_default_dtype(torch.float64)
        return original(*args, **named)

    monkeypatch.setattr(kind, part, untidy)
    grid = ["tasks=[digits[epochs=1]]", "strategies=[random]", "rounds=2", "initial=20", "budget=5", "seeds=1"]
    code, said = command("run", *grid, "device=cpu", f"out={tmp_path / 'run'}")
    assert code == 0, said
    assert "digits[epochs=1] leaves changed: the default dtype; it is restored" in said
    assert torch.get_default_dtype() == torch.float32


def build_digits() -> object:
    """Returns the task."""
    return registry.get("task", "digits").build(Machine(torch.device("cpu")), Spec.read("task", "digits").values)


def test_a_plug_in_file_that_changes_things_when_it_is_imported(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import os, torch, warnings\ntorch.set_default_dtype(torch.float64)\ntorch.manual_seed(0)\n"
        "os.environ['AL_LOUD'] = '1'\n"
    )
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    line, _ = remarks_of(lambda: discovery.load_folder(tmp_path))
    assert line.startswith(f"{tmp_path / 'loud.py'} leaves changed: the default dtype;")
    assert torch.get_default_dtype() == torch.float32
    assert torch.rand(()) == expected
    assert os.environ["AL_LOUD"] == "1"  # what it may want for a library


# --- check ------------------------------------------------------------------------------------
TITLE = "it leaves torch and the process as they were"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("leaves", "it leaves changed: gradients on or off: restore what you change"),
        ("leaves[changed=warnings]", "it leaves changed: warnings:"),
        ("leaves[changed=environment]", "it leaves changed: the environment (AL_UNTIDY, OMP_NUM_THREADS):"),
        ("leaves[changed=nothing]", ""),
        ("lingers", "it leaves changed: lingering still running:"),
    ],
)
def test_check_names_what_a_strategy_leaves_changed(name: str, words: str) -> None:
    before = snapshot()
    findings = run_checks(Spec.read("strategy", name), Spec.read("task", "shelf"), Machine(torch.device("cpu")))
    [finding] = [each for each in findings if each.check == TITLE]
    assert finding.message.startswith(words)
    assert bool(finding.message) == bool(words)
    assert snapshot() == before
    assert not [
        each for each in findings if each.check == "it returns `budget` distinct unlabelled images" and each.message
    ]


def test_check_names_what_a_task_leaves_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = sys.modules[registry.get("task", "shelf").function.__module__].Shelf
    score = kind.score
    monkeypatch.setattr(kind, "score", lambda *args: warnings.simplefilter("ignore") or score(*args))
    spec = Spec.read("task", "shelf")
    [finding] = [each for each in run_checks(spec, spec, Machine(torch.device("cpu"))) if each.check == TITLE]
    assert finding.message.startswith("it leaves changed: warnings:")


def test_containing_a_call_costs_less_than_a_millisecond() -> None:
    durations = list[float]()
    for _ in range(50):
        start_time = time.process_time()
        call(lambda: None)
        durations.append(time.process_time() - start_time)
    assert sorted(durations)[25] < 1e-3
