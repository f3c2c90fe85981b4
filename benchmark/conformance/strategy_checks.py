"""The checks that every strategy must pass. A check returns a message if it fails, otherwise None."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch

from benchmark.api import Indices
from benchmark.conformance.sanity_checks import follows_its_paper, selects_several_classes, starts_without_labels
from benchmark.conformance.shuffled_task import ShuffledTask
from benchmark.conformance.trials import StrategyTrial, describe_side_effects
from benchmark.runner import acquisition


def keeps_to_budget(trial: StrategyTrial) -> str | None:
    """Runs the loop's own checks of a selection for a small, a usual and a large budget."""
    for budget in (1, 10, 100):
        trial.choose(budget)
    return None


def repeats_itself(trial: StrategyTrial) -> str | None:
    """Finds a strategy that remembers earlier calls: equal arguments must give equal selections."""
    first = trial.choose(seed=0)
    trial.choose(seed=1)
    return (
        None
        if np.array_equal(first, trial.choose(seed=0))
        else "equal arguments gave different selections: it has a memory"
    )


def leaves_global_randomness(trial: StrategyTrial) -> str | None:
    """Finds a strategy that draws from global generators, or depends on their seeds."""
    trial.prepare()
    for number in (1, 2):
        random.seed(number), np.random.seed(number), torch.manual_seed(number)  # noqa: NPY002
        before = global_generator_state()
        selection = trial.choose()
        if global_generator_state() != before:
            return "it draws from a global generator: use `rng`, or `api.seeded` around library code"
        if number == 1:
            first = selection
    return None if np.array_equal(first, selection) else "its selection depends on a global seed: use `rng`"


def global_generator_state() -> tuple[object, bytes, bytes]:
    """Returns the state of the global generators of Python, numpy and torch."""
    numbers = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return (
        random.getstate(),
        numbers["key"].tobytes() + bytes([numbers["pos"] % 256]),
        torch.get_rng_state().numpy().tobytes(),
    )


def leaves_model(trial: StrategyTrial) -> str | None:
    """Finds a strategy that changes the model's weights or its mode."""
    _, model = trial.prepare()
    before = copy.deepcopy(model.state_dict())
    trial.choose()
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    if changed:
        return f"it changed the model: {', '.join(changed[:3])}"
    return "it left the model in training mode" if model.training else None


def leaves_process(trial: StrategyTrial) -> str | None:
    """Finds changes to the process: gradients turned off, another default dtype, another folder, a running thread."""
    return describe_side_effects(trial.choose)


def reads_no_unpaid_labels(trial: StrategyTrial) -> str | None:
    """Finds a selection that changes when labels that are not paid for are scrambled, the test set's included."""
    task, _ = trial.prepare()
    initial_draw = acquisition.draw_initial(trial.cell, task)
    paid = acquisition.paid_images(trial.cell, initial_draw, initial_draw.initial)
    # only a strategy that declares this need may read the labels of the test set
    test = "test_labels" not in trial.plugin.resolve_needs(trial.spec.values)
    others = [task.scrambled(paid, seed, test=test) for seed in (1, 2)]
    same = all(np.array_equal(trial.choose(), trial.choose(task=other)) for other in others)
    return (
        None if same else "its selection changed when unpaid labels were scrambled: it reads labels that it did not buy"
    )


def tells_images_apart(trial: StrategyTrial) -> str | None:
    """Finds scores that are all equal.

    Two random orders of ties then give two selections that share about as many images as random ones would.
    """
    num = len(trial.view().unlabelled)
    budget = min(num // 2, MAX_BUDGET)
    first, second = (trial.choose(budget, ties=ties) for ties in (0, 1))
    share, chance = len(np.intersect1d(first, second)) / budget, budget / num
    if share > chance + (1 - chance) / 5:
        return None
    return f"its scores are all equal, or nearly so, on {trial.cell.task.label}: the random order of ties decides"


def follows_no_order(trial: StrategyTrial) -> str | None:
    """Finds selections that lie at certain positions of a pool, whichever images are there."""
    selections: list[Indices] = []
    positions = []
    for number in range(NUM_SHUFFLES):
        view = trial.view(cast(Any, ShuffledTask(trial.task, number)), ties=number)
        selections.append(trial.choose_from(view, SMALL_BUDGET, number))
        positions.append(np.searchsorted(view.unlabelled, selections[-1]) / (len(view.unlabelled) - 1))
    middle, common = (
        float(np.mean(positions)),
        set(selections[0].tolist()).intersection(*map(np.ndarray.tolist, selections)),
    )
    if abs(middle - 0.5) > 5 / np.sqrt(12 * NUM_SHUFFLES * SMALL_BUDGET):  # five standard deviations
        where = "the front" if middle < 0.5 else "the back"
    elif len(common) >= SMALL_BUDGET / 4:
        where = "certain places"
    else:
        return None
    return f"it selects from {where} of the pool, however that is shuffled: break ties by view.lowest or view.tie_ranks"


MAX_BUDGET = 500  # images, so that checks on large pools stay fast
NUM_SHUFFLES, SMALL_BUDGET = 3, 20

STRATEGY_CHECKS: list[tuple[str, Callable[[Any], str | None]]] = [
    ("it returns `budget` distinct unlabelled images", keeps_to_budget),
    ("equal arguments give equal picks", repeats_itself),
    ("it leaves global randomness alone", leaves_global_randomness),
    ("it leaves the model as it was", leaves_model),
    ("it leaves torch and the process as they were", leaves_process),
    ("it reads no label that it has not paid for", reads_no_unpaid_labels),
    ("it tells images apart", tells_images_apart),
    ("it does not follow the order of the pool", follows_no_order),
    ("it buys labels of several classes", selects_several_classes),
    ("it selects in the direction of its paper", follows_its_paper),
    ("it starts without labels where it says so", starts_without_labels),
]
