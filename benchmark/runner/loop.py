"""The active-learning loop of one cell: fit, score, select, again."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmark.api import Companion, EncodingTime, Indices, Machine, ReportsBatchSizes, Task, View, hash_weight_files
from benchmark.contract.metrics import class_scores, resolve_metric, shorten_metric
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import IncompatibleScheduleError
from benchmark.records.record import Header, Measured, Record
from benchmark.records.versions import installed_versions
from benchmark.runner.fit_cache import Fit, FitCache, wait_for_gpu
from benchmark.runner.time_limit import time_limit
from benchmark.seeds import seed
from benchmark.system import activity
from benchmark.system.process_state import isolate_plugin
from benchmark.system.working_time import working_seconds
from benchmark.text.words import plural

PROC_SELF = Path("/proc/self")  # what Linux tells of this process


@dataclass(frozen=True)
class InitialDraw:
    """What all strategies of a seed share before round 0."""

    initial: Indices
    held_out: Indices


def draw_initial(cell: Cell, task: Task) -> InitialDraw:
    """The initial and the held-out draw, from the two ends of one permutation of the pool. Raises Misfit."""
    cell.schedule.check_pool_size(task.num_pool)
    if cell.schedule.budget_in == "boxes" and "boxes" not in task.cost(np.arange(1)):
        raise IncompatibleScheduleError(
            f"budget_in=boxes: {cell.task.label} counts no boxes, only images: budget_in=images"
        )
    order = np.random.default_rng(seed("initial", cell.task.name, cell.seed)).permutation(task.num_pool)
    cut = task.num_pool - cell.schedule.validation
    return InitialDraw(order[: cell.schedule.initial], np.sort(order[cut:]))


def build_header(cell: Cell, task: Task, machine: Machine) -> Header:
    """The first line of the cell's records."""
    held_out, told = draw_initial(cell, task).held_out.tolist(), encoder_file_hashes(cell, machine)
    metric = shorten_metric(resolve_metric(task.metric))
    return Header(cell.key, cell.identity(), task.fingerprint, task.num_pool, metric, held_out, weights=told)


def encoder_file_hashes(cell: Cell, machine: Machine) -> dict[str, dict[str, str]]:
    """sha256 of the files of weights that the encoders of its strategy read, by the encoder and its parameter."""
    named = [label for plugin, label in cell.strategy.nested_plugins() if plugin.kind == "encoder"]
    return {label: told for label in named if (told := hash_weight_files(label, machine))}


def run(
    cell: Cell, task: Task, fits: FitCache, machine: Machine, past: Sequence[Record] = ()
) -> Iterator[tuple[Record, Measured]]:
    """Yields the rounds that `past` lacks. Rounds of the past are replayed from the indices bought.

    The model of round n - 1 chooses what the model of round n is trained on; a one-pass schedule chooses once.
    """
    if cell.schedule.is_finished(past):
        return
    begin, read, code = draw_initial(cell, task), encoder_file_hashes(cell, machine), cell.strategy.code_hash
    by_round = [np.array(record.bought, np.int64) for record in past]
    labelled = np.concatenate([np.empty(0, np.int64), *by_round])
    purchases = Acquisition(cell, task, fits, begin, labelled[len(begin.initial) :])
    fitted = fit_round(cell, task, fits, labelled, len(past) - 1) if past else None
    for number in range(len(past), cell.schedule.rounds):
        clock = Clock()
        reset_peak_memory(machine)
        bought, diagnostics = begin.initial, dict[str, float]()
        if number or not cell.schedule.initial:
            seen = purchases.current_view(fitted, by_round)
            with (
                selection_stage(cell, number),
                clock("select"),
                time_limit(machine.select_timeout, cell.strategy.label),
            ):
                bought, diagnostics = purchases.select(seen, number)
            clock.separate_encoding(seen.encoding_time)
        by_round.append(bought)
        labelled = np.concatenate(by_round)
        fitted = fit_round(cell, task, fits, labelled, number)
        with scoring_stage(cell, number), clock("score"):
            scores = task.score(fitted.model)
        ended = cell.schedule.reaches_target(scores)
        cost = task.cost(paid_images(cell, begin, labelled))
        seconds = {"fit": fitted.seconds, **clock.seconds}
        if encoder_file_hashes(cell, machine) != read:
            raise ValueError("an encoder's file of weights was exchanged meanwhile: this round is not recorded")
        record = Record(
            number, len(labelled), bought.tolist(), cost, dict(scores), diagnostics,
            **batch_size_fields(task, len(labelled)), class_scores=class_scores(scores),
        )  # fmt: skip
        if words := record.describe_missing(resolve_metric(task.metric).name):
            raise ValueError(f"{cell.task.label}: {words}")
        where = device_name(machine)
        yield (
            record,
            Measured(number, seconds, fitted.from_cache, peak_memory_mb(machine), where, library_versions(), code),
        )
        if ended:
            return


@contextmanager
def selection_stage(cell: Cell, round_number: int) -> Iterator[None]:
    """The stage of the selection for round `number`, which leaves the process as it was."""
    strategy = cell.strategy.label
    with (
        isolate_plugin(strategy, selection_seed("global select", cell, round_number)),
        activity.stage(f"selecting with {strategy}"),
    ):
        yield


@contextmanager
def scoring_stage(cell: Cell, round_number: int) -> Iterator[None]:
    """The stage of the scoring of round `number`, which leaves the process as it was."""
    own = seed("global score", cell.task.name, cell.seed, round_number, *cell.variant.training_seed_names)
    with isolate_plugin(cell.task.label, own), activity.stage("scoring"):
        yield


def fit_round(cell: Cell, task: Task, fits: FitCache, labelled: Indices, round_number: int) -> Fit:
    """The model of round `number`: its seed leaves the strategy out, so equal labelled sets share it."""
    names = fit_inputs(cell, round_number)
    with isolate_plugin(
        f"{cell.task.label} trained for {cell.strategy.label}" if names[1] else cell.task.label, names[0]
    ):
        return fits.fit(task, cell.task, labelled, *names)


def fit_inputs(cell: Cell, round_number: int) -> tuple[int, Companion | None, str]:
    """What names the fit of round `number` beside its labelled set: seed, companion and whose that is."""
    return (
        seed("fit", cell.task.name, cell.seed, round_number, *cell.variant.training_seed_names),
        *companion_and_owner(cell),
    )


def companion_and_owner(cell: Cell) -> tuple[Companion | None, str]:
    """The strategy's companion and a name for it in the fit's key."""
    plugin = cell.strategy.plugin
    companion = plugin.resolve_declaration("companion", cell.strategy.values)
    others = [(label, other.version) for other, label in cell.strategy.nested_plugins()]
    owner = f"{plugin.name} {plugin.version} {companion!r}{others or ''} {cell.strategy.code_hash}"
    return (None, "") if companion is None else (companion, owner)


def build_view(
    cell: Cell, task: Task, initial_draw: InitialDraw, model: torch.nn.Module, purchases: Sequence[Indices]
) -> View:
    """What the strategy may see after rounds that bought these: neither labelled nor held out is `unlabelled`."""
    labelled = np.concatenate([np.empty(0, np.int64), *purchases])
    closed = np.zeros(task.num_pool, bool)
    closed[labelled] = closed[initial_draw.held_out] = True
    needs = cell.strategy.plugin.resolve_needs(cell.strategy.values)
    num_initial, held_out = cell.schedule.initial, initial_draw.held_out
    unlabelled = np.flatnonzero(~closed)
    return View(
        task, model, labelled, unlabelled, num_initial=num_initial, held_out=held_out, needs=needs,
        purchase_sizes=[len(bought) for bought in purchases],
        tie_seed=selection_seed("ties", cell, len(purchases)),
    )  # fmt: skip


def selection_seed(purpose: str, cell: Cell, round_number: int) -> int:
    """The seed of what a strategy draws for round `number`."""
    return seed(
        purpose, cell.task.name, cell.seed, cell.strategy.label, round_number, *cell.variant.selection_seed_names
    )


@dataclass
class Acquisition:
    """What a cell buys; under a one-pass schedule all of it is chosen when it is first asked."""

    cell: Cell
    task: Task
    fits: FitCache
    initial_draw: InitialDraw
    recorded_purchases: Indices  # in the past, after the initial set
    first_view: View | None = None
    plan: Indices | None = None

    def current_view(self, fitted: Fit | None, purchases: Sequence[Indices]) -> View:
        """What the strategy sees: the last round, or the start in one pass; without labels an untrained model."""
        if not self.cell.schedule.one_pass:
            assert fitted is not None
            return build_view(self.cell, self.task, self.initial_draw, fitted.model, purchases)
        if self.first_view is None:
            initial = self.initial_draw.initial
            model = fit_round(self.cell, self.task, self.fits, initial, 0).model if len(initial) else self.task.model()
            self.first_view = build_view(
                self.cell, self.task, self.initial_draw, model.eval(), [initial] if len(initial) else []
            )
        return self.first_view

    def select(self, view: View, round_number: int) -> tuple[Indices, dict[str, float]]:
        """What is bought for round `number`, and what the strategy logged when it chose that."""
        schedule = self.cell.schedule
        if not schedule.one_pass:
            return select_images(self.cell, self.task, view, round_number)
        first = schedule.rounds - schedule.num_acquisitions
        if self.plan is None:
            plan = query_strategy(self.cell, view, first, schedule.budget * schedule.num_acquisitions)
            rest = plan[
                ~np.isin(plan, self.recorded_purchases)
            ]  # a device that rounds otherwise may choose otherwise now
            self.plan = np.concatenate([self.recorded_purchases, rest])[: len(plan)]
        part = np.split(self.plan, schedule.num_acquisitions)[round_number - first]
        return part, dict(view.diagnostics) if round_number == first else {}


def select_images(cell: Cell, task: Task, view: View, round_number: int) -> tuple[Indices, dict[str, float]]:
    """The strategy's choice for round `number`, checked, and what it logged."""
    if cell.schedule.budget_in == "boxes":
        return select_by_box_budget(cell, task, view, round_number), view.diagnostics
    return query_strategy(cell, view, round_number, cell.schedule.budget), view.diagnostics


def query_strategy(cell: Cell, view: View, round_number: int, num_images: int) -> Indices:
    """What the strategy chooses for round `number` where it may choose `num_images`, in its order."""
    rng = np.random.default_rng(selection_seed("select", cell, round_number))
    chosen = cell.strategy.plugin.function(view, num_images, rng, **cell.strategy.values)
    return check_selection(cell.strategy.label, chosen, view, num_images)


def select_by_box_budget(cell: Cell, task: Task, view: View, round_number: int) -> Indices:
    """The images bought for round `number` under a budget of boxes: the strategy's, in its order, until the boxes
    bought since round 0 reach `number` budgets. An image is bought with all its boxes.

    What an image brings is known once it is bought. So the strategy is asked for as many images as should do at the
    boxes an image of those bought so far (in round 1, of the initial set; there is one at least). Where those do not,
    all of them are bought, and it is asked again for twice as many, equally seeded: those of its new order that are
    not bought yet come next.
    All that is left is bought where the pool lacks the boxes, and nothing where earlier images brought enough.
    """
    initial, later = np.split(view.labelled, [cell.schedule.initial])
    missing = round_number * cell.schedule.budget - task.cost(later)["boxes"]
    num_left = len(view.unlabelled)
    known = later if len(later) else initial
    wanted = min(num_left, math.ceil(missing * len(known) / max(task.cost(known)["boxes"], 1)))
    bought: Indices = np.empty(0, np.int64)
    while wanted > 0:
        chosen = query_strategy(cell, view, round_number, wanted)
        bought = np.concatenate([bought, chosen[~np.isin(chosen, bought)]])
        enough = int(np.searchsorted(boxes_per_image(task, bought).cumsum(), missing)) + 1
        if enough <= len(bought) or wanted == num_left:
            return bought[:enough]
        wanted = min(num_left, 2 * wanted)
    return bought


def boxes_per_image(task: Task, indices: Indices) -> npt.NDArray[np.float64]:
    """(N,): the boxes that each image's label consists of."""
    return np.array([task.cost(indices[i : i + 1])["boxes"] for i in range(len(indices))], np.float64)


def check_selection(name: str, selection: object, view: View, budget: int) -> Indices:
    """The choice as indices. ValueError unless it is `budget` distinct unlabelled positions."""
    array = np.asarray(selection)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} returned {array.dtype} of shape {array.shape}: pool positions are one row of integers"
        )
    if len(array) != budget:
        raise ValueError(f"{name} returned {plural(len(array), 'index', 'indices')} of a budget of {budget}")
    if len(np.unique(array)) != budget:
        raise ValueError(f"{name} returned {budget - len(np.unique(array))} duplicates")
    if labelled := int(np.isin(array, view.labelled).sum()):
        raise ValueError(f"{name} returned {plural(labelled, 'index', 'indices')} already labelled")
    if outside := int((~np.isin(array, view.unlabelled)).sum()):
        raise ValueError(f"{name} returned {plural(outside, 'index', 'indices')} not in `unlabelled`")
    return array.astype(np.int64)


def paid_images(cell: Cell, initial_draw: InitialDraw, labelled: Indices) -> Indices:
    """All images whose labels this strategy has paid for."""
    reads = "held_out" in cell.strategy.plugin.resolve_needs(cell.strategy.values)
    return np.concatenate([labelled, initial_draw.held_out]) if reads else labelled


def batch_size_fields(task: Task, num_images: int) -> dict[str, int]:
    """Images in the smallest batch of a fit on so many, and in one as the recipe has it, where the task tells them."""
    sizes = task.batch_sizes(num_images) if isinstance(task, ReportsBatchSizes) else None
    return {} if sizes is None else {"smallest_batch": sizes.smallest, "batch_size": sizes.intended}


class Clock:
    """Seconds by name, without those in which the process was stopped: `with clock("select"): ...`."""

    def __init__(self) -> None:
        self.seconds = {"select": 0.0, "score": 0.0}

    def separate_encoding(self, encoding_time: EncodingTime) -> None:
        """Tells `encode`, what the encodings that a selection used took whenever they were made, from `select`, which
        keeps what reading them takes."""
        if encoding_time.seconds:
            self.seconds["select"] = max(0.0, self.seconds["select"] - encoding_time.seconds_now)
            self.seconds["encode"] = encoding_time.seconds
            encoding_time.seconds_now = encoding_time.seconds = 0.0

    def __call__(self, name: str) -> Clock:
        self.name = name
        return self

    def __enter__(self) -> None:
        self.start_time = working_seconds()

    def __exit__(self, *_: object) -> None:
        wait_for_gpu()
        self.seconds[self.name] = working_seconds() - self.start_time


def reset_peak_memory(machine: Machine) -> None:
    """Lets `peak_mb` count from now on: what was freed before is none of a round's. Only Linux can do so for a process,
    elsewhere its peak is that since it began."""
    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(machine.device)
    else:
        with contextlib.suppress(OSError):
            (PROC_SELF / "clear_refs").write_text("5", encoding="utf-8")


def peak_memory_mb(machine: Machine) -> float:
    """The most memory since `forget_peak`, on the GPU where the task is on one, of the process otherwise."""
    if machine.device.type == "cuda":
        return torch.cuda.max_memory_allocated(machine.device) / 1e6
    with contextlib.suppress(OSError):
        if match := re.search(r"VmHWM:\s*(\d+) kB", (PROC_SELF / "status").read_text(encoding="utf-8")):
            return int(match[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def device_name(machine: Machine) -> str:
    """The device as people know it, and whether its results are exactly repeatable (`deterministic=true`)."""
    how = ", deterministic" if torch.are_deterministic_algorithms_enabled() else ""
    if machine.device.type == "cuda":
        return torch.cuda.get_device_name(machine.device) + how
    return f"{machine.device.type} ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads{how})"


@functools.cache
def library_versions() -> dict[str, str]:
    """The versions that numbers may depend on; with a GPU those of its software too."""
    gpu = dict[str, str]()
    if torch.cuda.is_available():
        gpu = {
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
            "driver": gpu_driver_version(),
        }
    return {**installed_versions(), **gpu}


def gpu_driver_version() -> str:
    """The version of the GPU's driver, "" where its tool is not there."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.check_output(words, encoding="utf-8", errors="replace", stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.partition("\n")[0].strip()
