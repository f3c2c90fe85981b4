"""The checks that every task must pass. A check returns a message if it fails, otherwise None."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import Indices, KeepsImagesOnDevice, Predictions
from benchmark.conformance.trials import FittedTask, describe_side_effects
from benchmark.contract.metrics import class_scores, resolve_metric
from benchmark.runner import acquisition
from benchmark.text.words import plural


def fit_depends_on_set_and_seed(fitted: FittedTask) -> str | None:
    """Finds fits that depend on more than the labelled set and the seed, or not on the seed. Only a model without
    parameters, such as nearest neighbours, need not depend on it."""
    task, model, labelled = fitted.prepare()
    again, other = task.fit(labelled[::-1].copy(), 0), task.fit(labelled, 1)
    if not same_weights(model, again):
        return "two fits on the same set with the same seed differ (or the order of the set matters)"
    has_weights = any(True for _ in model.parameters())
    return (
        "fits with two seeds are equal: the seed has no effect" if has_weights and same_weights(model, other) else None
    )


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Returns whether the weights of two models are equal to the bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def loads_weights(fitted: FittedTask) -> str | None:
    """Finds a score that changes when weights are stored and read back."""
    task, model, _ = fitted.prepare()
    twin = task.model()
    twin.load_state_dict(model.state_dict())
    return (
        None
        if task.score(twin.eval()) == task.score(model)
        else "a model that is loaded from its stored weights has another score"
    )


def scores_its_metric(fitted: FittedTask) -> str | None:
    """Finds a missing metric, or a score that is not finite."""
    task, model, _ = fitted.prepare()
    scores = task.score(model)
    if (name := resolve_metric(task.metric).name) not in scores:
        return f"score() does not return the metric {name}"
    single = {
        f"{score} of {label}": value
        for score, by_class in class_scores(scores).items()
        for label, value in by_class.items()
    }
    broken = [name for name, value in (scores | single).items() if not np.isfinite(value)]
    return f"not finite: {', '.join(broken)}" if broken else None


def fits_and_scores_leave_process(fitted: FittedTask) -> str | None:
    """Finds changes to the process: gradients turned off, another default dtype, another folder, a running thread."""
    task, _, labelled = fitted.prepare()
    return describe_side_effects(lambda: task.score(task.fit(labelled, 0)))


def counts_cost(fitted: FittedTask) -> str | None:
    """Finds a wrong number of images, or boxes that do not add up over images."""
    task, _, labelled = fitted.prepare()
    cost = task.cost(labelled)
    if (images := cost.get("images")) != len(labelled):
        return f"{plural(len(labelled), 'image')} cost{'s' * (len(labelled) == 1)} {images} images"
    singly = sum(acquisition.boxes_per_image(task, labelled)) if "boxes" in cost else 0
    return None if singly == cost.get("boxes", 0) else f"{cost['boxes']:g} boxes together, {singly:g} image by image"


def predicts_probabilities(fitted: FittedTask) -> str | None:
    """Finds predictions of a wrong number, scores outside 0..1 or rows that do not sum to one, and invalid boxes."""
    task, model, _ = fitted.prepare()
    if not hasattr(task, "predict"):
        return None
    predictions = task.predict(model, np.arange(10))
    counts_N = predictions.image_P.bincount(minlength=10)
    has_any_number = predictions.boxes_P4 is not None or predictions.points_P2 is not None
    if predictions.num_images != 10 or (not has_any_number and (len(counts_N) > 10 or not counts_N.all())):
        return f"{predictions.num_images} images and {len(predictions.scores_PC)} predictions for 10 images"
    if not len(predictions.scores_PC):
        return None  # a detector may predict no box, a pose estimator no person
    low, high = float(predictions.scores_PC.min()), float(predictions.scores_PC.max())
    if not (low >= 0 and high <= 1 + 1e-5):
        return f"scores between {low} and {high} are not probabilities"
    sums_P = predictions.scores_PC.sum(1)
    if not torch.allclose(sums_P, torch.ones_like(sums_P), atol=1e-4):
        return f"rows of scores sum to {float(sums_P.min()):.4g}..{float(sums_P.max()):.4g}, not to one"
    return None if predictions.boxes_P4 is None else describe_bad_boxes(predictions, predictions.boxes_P4)


def describe_bad_boxes(predictions: Predictions, boxes_P4: Tensor) -> str | None:
    """Returns a message on boxes that belong to no image, are not finite, or have no area; otherwise None."""
    if not bool(((predictions.image_P >= 0) & (predictions.image_P < predictions.num_images)).all()):
        return (
            f"image_P must be in 0..{predictions.num_images - 1}: rows of the call's indices, not positions in the pool"
        )
    if not bool(boxes_P4.isfinite().all()):
        return "boxes are not finite"
    flat = int((boxes_P4[:, 2:] <= boxes_P4[:, :2]).any(1).sum())
    return f"{flat} of {len(boxes_P4)} boxes have no area: x1 < x2 and y1 < y2 must hold" if flat else None


def directional_matches_backpropagation(fitted: FittedTask) -> str | None:
    """Finds directional derivatives that differ from those of backpropagation."""
    task, model, labelled = fitted.prepare()
    if not {"weights", "pseudo_labels", "directional"} <= {name for name, _ in inspect.getmembers(task)}:
        return None
    unlabelled = np.setdiff1d(np.arange(task.num_pool), labelled)[:16]  # labelled images have almost no gradient
    pairs = list(derivative_pairs(task, model, unlabelled))
    tolerance = 1e-4 * max(abs(expected) for expected, _ in pairs)
    wrong = [(expected, got) for expected, got in pairs if abs(expected - got) > tolerance]
    return f"directional gives {wrong[0][1]:.6g}, backpropagation {wrong[0][0]:.6g}" if wrong else None


def derivative_pairs(task: Any, model: nn.Module, indices: Indices) -> Iterator[tuple[float, float]]:
    """Yields the derivative of each image's loss along one direction, by backpropagation and by `directional`."""
    weights = task.weights(model)
    generator = torch.Generator().manual_seed(0)
    direction = {name: torch.randn(w.shape, generator=generator).to(w) for name, w in weights.items()}
    targets = task.pseudo_labels(model, indices, 1, 0.1)
    fast = task.directional(model, indices, targets, direction)
    for number, loss in enumerate(task.losses(model, indices, targets)):
        slow = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
        g, d = (torch.cat([part.double().flatten() for part in parts]) for parts in (slow, direction.values()))
        yield float(g @ d), float(fast[number])


def row_losses_match(fitted: FittedTask) -> str | None:
    """Finds losses by row that are not those of the same images by position."""
    task, model, labelled = fitted.prepare()
    if not isinstance(task, KeepsImagesOnDevice):
        return None
    rows = np.array([len(labelled) - 1, 0])
    expected = task.losses(model, labelled[rows])
    by_row = task.row_losses(model, labelled)(torch.from_numpy(rows).to(expected.device))
    return None if torch.allclose(by_row, expected) else "row_losses gives other losses than `losses`"


def scrambles_unpaid(fitted: FittedTask) -> str | None:
    """Finds a `scrambled` that changes labels that are paid for, or leaves those of the test set."""
    task, model, labelled = fitted.prepare()
    other = task.scrambled(labelled, 1)
    if not same_weights(model, other.fit(labelled, 0)):
        return "scrambled() changed a label that is paid for: a fit on those images changed"
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
    ("losses by row are those by position", row_losses_match),
    ("scrambled() moves unpaid labels and no others", scrambles_unpaid),
]
