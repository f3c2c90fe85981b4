"""What a cell labels: the initial draw, the query of the strategy, and the budget in images or in boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from benchmark.api import Indices, ShardedPool, Task, View
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import IncompatibleScheduleError
from benchmark.experiment.spec import Spec
from benchmark.runner.fit_cache import Fit, FitCache, fit_round
from benchmark.runner.measuring import Clock
from benchmark.seeds import seed
from benchmark.system import activity
from benchmark.system.process_state import isolate_plugin
from benchmark.text.words import plural


@dataclass(frozen=True)
class InitialDraw:
    """The images that are drawn before round 0, the same for all strategies of a seed."""

    initial: Indices  # the initial labelled set
    held_out: Indices  # the validation set, ascending
    diagnostics: dict[str, float] = field(default_factory=dict)  # logged by the strategy that selected the initial set
    seconds: dict[str, float] = field(default_factory=dict)  # that its selection took, by stage


def draw_initial(cell: Cell, task: Task, recorded: Indices | None = None) -> InitialDraw:
    """Draws the initial set and the held-out set from the two ends of one permutation of the pool.

    Where the schedule names a strategy for the initial set, it selects from the images that are not held out.

    Args:
        cell: the cell.
        task: its task.
        recorded: the initial set of a recorded round 0, which is then not selected again.

    Raises:
        IncompatibleScheduleError: the pool is too small, or the budget is in boxes and the task counts none.
    """
    cell.schedule.check_pool_size(task.num_pool)
    if cell.schedule.budget_in == "boxes" and "boxes" not in task.cost(np.arange(1)):
        raise IncompatibleScheduleError(
            f"budget_in=boxes: {cell.task.label} counts no boxes, only images: set budget_in=images"
        )
    order = np.random.default_rng(seed("initial", cell.task.name, cell.seed)).permutation(task.num_pool)
    cut = task.num_pool - cell.schedule.validation
    if cell.initial_strategy is None:
        return InitialDraw(order[: cell.schedule.initial], np.sort(order[cut:]))
    if recorded is not None:
        return InitialDraw(recorded, np.sort(order[cut:]))
    return select_initial(cell, task, cell.initial_strategy, np.sort(order[cut:]))


def select_initial(cell: Cell, task: Task, strategy: Spec, held_out: Indices) -> InitialDraw:
    """Returns the initial set that a strategy selects without labels: the same for all strategies of a seed."""
    view = View(
        task, task.model().eval(), np.empty(0, np.int64), np.setdiff1d(np.arange(task.num_pool), held_out),
        num_initial=0, held_out=held_out, needs=strategy.needs_without_labels,
        tie_seed=seed("initial ties", cell.task.name, cell.seed, strategy.label),
    )  # fmt: skip
    names, clock = (cell.task.name, cell.seed, strategy.label), Clock()
    rng, own_seed = np.random.default_rng(seed("initial select", *names)), seed("global initial select", *names)
    with isolate_plugin(strategy.label, own_seed), activity.stage(f"selecting with {strategy.label}"), clock("select"):
        selection = strategy.plugin.function(view, cell.schedule.initial, rng, **strategy.values)
    clock.separate_encoding(view.encoding_time)
    initial = check_selection(strategy.label, selection, view, cell.schedule.initial)
    return InitialDraw(initial, held_out, view.diagnostics, clock.seconds)


@contextmanager
def selection_stage(cell: Cell, round_number: int) -> Iterator[None]:
    """Wraps the selection of a round: reports the stage, and restores what the strategy changes in the process."""
    strategy, own_seed = cell.strategy.label, selection_seed("global select", cell, round_number)
    with isolate_plugin(strategy, own_seed), activity.stage(f"selecting with {strategy}"):
        yield


def selection_seed(purpose: str, cell: Cell, round_number: int) -> int:
    """Returns the seed of what a strategy draws in a round."""
    names = cell.variant.selection_seed_names
    return seed(purpose, cell.task.name, cell.seed, cell.strategy.label, round_number, *names)


def build_view(
    cell: Cell, task: Task, initial_draw: InitialDraw, model: torch.nn.Module, purchases: Sequence[Indices],
    unavailable: Indices | None = None,
) -> View:  # fmt: skip
    """Builds what the strategy may see; `unlabelled` is the pool without labelled and held-out images.

    Args:
        cell: the cell, whose strategy gets the view.
        task: the cell's task.
        initial_draw: the cell's initial draw.
        model: the model that the strategy uses.
        purchases: the images bought in each round so far.
        unavailable: further images that the strategy must not select; None for none.
    """
    labelled = np.concatenate([np.empty(0, np.int64), *purchases])
    is_excluded = np.zeros(task.num_pool, bool)
    is_excluded[labelled] = is_excluded[initial_draw.held_out] = True
    if unavailable is not None:
        is_excluded[unavailable] = True
    return View(
        task, model, labelled, np.flatnonzero(~is_excluded),
        num_initial=cell.schedule.initial, held_out=initial_draw.held_out,
        needs=cell.strategy.needs if len(labelled) else cell.strategy.needs_without_labels,
        purchase_sizes=[len(bought) for bought in purchases],
        tie_seed=selection_seed("ties", cell, len(purchases)),
    )  # fmt: skip


@dataclass
class Acquisition:
    """Selects what a cell labels, round by round; a one-pass schedule selects everything at the first query."""

    cell: Cell
    task: Task
    fits: FitCache
    initial_draw: InitialDraw
    recorded_purchases: Indices  # what the recorded rounds bought after the initial set
    first_view: View | None = None  # of a one-pass schedule
    plan: Indices | None = None  # of a one-pass schedule: all images in the order of purchase

    def current_view(self, fit: Fit | None, purchases: Sequence[Indices]) -> View:
        """Returns what the strategy sees: the state after the last round; in one pass, the state after round 0.

        Without an initial set the model is untrained.
        """
        if not self.cell.schedule.one_pass:
            model = self.task.model().eval() if fit is None else fit.model
            return build_view(self.cell, self.task, self.initial_draw, model, purchases)
        if self.first_view is None:
            initial = self.initial_draw.initial
            model = fit_round(self.cell, self.task, self.fits, initial, 0).model if len(initial) else self.task.model()
            initial_purchases = [initial] if len(initial) else []
            self.first_view = build_view(self.cell, self.task, self.initial_draw, model.eval(), initial_purchases)
        return self.first_view

    def select(self, view: View, round_number: int) -> tuple[Indices, dict[str, float]]:
        """Returns the images to label for a round, and the diagnostics that the strategy logged for them."""
        schedule = self.cell.schedule
        if not schedule.one_pass:
            return select_images(self.cell, self.task, view, round_number)
        first_round = schedule.rounds - schedule.num_acquisitions
        if self.plan is None:
            plan = query_strategy(self.cell, view, first_round, sum(schedule.budgets))
            is_new = ~np.isin(plan, self.recorded_purchases)  # another device may round, and select, differently now
            self.plan = np.concatenate([self.recorded_purchases, plan[is_new]])[: len(plan)]
        part = np.split(self.plan, np.cumsum(schedule.budgets)[:-1])[round_number - first_round]
        return part, dict(view.diagnostics) if round_number == first_round else {}


def select_images(cell: Cell, task: Task, view: View, round_number: int) -> tuple[Indices, dict[str, float]]:
    """Returns the strategy's checked selection for a round, and the diagnostics that it logged."""
    if cell.schedule.budget_in == "boxes":
        return select_by_box_budget(cell, task, view, round_number), view.diagnostics
    return query_strategy(cell, view, round_number, cell.schedule.budget), view.diagnostics


def query_strategy(cell: Cell, view: View, round_number: int, num_images: int) -> Indices:
    """Calls the strategy for `num_images` images, and returns its checked selection in its order."""
    rng = np.random.default_rng(selection_seed("select", cell, round_number))
    selection = cell.strategy.plugin.function(view, num_images, rng, **cell.strategy.values)
    return check_selection(cell.strategy.label, selection, view, num_images)


def select_by_box_budget(cell: Cell, task: Task, view: View, round_number: int) -> Indices:
    """Returns the images to label under a budget in boxes.

    Images are bought in the strategy's order until the boxes bought since round 0 reach `round_number` budgets. An
    image is bought with all its boxes.

    The number of boxes of an image is known only once it is bought. The strategy is therefore queried for as many
    images as should suffice at the mean number of boxes per image so far (in round 1, per image of the initial set; at
    least one box is assumed). Where these do not suffice, all of them are bought, and the strategy is queried again
    with the same seed for twice as many; the images of the new order that are not bought yet follow.
    If the whole pool has too few boxes, all of it is bought; if earlier images brought enough boxes, nothing is bought.
    """
    initial, later = np.split(view.labelled, [cell.schedule.initial])
    num_missing = round_number * cell.schedule.budget - task.cost(later)["boxes"]
    num_left = len(view.unlabelled)
    known_images = later if len(later) else initial
    num_images = min(num_left, math.ceil(num_missing * len(known_images) / max(task.cost(known_images)["boxes"], 1)))
    bought: Indices = np.empty(0, np.int64)
    while num_images > 0:
        selection = query_strategy(cell, view, round_number, num_images)
        bought = np.concatenate([bought, selection[~np.isin(selection, bought)]])
        num_needed = int(np.searchsorted(boxes_per_image(task, bought).cumsum(), num_missing)) + 1
        if num_needed <= len(bought) or num_images == num_left:
            return bought[:num_needed]
        num_images = min(num_left, 2 * num_images)
    return bought


def boxes_per_image(task: Task, indices: Indices) -> npt.NDArray[np.float64]:
    """(N,): the number of boxes in each image's label."""
    return np.array([task.cost(indices[i : i + 1])["boxes"] for i in range(len(indices))], np.float64)


def check_selection(name: str, selection: object, view: View | ShardedPool, budget: int) -> Indices:
    """Returns a strategy's selection as indices.

    Args:
        name: the strategy, for messages.
        selection: what it returned.
        view: what it saw.
        budget: the number of images that it was to return.

    Raises:
        ValueError: the selection is not `budget` distinct unlabelled positions of the pool.
    """
    array = np.asarray(selection)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} returned {array.dtype} of shape {array.shape}: "
            "it must return a one-dimensional array of integer pool positions"
        )
    if len(array) != budget:
        raise ValueError(f"{name} returned {plural(len(array), 'index', 'indices')} for a budget of {budget}")
    if len(np.unique(array)) != budget:
        raise ValueError(f"{name} returned {budget - len(np.unique(array))} duplicates")
    if num_labelled := int(np.isin(array, view.labelled).sum()):
        raise ValueError(f"{name} returned {plural(num_labelled, 'index', 'indices')} already labelled")
    if num_outside := int((~np.isin(array, view.unlabelled)).sum()):
        raise ValueError(f"{name} returned {plural(num_outside, 'index', 'indices')} not in `unlabelled`")
    return array.astype(np.int64)


def paid_images(cell: Cell, initial_draw: InitialDraw, labelled: Indices) -> Indices:
    """Returns all images whose labels the strategy has paid for: held-out ones too, if it reads them."""
    reads_held_out = "held_out" in cell.strategy.plugin.resolve_needs(cell.strategy.values)
    return np.concatenate([labelled, initial_draw.held_out]) if reads_held_out else labelled
