"""Cells on Ray: the same bytes as without it, whatever happens to the workers; and the parts that need no Ray."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _cells import FAULTY, bytes_of, cell, run
from _processes import MISHAPS, marked_with

from benchmark import config
from benchmark.api import Machine
from benchmark.cli.commands import main
from benchmark.experiment.cell import Cell
from benchmark.experiment.variants import STAGGERED
from benchmark.plugins import discovery, registry
from benchmark.records.record import Header
from benchmark.records.store import Store
from benchmark.runner import events as runner_events
from benchmark.runner.events import CellStarted, Failure, Round
from benchmark.runner.fit_cache import FitCache, fit_lock
from benchmark.runner.launchers.worker import SerializedCell, Worker
from benchmark.runner.launchers.worker_pool import choose_cell, first_fit_key
from benchmark.runner.task_loading import TaskLoader
from benchmark.system import remarks

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}


# --- without Ray ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["launcher=slurm"], "launcher=slurm: must be one of local, ray"),
        (["cpus_per_cell=1"], "cpus_per_cell=1: has no effect with launcher=local: set launcher=ray"),
        (["gpus_per_cell=0.5"], "gpus_per_cell=0.5: has no effect with launcher=local: set launcher=ray"),
        (["ray_address=auto"], "ray_address=auto: has no effect with launcher=local: set launcher=ray"),
        (["launcher=ray", "cpus_per_cell=0"], "cpus_per_cell=0: must be at least 1"),
        (["launcher=ray", "cpus_per_cell=0.5"], "must be a whole number or null"),
        (["launcher=ray", "gpus_per_cell=0"], "gpus_per_cell=0.0: must be greater than 0 and at most 1"),
        (["launcher=ray", "gpus_per_cell=1.5"], "gpus_per_cell=1.5: must be greater than 0 and at most 1"),
        (["launcher=ray", "gpus_per_cell=nan"], "gpus_per_cell=nan"),
        (["launcher=ray", "gpus_per_cell=0.5", "device=cpu"], "gpus_per_cell=0.5: has no effect with device=cpu"),
        (["launcher=ray", "device=cuda:1"], "device=cuda:1: Ray chooses the GPU: set device=cuda"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(words: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        config.compose_settings(words)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "threads"),
    [
        ([], None),
        (["threads=3"], 3),
        (["launcher=ray"], 1),
        (["launcher=ray", "cpus_per_cell=2"], 2),
        (["launcher=ray", "threads=3"], 3),
    ],
)
def test_a_worker_has_a_thread_a_cpu_unless_told_otherwise(words: list[str], threads: int | None) -> None:
    assert config.compose_settings(["grid=cifar10", *words]).num_threads == threads


def test_without_ray_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "benchmark.runner.launchers.ray_launch", raising=False)
    monkeypatch.setattr(sys, "argv", ["benchmark", "run", "launcher=ray", f"out={tmp_path / 'out'}", "seeds=1"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == ("error: launcher=ray: not installed: pip install -e '.[ray]'")


class Slow:
    """The task of a cell; it counts its fits and takes its time over them."""

    def __init__(self, of_cell: Cell) -> None:
        self.task: Any = of_cell.task.plugin.build(Machine(torch.device("cpu")), of_cell.task.values)
        self.fits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def fit(self, *args: Any) -> torch.nn.Module:
        self.fits += 1
        time.sleep(0.3)
        model: torch.nn.Module = self.task.fit(*args)
        return model


def together(asks: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=ask) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(("cache_gb", "num_fits"), [(1.0, 1), (0.0, 2)])
def test_two_that_ask_for_the_same_fit_train_it_once(tmp_path: Path, cache_gb: float, num_fits: int) -> None:
    one_cell = cell("random", task="shelf")
    task, fitted = Slow(one_cell), list[Any]()

    def ask() -> None:
        fits = FitCache(tmp_path, cache_gb, "cpu")
        fitted.append(fits.fit(task, one_cell.task, np.arange(20), 7, None, ""))  # type: ignore[arg-type]

    together([ask, ask])
    assert task.fits == num_fits
    assert sorted(fit.from_cache for fit in fitted) == [False, num_fits == 1]
    assert torch.equal(fitted[0].model.weight, fitted[1].model.weight)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"] * (cache_gb > 0)


def test_a_fit_whose_holder_was_killed_is_free_and_its_draft_goes(tmp_path: Path) -> None:
    path = tmp_path / "key.safetensors"
    code = (
        "import os, sys, time; from pathlib import Path; from benchmark.runner.fit_cache import fit_lock\n"
        "with fit_lock(Path(sys.argv[1])):\n"
        "    Path(sys.argv[1]).with_name(f'key.{os.getpid()}.draft').touch(); print(flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, path], env=ENVIRONMENT, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    FitCache(tmp_path, 1.0, "cpu")
    assert {file.suffix for file in tmp_path.iterdir()} == {".draft", ".lock"}  # in use
    holder.kill()
    holder.communicate()
    with fit_lock(path):
        pass
    (tmp_path / "other.lock").touch()
    FitCache(tmp_path, 1.0, "cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_fit_is_free_once_it_is_trained_whatever_was_forked_meanwhile(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, threading, time\nfrom pathlib import Path\n"
        "from benchmark.runner.fit_cache import fit_lock\n"
        "path = Path(sys.argv[1])\n"
        "def wait():\n"
        "    with fit_lock(path): pass\n"
        "waiter = threading.Thread(target=wait, daemon=True)\n"
        "with fit_lock(path):\n"
        "    child = os.fork()\n"
        "    if not child: time.sleep(60); os._exit(0)\n"
        "    waiter.start(); time.sleep(0.3); assert waiter.is_alive()\n"
        "waiter.join(20); print(waiter.is_alive()); os.kill(child, signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "key"], env=ENVIRONMENT, capture_output=True)
    assert done.stdout == b"False\n", done.stderr


def test_a_folder_that_takes_no_lock_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with fit_lock(tmp_path / "file" / "key.safetensors"):
        pass


# --- with Ray -------------------------------------------------------------------------------
@pytest.fixture
def mishaps(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "mishap.py").write_text(MISHAPS)
    return folder


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Removes the plug-in of this test from the registry."""
    yield
    registry.REGISTRY["strategy"].pop("mishap", None)


def on_ray(cells: list[Cell], folder: Path, plugins_in: Path = FAULTY, *words: str) -> list[runner_events.Event]:
    pytest.importorskip("ray")
    from benchmark.runner.launchers import ray_launch

    out = folder / "run"
    settings = config.compose_settings(["launcher=ray", "device=cpu", f"out={out}", f"plugins={plugins_in}", *words])
    return list(ray_launch.run_on_ray(cells, Store(out), settings))


def rounds(events: list[Any]) -> list[Round]:
    assert not [event.trace for event in events if isinstance(event, Failure)]
    return [event for event in events if isinstance(event, Round)]


@pytest.mark.parametrize(
    ("share", "resources", "number"),
    [
        ((1, 0), {"CPU": 8}, 8),
        ((3, 0), {"CPU": 8}, 2),
        ((1, 0), {}, 0),
        ((1, 1), {"CPU": 64, "GPU": 8}, 8),
        ((1, 0.5), {"CPU": 64, "GPU": 8}, 16),
        ((1, 0.4), {"CPU": 64, "GPU": 8}, 16),
        ((16, 0.5), {"CPU": 64, "GPU": 8}, 4),
        ((1, 0.1), {"CPU": 64, "GPU": 1}, 10),
        ((1, 1), {"CPU": 64}, 0),
        ((1, 4.0), {"CPU": 64, "GPU": 10}, 2),
    ],
)
def test_room_on_a_node(share: tuple[int, float], resources: dict[str, float], number: int) -> None:
    ray_launch = pytest.importorskip("benchmark.runner.launchers.ray_launch", exc_type=ImportError)
    assert ray_launch.WorkerResources(*share).num_on_node(resources) == number


def test_a_cell_travels_to_a_worker_with_its_variant() -> None:
    cells = [dataclasses.replace(cell(name), variant=variant) for variant in STAGGERED for name in ("random", "margin")]
    assert [SerializedCell.from_cell(each).to_cell() for each in cells] == cells
    assert choose_cell(cells, "", {first_fit_key(cells[0])}) == 4  # whose first training nobody is at


def test_a_worker_outlives_a_plug_in_that_exits(tmp_path: Path) -> None:
    worker = Worker(dataclasses.asdict(config.compose_settings([f"plugins={FAULTY}"])), str(tmp_path))
    worker.tasks = TaskLoader(Machine(torch.device("cpu")))
    for how, kind in (("exit", "SystemExit"), ("own", "OddError"), ("mute", "MuteError")):
        order = SerializedCell.from_cell(cell(f"ends[how={how}]", task="shelf"))
        header, (first, _), fault = worker.run(order, [])
        assert isinstance(header, Header)
        assert (first.round, fault.type_name, fault.whole_task) == (0, kind, False)
    [fault] = worker.run(SerializedCell.from_cell(cell("random", task="ending_task")), [])
    assert (fault.type_name, fault.text, fault.whole_task) == ("RuntimeError", "SystemExit: 0", True)


def test_a_worker_puts_back_what_a_strategy_leaves_changed_and_sends_the_remark(tmp_path: Path) -> None:
    worker = Worker(dataclasses.asdict(config.compose_settings([f"plugins={FAULTY}"])), str(tmp_path))
    worker.tasks = TaskLoader(Machine(torch.device("cpu")))
    order = SerializedCell.from_cell(cell("leaves", task="shelf", rounds=3))
    remarks.send_remarks_to(worker.remarks.append)
    remarks.remark_once.cache_clear()
    answers, results = list[Any](), worker.run(order, [])
    with contextlib.suppress(StopIteration):
        while True:
            answers.append(results.send(None if not answers else 0))  # as Ray asks for them
    assert [type(answer) for answer in answers] == [Header, tuple, str, tuple, tuple]
    assert answers[2].startswith("leaves leaves changed: gradients on or off;")
    assert torch.is_grad_enabled()
    rounds = worker.run(order, [])
    next(rounds), next(rounds)
    rounds.close()


def test_a_cell_travels_as_plain_data() -> None:
    one_cell = cell(
        "isal[depth=5,repeats=2]", rounds=5, task="digits[epochs=2]", budget_in="boxes", until="map 0.2 +- 0.1"
    )
    assert SerializedCell.from_cell(one_cell).to_cell() == one_cell
    assert json.loads(json.dumps(dataclasses.asdict(SerializedCell.from_cell(one_cell)))) == dataclasses.asdict(
        SerializedCell.from_cell(one_cell)
    )
    with pytest.raises(ValueError, match="other versions of these plug-ins"):
        dataclasses.replace(SerializedCell.from_cell(one_cell), key="0").to_cell()


def worker_of(folder: Path, *words: str) -> Any:
    """Returns a worker, without Ray, that shares the fits of `run` in this folder."""
    settings = config.compose_settings(
        ["launcher=ray", "device=cpu", f"out={folder / 'run'}", f"plugins={FAULTY}", *words]
    )
    return Worker(dataclasses.asdict(settings), str(folder / "fits"))


def test_a_worker_says_to_its_driver_that_a_fit_is_damaged(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, "threads=1")
    order = SerializedCell.from_cell(cell("random", rounds=2))
    assert len(list(worker.run(order, []))) == 3
    [damaged, _] = sorted((tmp_path / "fits").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    answers = list(worker.run(order, []))
    remarks.send_remarks_to(print)  # the worker heard all of this process
    assert sorted(type(part).__name__ for part in answers) == ["Header", "str", "tuple", "tuple"]
    [line] = [part for part in answers if isinstance(part, str)]
    assert line.startswith(f"{damaged} is damaged (its digest does not fit): it is removed")


def test_a_worker_with_another_torch_runs_nothing_unless_versions_may_mix(tmp_path: Path) -> None:
    order = SerializedCell.from_cell(cell("random"))
    other = dataclasses.replace(order, torch="1.0")
    with pytest.raises(ValueError, match=r"the worker has torch \d+\.\d+, not 1.0: install the same on every node"):
        worker_of(tmp_path).read_cell(other)
    assert worker_of(tmp_path, "mix_versions=true").read_cell(other) == cell("random")
    remarks.send_remarks_to(print)


ray_test = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray's own warnings


class TestOnRay:
    pytestmark = ray_test

    def test_two_workers_write_the_same_bytes_and_share_fits(self, tmp_path: Path) -> None:
        cells = [cell(name, seed=seed) for seed in (0, 1) for name in ("random", "margin", "learning_loss")]
        cells.append(cell("random", rounds=5, task="shelf", budget=40, budget_in="boxes"))
        run(cells, tmp_path / "here")
        events = on_ray(cells, tmp_path / "ray")
        assert bytes_of(tmp_path / "ray" / "run") == bytes_of(tmp_path / "here" / "run")
        assert {event.cell for event in events if isinstance(event, CellStarted)} == set(cells)
        assert len(rounds(events)) == 23
        shared = {event.cell: event.measured.shared_fit for event in rounds(events) if event.record.round == 0}
        assert [sum(shared[each] for each in cells[i : i + 2]) for i in (0, 3)] == [1, 1]
        assert {path.suffix for path in (tmp_path / "ray" / "run" / ".fits").iterdir()} == {".safetensors"}

    def test_two_cells_that_wait_for_the_same_fit_train_it_once(self, tmp_path: Path) -> None:
        events = rounds(on_ray([cell("random", rounds=1), cell("margin", rounds=1)], tmp_path))
        assert sorted(event.measured.shared_fit for event in events) == [False, True]
        assert len(list((tmp_path / "run" / ".fits").iterdir())) == 1

    def test_a_strategy_that_raises_fails_alone(self, tmp_path: Path) -> None:
        events = on_ray([cell("crash"), cell("nan"), cell("random")], tmp_path)
        failures = {event.cell.strategy.name: event for event in events if isinstance(event, Failure)}
        assert failures["crash"].line.endswith("crash seed 0: KeyError: 'a bug in a strategy'")
        assert "faulty.py" in failures["crash"].trace
        assert failures["nan"].line.endswith("nan seed 0: 1 of 1267 scores are NaN")
        assert sum(isinstance(event, Round) and event.cell.strategy.name == "random" for event in events) == 3
        store = Store(tmp_path / "run")
        assert "Traceback" in (store.read_failure(failures["crash"].cell.path) or "")
        assert len(store.records(failures["crash"].cell.path)[1]) == 1  # round 0 stays

    def test_a_task_that_cannot_be_had_fails_with_all_of_its_cells(self, tmp_path: Path) -> None:
        cells = [cell("random", task=f"image_folder[root={tmp_path / 'nowhere'}]"), cell("random", rounds=1)]
        events = on_ray(cells, tmp_path)
        [failure] = [event for event in events if isinstance(event, Failure)]
        assert failure.whole_task
        assert failure.cell == cells[0]

    @pytest.mark.usefixtures("forgotten")
    def test_lost_and_starved_workers_cost_a_round_and_then_are_told(self, tmp_path: Path, mishaps: Path) -> None:
        discovery.discover(mishaps)
        names = ["killed", "starved", "always_killed", "always_starved"]
        cells = [cell(f"mishap[what={what},at=25]", rounds=4) for what in names]
        events = on_ray(cells, tmp_path / "ray", mishaps)
        failed = {event.cell.strategy.label: event.line for event in events if isinstance(event, Failure)}
        assert [name.split("=")[-1] for name in failed] == ["always_killed]", "always_starved]"]
        killed, starved = failed.values()
        assert "ActorDiedError: The actor died unexpectedly" in killed
        assert "OutOfMemoryError: CUDA out of memory" in starved
        num_started = [sum(isinstance(e, CellStarted) and e.cell == each for e in events) for each in cells]
        assert num_started == [2, 2, 4, 2]
        for each, num_rounds in zip(cells, [4, 4, 2, 2], strict=True):
            done = [e.record.round for e in events if isinstance(e, Round) and e.cell == each]
            assert done == list(range(num_rounds))  # none twice: the round in flight alone was lost
        run(cells[:2], tmp_path / "here")  # the flags lie there: nothing happens now
        here = bytes_of(tmp_path / "here" / "run")
        assert {path: bytes_of(tmp_path / "ray" / "run")[path] for path in here} == here

    @pytest.mark.usefixtures("forgotten")
    def test_cells_run_side_by_side(self, tmp_path: Path, mishaps: Path) -> None:
        discovery.discover(mishaps)
        cells = [cell("mishap[what=met,at=20]", rounds=2, seed=seed) for seed in (0, 1)]
        assert len(rounds(on_ray(cells, tmp_path / "ray", mishaps))) == 4

    def test_a_lost_node_costs_a_round_and_the_others_go_on(self, tmp_path: Path) -> None:
        cluster_utils = pytest.importorskip("ray.cluster_utils")
        from benchmark.runner.launchers import ray_launch

        cells = [cell(name, seed=seed, rounds=12) for seed in (0, 1) for name in ("random", "margin")]
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            other = cluster.add_node(num_cpus=1)
            words = ["launcher=ray", "device=cpu", f"out={tmp_path / 'ray'}", f"ray_address={cluster.address}"]
            events, received = (
                ray_launch.run_on_ray(cells, Store(tmp_path / "ray"), config.compose_settings(words)),
                list[Any](),
            )
            for event in events:
                received.append(event)
                counts = Counter(event.cell for event in rounds(received))
                if other is not None and sum(number < 12 for number in counts.values()) == 2:  # both in work
                    cluster.remove_node(other, allow_graceful=False)
                    other = None
        finally:
            cluster.shutdown()
        assert len(rounds(received)) == 48
        assert sum(isinstance(event, CellStarted) for event in received) == 5
        run(cells, tmp_path / "here")
        assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "here" / "run")

    def test_a_strategy_that_hangs_fails_alone(self, tmp_path: Path) -> None:
        events = on_ray([cell("hangs"), cell("random")], tmp_path, FAULTY, "select_timeout=1")
        [failure] = [event for event in events if isinstance(event, Failure)]
        assert failure.line.endswith("TimeoutError: select_timeout=1: hangs did not select within 1 s")
        assert sum(isinstance(event, Round) for event in events) == 4  # round 0 of the one, three of the other

    def test_a_repeatable_run_is_the_same_with_one_worker_or_many(self, tmp_path: Path) -> None:
        pytest.importorskip("ray")
        words = ["tasks=[digits[epochs=2]]", "initial=20", "budget=5", "validation=10", "rounds=3", "seeds=2"]
        words += ["strategies=[random,badge,isal[depth=5]]", "device=cpu", "deterministic=true"]
        command, devices = [sys.executable, "-m", "benchmark", "run", *words], {}
        for launcher in ("local", "ray"):
            out = tmp_path / launcher
            argv = [*command, f"launcher={launcher}", f"out={out}"]
            subprocess.run(argv, env=ENVIRONMENT, check=True, capture_output=True)
            cells = [name.removesuffix(".jsonl") for name in bytes_of(out)]
            devices[launcher] = set[str]().union(*map(Store(out).devices, cells))
        assert bytes_of(tmp_path / "local") == bytes_of(tmp_path / "ray")
        assert devices["local"] == devices["ray"]
        assert all(name.endswith("1 threads, deterministic)") for name in devices["ray"])

    def test_too_much_asked_of_the_nodes_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"^cpus_per_cell=1000: no node of Ray has as many"):
            on_ray([cell("random")], tmp_path, FAULTY, "cpus_per_cell=1000")

    def test_interrupted_it_leaves_every_round_and_no_process(self, tmp_path: Path) -> None:
        pytest.importorskip("ray")
        small = ["tasks=[digits[epochs=2]]", "initial=20", "budget=5", "validation=10", "rounds=12", "seeds=2"]
        words = [*small, "strategies=[random,margin]", "device=cpu", "threads=1"]
        command = [sys.executable, "-m", "benchmark", "run", *words]
        ray = [*command, "launcher=ray", f"out={tmp_path / 'ray'}"]
        marked = ENVIRONMENT | {"AL_BENCHMARK_MARK": str(tmp_path)}
        with subprocess.Popen(ray, env=marked, stderr=subprocess.PIPE, text=True, process_group=0) as process:
            assert process.stderr is not None
            lines = [line for line, _ in zip(process.stderr, range(6), strict=False)]
            os.killpg(process.pid, signal.SIGINT)
            rest = process.stderr.read()
            assert process.wait() == 1, rest
        assert "interrupted: every finished round is recorded" in rest
        num_told = sum(line.startswith("[") for line in [*lines, *rest.splitlines()])
        contents = bytes_of(tmp_path / "ray").values()
        assert 0 < num_told <= sum(content.count(b"\n") - 1 for content in contents) < 48
        start_time = time.monotonic()
        while remaining := marked_with(str(tmp_path)):
            assert time.monotonic() - start_time < 30, remaining
            time.sleep(0.2)
        subprocess.run(ray, env=ENVIRONMENT, check=True, capture_output=True)
        subprocess.run([*command, f"out={tmp_path / 'here'}"], env=ENVIRONMENT, check=True, capture_output=True)
        assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "here")
