"""Runs cells on Ray, on this machine or a cluster: whole cells in workers; the driver, this process, records them.

A worker is an actor that runs one cell after the other. It is given plain data and finds the plug-ins itself; what
comes back are rounds. So workers need no folder in common with the driver, and a lost one costs the round in flight.
"""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import ray
import torch
from ray.exceptions import OutOfMemoryError, RayError

from benchmark.api import Machine, Task
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Misfit, Schedule
from benchmark.experiment.settings import Settings
from benchmark.experiment.spec import Spec
from benchmark.experiment.variants import Variant
from benchmark.plugins import discovery
from benchmark.plugins.home import HOME
from benchmark.records.agreement import Mixture
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.records.versions import minor
from benchmark.runner import loop
from benchmark.runner.fits import Fits
from benchmark.runner.launch import Event, Failure, Round, Started, build
from benchmark.runner.machine import prepared
from benchmark.seeds import seed
from benchmark.system import remarks
from benchmark.system.files import Unwritable
from benchmark.system.process_state import contained
from benchmark.text.words import message

RETRIES = 3  # of a cell whose worker is lost, and of starting a worker at all


# --- what travels -----------------------------------------------------------------------------
@dataclass(frozen=True)
class Order:
    """A cell as plain data."""

    task: dict[str, dict[str, Any]]
    strategy: dict[str, dict[str, Any]]
    schedule: dict[str, Any]
    seed: int
    variant: dict[str, int]
    key: str
    torch: str  # the driver's minor version

    @classmethod
    def of(cls, cell: Cell) -> Order:
        """A cell, ready to travel."""
        task, strategy = ({spec.name: spec.values} for spec in (cell.task, cell.strategy))
        schedule, variant = asdict(cell.schedule), asdict(cell.variant)
        return cls(task, strategy, schedule, cell.seed, variant, cell.key, minor(torch.__version__))

    def cell(self) -> Cell:
        """The cell where it arrived. ValueError where the plug-ins there are others."""
        specs = Spec.read("task", self.task), Spec.read("strategy", self.strategy)
        cell = Cell(*specs, Schedule(**self.schedule), self.seed, Variant(**self.variant))
        if cell.key != self.key:
            raise ValueError("the worker has other versions of these plug-ins: install the same on every node")
        return cell


@dataclass(frozen=True)
class Fault:
    """Why a worker could not go on with a cell. Its exception stays there: not every one can travel."""

    kind: str
    words: str
    trace: str
    of_user: bool  # a ValueError
    of_memory: bool
    whole_task: bool

    @classmethod
    def of(cls, error: BaseException, whole_task: bool = False) -> Fault:
        """What there is to tell about an error."""
        of_user = isinstance(error, ValueError)
        of_memory = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
        trace = "".join(traceback.format_exception(error))
        return cls(type(error).__name__, message(error), trace, of_user, of_memory, whole_task)

    @property
    def error(self) -> Exception:
        """The exception again: name, words and the worker's traceback."""
        kind: type[Exception] = type(self.kind, (Exception,), {"__module__": "builtins"})
        error = ValueError(self.words) if self.of_user else kind(self.words)
        error.add_note(f"in a worker of Ray:\n{self.trace}")
        return error


Answer: TypeAlias = Header | tuple[Record, Measured] | Fault | str | None  # str: a remark; None: free for another cell


# --- in a worker ------------------------------------------------------------------------------
class Worker:
    """Runs cells, one after the other, and keeps the task that it built last."""

    def __init__(self, chosen: dict[str, Any], scratch: str) -> None:
        self.chosen, self.scratch = Settings(**chosen), Path(scratch)
        self.machine: Machine | None = None
        self.built: tuple[str, Task | Exception] = ("", ValueError())
        self.remarks = list[str]()  # that are to be sent to the driver

    def ready(self) -> None:
        """Answers once the worker is there."""

    def open(self, order: Order) -> Header | Fault:
        """The header of a cell, its task built."""
        try:
            cell = self.cell(order)
            task = self.task(cell.task)
            if isinstance(task, Exception):
                return Fault.of(task, whole_task=True)
            return loop.header(cell, task, self.here())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # `sys.exit()` in a plug-in, too, which Ray would take for the worker's end
            return Fault.of(error, whole_task=isinstance(error, Misfit))

    def rounds(self, order: Order, past: Sequence[Record]) -> Iterator[tuple[Record, Measured] | Fault | str]:
        """The rounds that `past` lacks of a cell that was opened, and remarks on the work."""
        for told in self.recorded(order, past):
            while self.remarks:  # not `yield from`: Ray sends into this generator
                yield self.remarks.pop(0)
            yield told
        while self.remarks:
            yield self.remarks.pop(0)

    def recorded(self, order: Order, past: Sequence[Record]) -> Iterator[tuple[Record, Measured] | Fault]:
        """The rounds that `past` lacks of a cell that was opened."""
        rounds = self.run(order, past)
        while (result := next_result(next(iter(order.task)), rounds)) is not None:
            yield result

    def run(self, order: Order, past: Sequence[Record]) -> Iterator[tuple[Record, Measured]]:
        """The same; raises what a plug-in raises."""
        cell, machine = self.cell(order), self.here()
        task = self.task(cell.task)
        assert not isinstance(task, Exception)
        fits = Fits(self.scratch, self.chosen.cache_gb, loop.device_name(machine))
        yield from loop.run(cell, task, fits, machine, past)

    def here(self) -> Machine:
        """The machine; plug-ins are found and threads set when it is first asked for."""
        if self.machine is None:
            remarks.listen(self.remarks.append)
            discovery.discover(self.chosen.plugins)
            self.machine = prepared(self.chosen, self.scratch)
        return self.machine

    def cell(self, order: Order) -> Cell:
        """The cell of an order."""
        self.here()
        if order.torch != (own := minor(torch.__version__)) and not self.chosen.mix_versions:
            raise ValueError(f"the worker has torch {own}, not {order.torch}: install the same on every node")
        return order.cell()

    def task(self, spec: Spec) -> Task | Exception:
        """The task, or why there is none. One is in memory at a time."""
        if self.built[0] != spec.label:
            self.built = ("", ValueError())
            self.built = (spec.label, build(spec, self.here()))
        return self.built[1]


def next_result(task: str, rounds: Iterator[tuple[Record, Measured]]) -> tuple[Record, Measured] | Fault | None:
    """The next round, or why there is none; None after the last."""
    try:
        with contained(task, seed("global", task)):
            return next(rounds, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Fault.of(error)


# --- in the driver ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Share:
    """What a worker gets of a node."""

    cpus: int
    gpus: float

    def fits_into(self, resources: dict[str, float]) -> int:
        """How many of it a node has room for; a fraction of a GPU lies on one GPU."""
        by_cpu = int(resources.get("CPU", 0) // self.cpus)
        by_gpu = int(resources.get("GPU", 0)) * int(1 / self.gpus + 1e-9) if self.gpus else by_cpu
        return min(by_cpu, by_gpu)


@dataclass
class Hand:
    """A worker as the driver knows it."""

    actor: Any
    pending: Any  # what it is to answer next: a reference, or a generator of them
    cell: Cell | None = None
    task: str = ""  # the label of the task that it has in memory


@dataclass
class Crew:
    """The workers, and the cells that they have to run."""

    left: list[Cell]
    store: Store
    share: Share
    start: Callable[[Share], Any]  # a new actor
    hands: list[Hand] = field(default_factory=list)
    num_lost: Counter[Cell] = field(default_factory=Counter)
    num_unborn: int = 0  # workers, one after the other, that did not start
    starved: list[Cell] = field(default_factory=list)  # cells that ran out of memory beside others
    alone: bool = False
    in_order: bool = False  # a seed of every task before the next seed
    said: set[str] = field(default_factory=set)  # remarks of workers

    def events(self) -> Iterator[Event]:
        """Runs all cells; those that ran out of memory last, a whole GPU each, or a whole node without one."""
        try:
            yield from self.work()
            if self.starved:
                self.dismiss(*self.hands)
                self.left, self.share, self.alone = self.starved, whole(self.share), True
                yield from self.work()
        finally:
            self.dismiss(*self.hands)

    def work(self) -> Iterator[Event]:
        """Runs the cells that are left."""
        while self.left or any(hand.cell for hand in self.hands):
            self.hire()
            ready, _ = ray.wait([hand.pending for hand in self.hands], num_returns=1)
            yield from self.hear(next(hand for hand in self.hands if hand.pending == ready[0]))

    def hire(self) -> None:
        """Starts workers while there are more cells than hands, and room; one is always waited for."""
        wanted = len(self.left) + sum(hand.cell is not None for hand in self.hands)
        if len(self.hands) < wanted:
            wanted = min(wanted, max(1, room(self.share)))
        for _ in range(len(self.hands), wanted):
            actor = self.start(self.share)
            self.hands.append(Hand(actor, actor.ready.remote()))

    def dismiss(self, *hands: Hand) -> None:
        """Ends workers."""
        for hand in hands:
            self.hands.remove(hand)
            ray.kill(hand.actor)

    def hear(self, hand: Hand) -> Iterator[Event]:
        """Takes the next answer of a worker."""
        try:
            told = answer(hand.pending)
        except RayError as error:
            yield from self.lose(hand, error)
            return
        if isinstance(told, Header):
            yield from self.begin(hand, told)
        elif isinstance(told, Fault):
            yield from self.stop(hand, told)
        elif isinstance(told, str):
            if told not in self.said:  # each worker makes some of them
                self.said.add(told)
                remarks.remark(told)
        elif told is None:
            self.num_unborn, hand.cell = 0, None
            yield from self.employ(hand)
        else:
            yield from self.record(hand, *told)

    def employ(self, hand: Hand) -> Iterator[Event]:
        """Gives a free worker its next cell, or its leave."""
        if not self.left:
            self.dismiss(hand)
            return
        hand.cell = cell = self.left.pop(best(self.left, hand.task, self.opening(), self.in_order))
        hand.task, hand.pending = cell.task.label, hand.actor.open.remote(Order.of(cell))
        yield Started(cell)

    def opening(self) -> set[FirstFit]:
        """The first fits of the cells in work that have no record yet: other strategies of a seed wait for the same."""
        cells = [hand.cell for hand in self.hands if hand.cell is not None]
        return {first_fit(cell) for cell in cells if not self.store.records(cell.path)[1]}

    def begin(self, hand: Hand, header: Header) -> Iterator[Event]:
        """Has the rounds run that the records of an opened cell lack."""
        cell = hand.cell
        assert cell is not None
        try:
            hand.pending = hand.actor.rounds.remote(Order.of(cell), self.store.start(cell.path, header))
        except Unwritable:
            raise
        except Exception as error:
            hand.cell = None
            yield self.fail(cell, error, whole_task=isinstance(error, Mixture))
            yield from self.employ(hand)

    def record(self, hand: Hand, record: Record, measured: Measured) -> Iterator[Event]:
        """Writes down a round."""
        cell = hand.cell
        assert cell is not None
        try:
            self.store.append(cell.path, record, measured)
        except Unwritable:
            raise
        except Exception as error:
            self.dismiss(hand)  # it is at the next round already
            yield self.fail(cell, error)
        else:
            yield Round(cell, record, measured)

    def stop(self, hand: Hand, fault: Fault) -> Iterator[Event]:
        """A cell failed in its worker, which goes on unless its memory is in doubt."""
        cell, hand.cell = hand.cell, None
        assert cell is not None
        if fault.of_memory:
            self.dismiss(hand)
            yield from self.starve(cell, fault.error)
        else:
            yield self.fail(cell, fault.error, fault.whole_task)
            yield from self.employ(hand)

    def lose(self, hand: Hand, error: RayError) -> Iterator[Event]:
        """A worker is gone: its cell goes on elsewhere, from the rounds that came back.

        ValueError where one worker after the other does not even start.
        """
        cell = hand.cell
        self.dismiss(hand)
        if cell is None:
            self.num_unborn += 1
            if self.num_unborn > RETRIES:
                raise ValueError(f"launcher=ray: no worker starts: {str(error).strip()}") from error
        elif isinstance(error, OutOfMemoryError):
            yield from self.starve(cell, error)
        elif self.num_lost[cell] == RETRIES:
            yield self.fail(cell, error)
        else:
            self.num_lost[cell] += 1
            self.left.insert(0, cell)

    def starve(self, cell: Cell, error: Exception) -> Iterator[Event]:
        """A cell ran out of memory: it is run again alone, once."""
        if self.alone:
            yield self.fail(cell, error)
        else:
            self.starved.append(cell)

    def fail(self, cell: Cell, error: Exception, whole_task: bool = False) -> Failure:
        """Keeps and tells a failure."""
        failure = Failure(cell, error, whole_task)
        self.store.fail(cell.path, failure.trace)
        return failure


def answer(pending: Any) -> Answer:
    """What a worker answered. RayError where it is lost."""
    if isinstance(pending, ray.ObjectRef):
        told: Answer = ray.get(pending)
        return told
    try:
        told = ray.get(next(pending))
        return told
    except StopIteration:
        return None


FirstFit: TypeAlias = tuple[str, int, int]


def first_fit(cell: Cell) -> FirstFit:
    """What decides the first fit of a cell, companions aside: task, seed and training."""
    return cell.task.label, cell.seed, cell.variant.training


def best(left: Sequence[Cell], task: str, opening: set[FirstFit], in_order: bool = False) -> int:
    """Which cell a worker takes next: the first, but rather one of the task that it has in memory, and rather one
    whose first fit nobody is at, which would only be waited for. in_order: none of another seed than the first."""

    def cost(number: int) -> tuple[bool, bool, bool]:
        cell = left[number]
        return (
            in_order and cell.seed != left[0].seed,
            task not in ("", cell.task.label),
            first_fit(cell) in opening,
        )

    return min(range(len(left)), key=cost)


def nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room(share: Share) -> int:
    """How many workers there is room for."""
    return sum(map(share.fits_into, nodes()))


def whole(share: Share) -> Share:
    """All of a GPU, or without one of the largest node."""
    return replace(share, gpus=1) if share.gpus else Share(int(max(node.get("CPU", 1) for node in nodes())), 0)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray, started here or joined. ValueError where none answers."""
    if address is not None and address.startswith("ray://"):
        raise ValueError(f"ray_address={address}: run on a node of the cluster, with ray_address=auto or HOST:PORT")
    options: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": 10**8}  # rounds are small
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report home
    try:
        with contextlib.chdir(HOME):  # Ray puts the driver's working folder first on the module path of its workers
            ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"ray_address={address or 'null'}: {str(error).strip()}") from error
    try:
        yield
    finally:
        ray.shutdown()


def device(chosen: Settings) -> str:
    """The workers' device: with `auto` a GPU where Ray has one. ValueError where it lacks what is asked for."""
    has_gpu = any(node.get("GPU", 0) >= 1 for node in nodes())
    if chosen.device == "auto":
        return "cuda" if has_gpu else "cpu"
    if chosen.device == "cuda" and not has_gpu:
        raise ValueError("device=cuda: Ray has no GPU")
    return chosen.device


def share_of(chosen: Settings, device: str) -> Share:
    """What these settings give a cell. ValueError where no node has it."""
    if device == "cpu" and chosen.gpus_per_cell is not None:
        raise ValueError(f"gpus_per_cell={chosen.gpus_per_cell}: has no effect: Ray has no GPU")
    gpus = (chosen.gpus_per_cell or 1) if device == "cuda" else 0
    share = Share(chosen.cpus_per_cell or 1, gpus)
    if not room(share):
        raise ValueError(f"cpus_per_cell={share.cpus}: no node of Ray has as many, and a GPU where one is needed")
    return share


def remote(cells: Sequence[Cell], store: Store, chosen: Settings) -> Generator[Event]:
    """Runs the cells on Ray, records their rounds and yields what happened, as `launch.local` does; cells side by side.

    Paths of these settings hold on every node; fits are shared by the workers that have a folder in common.
    """
    with connected(chosen.ray_address):
        where = device(chosen)
        share = share_of(chosen, where)
        told = asdict(replace(chosen, device=where, data=absolute(chosen.data), plugins=absolute(chosen.plugins)))
        scratch = str((store.folder / ".fits").absolute())

        def start(share: Share) -> Any:
            options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_restarts": 0, "max_task_retries": 0}
            return ray.remote(Worker).options(**options).remote(told, scratch)

        yield from Crew(list(cells), store, share, start, in_order=chosen.gpu_hours is not None).events()


def absolute(folder: str | None) -> str | None:
    """A folder whose name holds wherever the worker was started."""
    return folder and str(Path(folder).absolute())
