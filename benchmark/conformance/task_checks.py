"""What every task must do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import Indices, Predictions
from benchmark.conformance.trials import FittedTask, describe_side_effects
from benchmark.contract.scores import class_scores, resolve_metric
from benchmark.runner import acquisition
from benchmark.text.words import plural


def fit_depends_on_set_and_seed(fitted: FittedTask) -> str | None:
    """Fits that depend on more than the set and the seed, or not on the seed."""
    task, model, labelled = fitted.prepare()
    again, other = task.fit(labelled[::-1].copy(), 0), task.fit(labelled, 1)
    if not same_weights(model, again):
        return "two fits on the same set with the same seed differ (or the order of the set matters)"
    return "the seed changes nothing" if same_weights(model, other) else None


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models are equal to the bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def loads_weights(fitted: FittedTask) -> str | None:
    """A score that changes when weights are stored and read back."""
    task, model, _ = fitted.prepare()
    twin = task.model()
    twin.load_state_dict(model.state_dict())
    return (
        None if task.score(twin.eval()) == task.score(model) else "a model read back from its weights scores otherwise"
    )


def scores_its_metric(fitted: FittedTask) -> str | None:
    """A metric that is missing, or a score that is not finite."""
    task, model, _ = fitted.prepare()
    scores = task.score(model)
    if (name := resolve_metric(task.metric).name) not in scores:
        return f"score() lacks its metric {name}"
    single = {f"{name} of {of}": value for name, by in class_scores(scores).items() for of, value in by.items()}
    broken = [name for name, value in (scores | single).items() if not np.isfinite(value)]
    return f"not finite: {', '.join(broken)}" if broken else None


def fits_and_scores_leave_process(fitted: FittedTask) -> str | None:
    """Gradients turned off, another default dtype, another folder, a thread that runs on, and the like."""
    task, _, labelled = fitted.prepare()
    return describe_side_effects(lambda: task.score(task.fit(labelled, 0)))


def counts_cost(fitted: FittedTask) -> str | None:
    """A wrong number of images, or boxes that do not add up over images."""
    task, _, labelled = fitted.prepare()
    cost = task.cost(labelled)
    if (images := cost.get("images")) != len(labelled):
        return f"{plural(len(labelled), 'image')} cost{'s' * (len(labelled) == 1)} {images} images"
    singly = sum(acquisition.boxes_per_image(task, labelled)) if "boxes" in cost else 0
    return None if singly == cost.get("boxes", 0) else f"{cost['boxes']:g} boxes together, {singly:g} image by image"


def predicts_probabilities(fitted: FittedTask) -> str | None:
    """Predictions of the wrong number, outside 0..1, or on boxes that are none."""
    task, model, _ = fitted.prepare()
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
    return None if seen.boxes_P4 is None else describe_bad_boxes(seen, seen.boxes_P4)


def describe_bad_boxes(seen: Predictions, boxes_P4: Tensor) -> str | None:
    """Boxes of no image, not finite, or without an area."""
    if not bool(((seen.image_P >= 0) & (seen.image_P < seen.num_images)).all()):
        return f"image_P must be in 0..{seen.num_images - 1}: the images asked for, not positions in the pool"
    if not bool(boxes_P4.isfinite().all()):
        return "boxes that are not finite"
    flat = int((boxes_P4[:, 2:] <= boxes_P4[:, :2]).any(1).sum())
    return f"{flat} of {len(boxes_P4)} boxes are not x1 < x2, y1 < y2" if flat else None


def directional_matches_backpropagation(fitted: FittedTask) -> str | None:
    """Directional derivatives that differ from backpropagation's."""
    task, model, labelled = fitted.prepare()
    if not {"weights", "pseudo_labels", "directional"} <= {name for name, _ in inspect.getmembers(task)}:
        return None
    unseen = np.setdiff1d(np.arange(task.num_pool), labelled)[:16]  # fitted images have next to no gradient
    pairs = list(derivative_pairs(task, model, unseen))
    tolerance = 1e-4 * max(abs(expected) for expected, _ in pairs)
    wrong = [(expected, got) for expected, got in pairs if abs(expected - got) > tolerance]
    return f"directional says {wrong[0][1]:.6g}, backpropagation {wrong[0][0]:.6g}" if wrong else None


def derivative_pairs(task: Any, model: nn.Module, indices: Indices) -> Iterator[tuple[float, float]]:
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


def scrambles_unpaid(fitted: FittedTask) -> str | None:
    """A scrambling that moves paid labels, or that spares the test set."""
    task, model, labelled = fitted.prepare()
    other = task.scrambled(labelled, 1)
    if not same_weights(model, other.fit(labelled, 0)):
        return "scrambled() moved a paid label: a fit on paid images changed"
    name = resolve_metric(task.metric).name
    same = task.score(model)[name] == other.score(model)[name]
    return "scrambled() left the test labels as they were" if same else None


TASK_CHECKS: list[tuple[str, Callable[[Any], str | None]]] = [
    ("a fit depends on the set and the seed alone", fit_depends_on_set_and_seed),
    ("its weights can be stored and read back", loads_weights),
    ("it scores its metric", scores_its_metric),
    ("it leaves torch and the process as they were", fits_and_scores_leave_process),
    ("it counts the images it charges for", counts_cost),
    ("it predicts probabilities", predicts_probabilities),
    ("directional derivatives agree with backpropagation", directional_matches_backpropagation),
    ("scrambled() moves unpaid labels and no others", scrambles_unpaid),
]
