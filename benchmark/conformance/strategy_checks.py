"""What every strategy must do."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch

from benchmark.api import Indices
from benchmark.conformance.shuffled_task import ShuffledTask
from benchmark.conformance.trials import StrategyTrial, describe_side_effects
from benchmark.runner import acquisition


def keeps_to_budget(trial: StrategyTrial) -> str | None:
    """The loop's own checks, for a small, a usual and a large budget."""
    for budget in (1, 10, 100):
        trial.choose(budget)
    return None


def repeats_itself(trial: StrategyTrial) -> str | None:
    """A memory between calls."""
    first = trial.choose(seed=0)
    trial.choose(seed=1)
    return (
        None if np.array_equal(first, trial.choose(seed=0)) else "equal arguments gave different picks: it has a memory"
    )


def leaves_global_randomness(trial: StrategyTrial) -> str | None:
    """Global generators drawn from, or depended on."""
    trial.prepare()
    for number in (1, 2):
        random.seed(number), np.random.seed(number), torch.manual_seed(number)  # noqa: NPY002
        before = global_generator_state()
        picks = trial.choose()
        if global_generator_state() != before:
            return "it draws from a global generator: use `rng`, or `api.seeded` around library code"
        if number == 1:
            first = picks
    return None if np.array_equal(first, picks) else "its picks depend on a global seed: use `rng`"


def global_generator_state() -> tuple[object, bytes, bytes]:
    """The state of the global generators."""
    numbers = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return (
        random.getstate(),
        numbers["key"].tobytes() + bytes([numbers["pos"] % 256]),
        torch.get_rng_state().numpy().tobytes(),
    )


def leaves_model(trial: StrategyTrial) -> str | None:
    """Weights or the mode of the model changed."""
    _, model = trial.prepare()
    before = copy.deepcopy(model.state_dict())
    trial.choose()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    if moved:
        return f"it changed the model: {', '.join(moved[:3])}"
    return "it left the model in training mode" if model.training else None


def leaves_process(trial: StrategyTrial) -> str | None:
    """Gradients turned off, another default dtype, another folder, a thread that runs on, and the like."""
    return describe_side_effects(trial.choose)


def reads_no_unpaid_labels(trial: StrategyTrial) -> str | None:
    """Picks that move when unpaid labels and the test set's are scrambled."""
    task, _ = trial.prepare()
    begin = acquisition.draw_initial(trial.cell, task)
    paid = acquisition.paid_images(trial.cell, begin, begin.initial)
    # a strategy may read the test set's labels where it says so, others never
    test = "test_labels" not in trial.plugin.resolve_needs(trial.spec.values)
    others = [task.scrambled(paid, seed, test=test) for seed in (1, 2)]
    same = all(np.array_equal(trial.choose(), trial.choose(task=other)) for other in others)
    return None if same else "its picks moved when unpaid labels were scrambled: it reads labels that it did not buy"


def tells_images_apart(trial: StrategyTrial) -> str | None:
    """Scores that are all equal: two orders among equals then buy two sets that share what chance has them share."""
    num = len(trial.view().unlabelled)
    budget = min(num // 2, MAX_BUDGET)
    one, other = (trial.choose(budget, ties=ties) for ties in (0, 1))
    share, chance = len(np.intersect1d(one, other)) / budget, budget / num
    if share > chance + (1 - chance) / 5:
        return None
    return f"its scores are all equal, or nearly so, on {trial.cell.task.label}: the order among equals decides"


def follows_no_order(trial: StrategyTrial) -> str | None:
    """Picks that lie in certain places of a pool, whichever images lie there."""
    places: list[Indices] = []
    shares = []
    for number in range(NUM_SHUFFLES):
        view = trial.view(cast(Any, ShuffledTask(trial.task, number)), ties=number)
        places.append(trial.choose_from(view, SMALL_BUDGET, number))
        shares.append(np.searchsorted(view.unlabelled, places[-1]) / (len(view.unlabelled) - 1))
    middle, common = float(np.mean(shares)), set(places[0].tolist()).intersection(*(one.tolist() for one in places))
    if abs(middle - 0.5) > 5 / np.sqrt(12 * NUM_SHUFFLES * SMALL_BUDGET):  # five standard deviations
        where = "the front" if middle < 0.5 else "the back"
    elif len(common) >= SMALL_BUDGET / 4:
        where = "certain places"
    else:
        return None
    return f"it picks from {where} of the pool, however that is shuffled: break ties by view.lowest or view.tie_ranks"


MAX_BUDGET = 500  # images, so that large pools are checked in time
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
]
