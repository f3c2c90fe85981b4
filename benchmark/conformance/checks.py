"""The conformance kit: what every plug-in must do, checked on one plug-in and said in words."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import Indices, Machine, Predictions, Task, View
from benchmark.conformance.shuffled import Shuffled
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins.registry import Plugin, source
from benchmark.runner import loop
from benchmark.runner.fits import Fits
from benchmark.system.process_state import restore, snapshot
from benchmark.text.words import named, plural


@dataclass(frozen=True)
class Finding:
    """One check of one plug-in: `words` is empty where it holds."""

    check: str
    words: str


def check(spec: Spec, on: Spec, machine: Machine) -> list[Finding]:
    """All findings on a strategy (tried on the task `on`) or on a task."""
    checks = [*SHAPE, *(STRATEGY if spec.plugin.kind == "strategy" else TASK)]
    subject = Trial(spec, on, machine) if spec.plugin.kind == "strategy" else Fitted(spec, machine)
    return [Finding(title, found(rule, subject)) for title, rule in checks]


def found(rule: Callable[[Any], str | None], subject: Any) -> str:
    """What a check says; an exception counts as a finding. What it leaves changed spoils no later check."""
    before = snapshot()
    try:
        return rule(subject) or ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return named(error)
    finally:
        restore(before)


class Trial:
    """A strategy at round 1 of a small cell."""

    def __init__(self, spec: Spec, on: Spec, machine: Machine) -> None:
        self.spec, self.plugin = spec, spec.plugin
        self.cell = Cell(on, spec, Schedule(initial=30, budget=10, rounds=2, validation=20), seed=0)
        self.machine = machine
        self.built: tuple[Task, nn.Module] | None = None

    @property
    def task(self) -> Task:
        """The task, built once."""
        return self.prepared()[0]

    def prepared(self) -> tuple[Task, nn.Module]:
        """The task and the model of round 0."""
        if self.built is None:
            self.cell.check()
            task = self.cell.task.plugin.build(self.machine, self.cell.task.values)
            fits = Fits(folder=source(self.plugin).parent, cache_gb=0, device="check")
            self.built = task, loop.fit(self.cell, task, fits, loop.start(self.cell, task).initial, 0).model
        return self.built

    def view(self, task: Task | None = None, ties: int = 0) -> View:
        """A fresh view of round 0's model. ties: what the order among equals is drawn from."""
        mine, model = self.prepared()
        begin = loop.start(self.cell, mine)
        if isinstance(task, Shuffled):
            begin = loop.Start(task.place[begin.initial], np.sort(task.place[begin.held_out]))
        return loop.view(replace(self.cell, seed=ties), task or mine, begin, model, [begin.initial])

    def choose(self, budget: int = 10, seed: int = 0, task: Task | None = None, ties: int = 0) -> Indices:
        """What the strategy returns, checked as the loop checks it."""
        return self.choose_from(self.view(task, ties), budget, seed)

    def choose_from(self, view: View, budget: int, seed: int) -> Indices:
        """The same, of a view."""
        chosen = self.plugin.function(view, budget, np.random.default_rng(seed), **self.spec.values)
        return loop.checked_choice(self.spec.label, chosen, view, budget)


class Fitted:
    """A task with one fit on a few images."""

    def __init__(self, spec: Spec, machine: Machine) -> None:
        self.spec, self.plugin, self.machine = spec, spec.plugin, machine
        self.built: tuple[Task, nn.Module, Indices] | None = None

    def prepared(self) -> tuple[Task, nn.Module, Indices]:
        """The task, a model and the images it was fitted on."""
        if self.built is None:
            task: Task = self.plugin.build(self.machine, self.spec.values)
            labelled = np.sort(np.random.default_rng(0).permutation(task.num_pool)[: min(200, task.num_pool // 2)])
            self.built = task, task.fit(labelled, 0), labelled
        return self.built


# --- both -----------------------------------------------------------------------------------
def named_as_file(subject: Trial | Fitted) -> str | None:
    """The plug-in, its function and its file have one name."""
    stem = source(subject.plugin).stem
    return None if stem == subject.plugin.name else f"it is called {subject.plugin.name}, its file {stem}.py"


def typed(subject: Trial | Fitted) -> str | None:
    """Parameters without an annotation."""
    bare = [p.name for p in inspect.signature(subject.plugin.function).parameters.values() if p.annotation is p.empty]
    return f"no type on: {', '.join(bare)}" if bare else None


def documented(subject: Trial | Fitted) -> str | None:
    """A missing docstring."""
    return None if inspect.getdoc(subject.plugin.function) else "no docstring: say the paper and what the numbers mean"


def versioned(subject: Trial | Fitted) -> str | None:
    """A version that is no whole number from 1."""
    version = subject.plugin.version
    return None if type(version) is int and version >= 1 else f"version={version}: a whole number from 1"


def left_behind(act: Callable[[], object]) -> str | None:
    """What a call leaves changed in torch or in the process, or running. Libraries that it needs are imported by now:
    they change things, too."""
    before, running = snapshot(), workers()
    act()
    changed, _ = restore(before)
    changed += [f"{one.name} still running" for one in workers() - running]
    return f"it leaves changed: {', '.join(changed)}: put back what you change, in a `finally`" if changed else None


def workers() -> set[Any]:
    """The threads that keep the process from ending, and the processes that it started."""
    return {one for one in threading.enumerate() if not one.daemon} | set(multiprocessing.active_children())


SHAPE: list[tuple[str, Callable[[Any], str | None]]] = [
    ("its name is its file's", named_as_file),
    ("every parameter has a type", typed),
    ("it has a docstring", documented),
    ("its version is a number", versioned),
]


# --- strategies -----------------------------------------------------------------------------
def keeps_to_budget(trial: Trial) -> str | None:
    """The loop's own checks, for a small, a usual and a large budget."""
    for budget in (1, 10, 100):
        trial.choose(budget)
    return None


def repeats_itself(trial: Trial) -> str | None:
    """A memory between calls."""
    first = trial.choose(seed=0)
    trial.choose(seed=1)
    return (
        None if np.array_equal(first, trial.choose(seed=0)) else "equal arguments gave different picks: it has a memory"
    )


def leaves_global_randomness(trial: Trial) -> str | None:
    """Global generators drawn from, or depended on."""
    trial.prepared()
    for number in (1, 2):
        random.seed(number), np.random.seed(number), torch.manual_seed(number)  # noqa: NPY002
        before = fingerprint()
        picks = trial.choose()
        if fingerprint() != before:
            return "it draws from a global generator: use `rng`, or `api.seeded` around library code"
        if number == 1:
            first = picks
    return None if np.array_equal(first, picks) else "its picks depend on a global seed: use `rng`"


def fingerprint() -> tuple[object, bytes, bytes]:
    """The state of the global generators."""
    numbers = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return (
        random.getstate(),
        numbers["key"].tobytes() + bytes([numbers["pos"] % 256]),
        torch.get_rng_state().numpy().tobytes(),
    )


def leaves_model(trial: Trial) -> str | None:
    """Weights or the mode of the model changed."""
    _, model = trial.prepared()
    before = copy.deepcopy(model.state_dict())
    trial.choose()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    if moved:
        return f"it changed the model: {', '.join(moved[:3])}"
    return "it left the model in training mode" if model.training else None


def leaves_process(trial: Trial) -> str | None:
    """Gradients turned off, another default dtype, another folder, a thread that runs on, and the like."""
    return left_behind(trial.choose)


def reads_no_unpaid_labels(trial: Trial) -> str | None:
    """Picks that move when unpaid labels and the test set's are scrambled."""
    task, _ = trial.prepared()
    begin = loop.start(trial.cell, task)
    paid = loop.paid(trial.cell, begin, begin.initial)
    # a strategy may read the test set's labels where it says so, others never
    test = "test_labels" not in trial.plugin.needed(trial.spec.values)
    others = [task.scrambled(paid, seed, test=test) for seed in (1, 2)]
    same = all(np.array_equal(trial.choose(), trial.choose(task=other)) for other in others)
    return None if same else "its picks moved when unpaid labels were scrambled: it reads labels that it did not buy"


def tells_images_apart(trial: Trial) -> str | None:
    """Scores that are all equal: two orders among equals then buy two sets that share what chance has them share."""
    num = len(trial.view().unlabelled)
    budget = min(num // 2, MOST_BOUGHT)
    one, other = (trial.choose(budget, ties=ties) for ties in (0, 1))
    share, chance = len(np.intersect1d(one, other)) / budget, budget / num
    if share > chance + (1 - chance) / 5:
        return None
    return f"its scores are all equal, or nearly so, on {trial.cell.task.label}: the order among equals decides"


def follows_no_order(trial: Trial) -> str | None:
    """Picks that lie in certain places of a pool, whichever images lie there."""
    places: list[Indices] = []
    shares = []
    for number in range(NUM_SHUFFLES):
        view = trial.view(cast(Any, Shuffled(trial.task, number)), ties=number)
        places.append(trial.choose_from(view, FEW_BOUGHT, number))
        shares.append(np.searchsorted(view.unlabelled, places[-1]) / (len(view.unlabelled) - 1))
    middle, common = float(np.mean(shares)), set(places[0].tolist()).intersection(*(one.tolist() for one in places))
    if abs(middle - 0.5) > 5 / np.sqrt(12 * NUM_SHUFFLES * FEW_BOUGHT):  # five standard deviations
        where = "the front" if middle < 0.5 else "the back"
    elif len(common) >= FEW_BOUGHT / 4:
        where = "certain places"
    else:
        return None
    return f"it picks from {where} of the pool, however that is shuffled: break ties by view.lowest or view.tie_ranks"


MOST_BOUGHT = 500  # images, so that large pools are checked in time
NUM_SHUFFLES, FEW_BOUGHT = 3, 20

STRATEGY: list[tuple[str, Callable[[Any], str | None]]] = [
    ("it returns `budget` distinct unlabelled images", keeps_to_budget),
    ("equal arguments give equal picks", repeats_itself),
    ("it leaves global randomness alone", leaves_global_randomness),
    ("it leaves the model as it was", leaves_model),
    ("it leaves torch and the process as they were", leaves_process),
    ("it reads no label that it has not paid for", reads_no_unpaid_labels),
    ("it tells images apart", tells_images_apart),
    ("it does not follow the order of the pool", follows_no_order),
]


# --- tasks ----------------------------------------------------------------------------------
def fits_by_set_and_seed(fitted: Fitted) -> str | None:
    """Fits that depend on more than the set and the seed, or not on the seed."""
    task, model, labelled = fitted.prepared()
    again, other = task.fit(labelled[::-1].copy(), 0), task.fit(labelled, 1)
    if not same_weights(model, again):
        return "two fits on the same set with the same seed differ (or the order of the set matters)"
    return "the seed changes nothing" if same_weights(model, other) else None


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models are equal to the bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def loads_weights(fitted: Fitted) -> str | None:
    """A score that changes when weights are stored and read back."""
    task, model, _ = fitted.prepared()
    twin = task.model()
    twin.load_state_dict(model.state_dict())
    return (
        None if task.score(twin.eval()) == task.score(model) else "a model read back from its weights scores otherwise"
    )


def scores_its_metric(fitted: Fitted) -> str | None:
    """A metric that is missing, or a score that is not finite."""
    task, model, _ = fitted.prepared()
    scores = task.score(model)
    if task.metric not in scores:
        return f"score() lacks its metric {task.metric}"
    broken = [name for name, value in scores.items() if not np.isfinite(value)]
    return f"not finite: {', '.join(broken)}" if broken else None


def fits_and_scores_leave_process(fitted: Fitted) -> str | None:
    """Gradients turned off, another default dtype, another folder, a thread that runs on, and the like."""
    task, _, labelled = fitted.prepared()
    return left_behind(lambda: task.score(task.fit(labelled, 0)))


def costs_labels(fitted: Fitted) -> str | None:
    """A wrong number of images, or boxes that do not add up over images."""
    task, _, labelled = fitted.prepared()
    cost = task.cost(labelled)
    if (images := cost.get("images")) != len(labelled):
        return f"{plural(len(labelled), 'image')} cost{'s' * (len(labelled) == 1)} {images} images"
    singly = sum(loop.boxes_of(task, labelled)) if "boxes" in cost else 0
    return None if singly == cost.get("boxes", 0) else f"{cost['boxes']:g} boxes together, {singly:g} image by image"


def predicts_probabilities(fitted: Fitted) -> str | None:
    """Predictions of the wrong number, outside 0..1, or on boxes that are none."""
    task, model, _ = fitted.prepared()
    if not hasattr(task, "predict"):
        return None
    seen = task.predict(model, np.arange(10))
    counts_N = seen.image_P.bincount(minlength=10)
    if seen.num_images != 10 or (seen.boxes_P4 is None and (len(counts_N) > 10 or not counts_N.all())):
        return f"{seen.num_images} images and {len(seen.scores_PC)} predictions for 10 images"
    if not len(seen.scores_PC):
        return None  # a detector may find nothing
    low, high = float(seen.scores_PC.min()), float(seen.scores_PC.max())
    if not (low >= 0 and high <= 1 + 1e-5):
        return f"scores between {low} and {high} are no probabilities"
    sums_P = seen.scores_PC.sum(1)
    if not torch.allclose(sums_P, torch.ones_like(sums_P), atol=1e-4):
        return f"rows of scores sum to {float(sums_P.min()):.4g}..{float(sums_P.max()):.4g}, not to one"
    return None if seen.boxes_P4 is None else boxes_wrong(seen, seen.boxes_P4)


def boxes_wrong(seen: Predictions, boxes_P4: Tensor) -> str | None:
    """Boxes of no image, not finite, or without an area."""
    if not bool(((seen.image_P >= 0) & (seen.image_P < seen.num_images)).all()):
        return f"image_P must be in 0..{seen.num_images - 1}: the images asked for, not positions in the pool"
    if not bool(boxes_P4.isfinite().all()):
        return "boxes that are not finite"
    flat = int((boxes_P4[:, 2:] <= boxes_P4[:, :2]).any(1).sum())
    return f"{flat} of {len(boxes_P4)} boxes are not x1 < x2, y1 < y2" if flat else None


def directs_as_it_backpropagates(fitted: Fitted) -> str | None:
    """Directional derivatives that differ from backpropagation's."""
    task, model, labelled = fitted.prepared()
    if not {"weights", "pseudo_labels", "directional"} <= {name for name, _ in inspect.getmembers(task)}:
        return None
    unseen = np.setdiff1d(np.arange(task.num_pool), labelled)[:16]  # fitted images have next to no gradient
    pairs = list(directions(task, model, unseen))
    tolerance = 1e-4 * max(abs(expected) for expected, _ in pairs)
    wrong = [(expected, got) for expected, got in pairs if abs(expected - got) > tolerance]
    return f"directional says {wrong[0][1]:.6g}, backpropagation {wrong[0][0]:.6g}" if wrong else None


def directions(task: Any, model: nn.Module, indices: Indices) -> Iterator[tuple[float, float]]:
    """Derivative of each image's loss along a direction: by backpropagation and by `directional`."""
    weights = task.weights(model)
    generator = torch.Generator().manual_seed(0)
    along = {name: torch.randn(w.shape, generator=generator).to(w) for name, w in weights.items()}
    targets = task.pseudo_labels(model, indices, 1, 0.1)
    fast = task.directional(model, indices, targets, along)
    for number, loss in enumerate(task.losses(model, indices, targets)):
        slow = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
        g, d = (torch.cat([one.double().flatten() for one in parts]) for parts in (slow, along.values()))
        yield float(g @ d), float(fast[number])


def scrambles_unpaid(fitted: Fitted) -> str | None:
    """A scrambling that moves paid labels, or that spares the test set."""
    task, model, labelled = fitted.prepared()
    other = task.scrambled(labelled, 1)
    if not same_weights(model, other.fit(labelled, 0)):
        return "scrambled() moved a paid label: a fit on paid images changed"
    same = task.score(model)[task.metric] == other.score(model)[task.metric]
    return "scrambled() left the test labels as they were" if same else None


TASK: list[tuple[str, Callable[[Any], str | None]]] = [
    ("a fit depends on the set and the seed alone", fits_by_set_and_seed),
    ("its weights can be stored and read back", loads_weights),
    ("it scores its metric", scores_its_metric),
    ("it leaves torch and the process as they were", fits_and_scores_leave_process),
    ("it counts the images it charges for", costs_labels),
    ("it predicts probabilities", predicts_probabilities),
    ("directional derivatives agree with backpropagation", directs_as_it_backpropagates),
    ("scrambled() moves unpaid labels and no others", scrambles_unpaid),
]


def failures(plugin: Plugin, on: Spec, machine: Machine) -> list[str]:
    """What failed, in words; empty where the plug-in conforms. For tests."""
    results = check(Spec.read(plugin.kind, plugin.name), on, machine)
    return [f"{one.check}: {one.words}" for one in results if one.words]
