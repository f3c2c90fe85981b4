"""Influence functions (Koh and Liang, 2017) as ISAL uses them (Liu et al., 2021, section 3).

The influence of a candidate x with targets q on the reference loss is I = -s . G. G is the gradient of the candidate's
loss, and s = s_test is the inverse Hessian applied to the reference gradient v. A negative I means that training on x
lowers the reference loss. The gradient of a candidate is never built: s . G is a directional derivative of its loss.

Shapes: N images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.api import CapturedFunction, Direction, Indices, Need, Targets, View

from .boxes import WithoutBoxes, lowest_then_random

ReferenceSet: TypeAlias = Literal["test", "held_out", "initial", "labelled"]
Order: TypeAlias = Literal["random", "file", "newest", "published"]


def needs(*, reference: str, **_: object) -> frozenset[Need]:
    """Returns the capabilities that influence needs, and the need for labels of the reference set."""
    labels: dict[str, Need] = {"test": "test_labels", "held_out": "held_out"}
    always: frozenset[Need] = frozenset({"losses", "directional", "pseudo_labels", "weights"})
    return always | {labels[reference]} if reference in labels else always


def expected_targets(view: View, k: int, allow_degenerate: bool, min_score: float) -> Targets:
    """Returns pseudo labels of the unlabelled images whose gradient is the expectation over the k likeliest classes
    (Eq. 3).

    k equal to the number of classes is refused: E_{y~p}[grad log p(y)] = 0, so the ranking would be rounding noise. The
    pseudo labels of a detector are its boxes with at least the confidence `min_score`.
    """
    if k < 1:
        raise ValueError(f"k={k}: must be 1 or more")
    targets = view.pseudo_labels(view.unlabelled, k, min_score)
    num_classes = targets.shape[1] if isinstance(targets, Tensor) and targets.ndim == 2 else math.inf
    if k >= num_classes and not allow_degenerate:
        raise ValueError(
            f"k={k} on {num_classes} classes: the expectation of the gradient over all classes is identically zero, so "
            "the ranking would be rounding noise; take a smaller k, or set allow_degenerate=true"
        )
    return targets


def reference_gradient(view: View, reference: str) -> Direction:
    """Returns v: the sum (not the mean) over the reference images of the gradients of their losses on true labels."""
    weights = view.weights()
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for losses_N in view.reference(reference).losses():
        for name, gradient in zip(weights, gradients(losses_N.sum(), weights), strict=True):
            total[name] += gradient
    if not any(tensor.any() for tensor in total.values()):
        raise ValueError(
            f"reference={reference}: its gradient is zero: it has no images (set validation=N), or all fit exactly"
        )
    return total


def gradients(
    scalar: Tensor, weights: dict[str, torch.nn.Parameter], differentiable: bool = False
) -> tuple[Tensor, ...]:
    """Returns the gradient of a scalar for each weight, zeros where it has none.

    `differentiable` lets the gradients be differentiated once more.
    """
    return torch.autograd.grad(scalar, list(weights.values()), create_graph=differentiable, materialize_grads=True)


def scales_by_name(view: View, scale: float, block_scales: str) -> dict[str, float]:
    """Returns the scale of each weight tensor: `scale`, or the numbers of `block_scales` (100/8000/5000) in their
    order."""
    names = list(view.weights())
    try:
        scales = [float(number) for number in block_scales.split("/")] if block_scales else [scale] * len(names)
    except ValueError:
        scales = []
    if len(scales) != len(names):
        expected = f"{len(names)} numbers with / between them, for {', '.join(names)}"
        raise ValueError(f"isal[block_scales={block_scales}]: must be {expected}")
    if not all(0 < number < math.inf for number in scales):
        raise ValueError(f"isal: scale and block_scales must be finite and above 0, not {block_scales or scale}")
    return dict(zip(names, scales, strict=True))


def inverse_hessian_product(
    view: View, v: Direction, chains: Indices, *, damping: float, scale: Mapping[str, float]
) -> Direction:
    """Returns s: the mean over chains of LiSSA's recursion (Agarwal et al., 2017; Algorithm 3 of the ISAL paper).

    h_0 = v and h_j = v + (1 - damping) h_{j-1} - S^-1 H_j h_{j-1}. H_j is the Hessian of the loss of one labelled
    image, chains[repeat, j], and S the scale of each tensor. The fixed point is (H + damping S)^-1 S v. The result is
    not divided by S, as in the authors' code: with one scale no ranking changes, with several the blocks are weighted
    by S. The recursion converges where the curvature of S^-1 H stays below 2 - damping. As in that code, a tensor whose
    Hessian product holds NaN starts again from v, so a diverging chain shows in the logged `gain` and not as NaN. A GPU
    runs the steps of a classifier as a CUDA graph.
    """
    weights, images = view.weights(), np.unique(chains)
    h, total = ({name: torch.zeros_like(tensor) for name, tensor in v.items()} for _ in range(2))
    row_losses = view.row_losses(images)

    def take_step(row_1: Tensor) -> None:
        loss = view.losses(images[row_1.numpy()]) if row_losses is None else row_losses(row_1)
        for name, product in hessian_product(loss.sum(), weights, h).items():
            step = torch.sub(v[name], product, alpha=1 / scale[name]).add_(h[name], alpha=1 - damping)
            h[name].copy_(torch.where(product.amax().isnan(), v[name], step))  # a maximum passes NaN on

    recursion = take_step if row_losses is None else CapturedFunction(take_step, "the Hessian product of a classifier")
    device = "cpu" if row_losses is None else next(iter(v.values())).device
    for chain in chains:
        for name, tensor in v.items():
            h[name].copy_(tensor)
        for row_1 in torch.from_numpy(np.searchsorted(images, chain)).to(device).split(1):
            recursion(row_1)
        for name, tensor in h.items():
            total[name] += tensor / len(chains)
    return total


def hessian_product(loss: Tensor, weights: dict[str, torch.nn.Parameter], h: Direction) -> Direction:
    """Returns the Hessian of a loss applied to h, by two backward passes."""
    first = gradients(loss, weights, differentiable=True)
    pairs = [(gradient, h[name]) for name, gradient in zip(weights, first, strict=True) if gradient.requires_grad]
    if not pairs:
        return {name: torch.zeros_like(weight) for name, weight in weights.items()}
    slopes, along = zip(*pairs, strict=True)
    second = torch.autograd.grad(slopes, list(weights.values()), along, materialize_grads=True)
    return dict(zip(weights, second, strict=True))


def draw_chains(
    purchases: Sequence[Indices], depth: int, repeats: int, order: Order, rng: np.random.Generator
) -> Indices:
    """Returns the labelled images of each chain, (repeats, depth); chains are disjoint where there are enough images.

    `random` draws without replacement, and in a new order each time the labelled set is used up (the paper's text).
    `file` takes images in the order of purchase and starts again when all are used up, so each round begins with the
    same images (the authors' code for classifiers); `newest` is the reverse order. `published` is the authors' code for
    detectors: the latest purchase comes first, images are dealt in turn to `repeats` processes (some images twice if
    the labelled set does not divide evenly), and each process reads its images once, so chains are shorter than `depth`
    where images are few.
    """
    if min(depth, repeats) < 1:
        raise ValueError(f"depth={depth}, repeats={repeats}: both must be 1 or more")
    labelled = np.concatenate(purchases)
    if order == "published":
        length = -(-len(labelled) // repeats)
        by_process: Indices = np.resize(np.concatenate(purchases[::-1]), length * repeats).reshape(length, repeats)
        return by_process.T[:, :depth]
    size = depth * repeats
    in_order = labelled[::-1] if order == "newest" else labelled
    num_passes = -(-size // len(labelled))
    passes = [rng.permutation(labelled) if order == "random" else in_order for _ in range(num_passes)]
    chains: Indices = np.concatenate(passes)[:size].reshape(repeats, depth)
    return chains


def dot(a: Direction, b: Direction) -> float:
    """Returns the inner product of two directions."""
    return sum((a[name] * b[name]).sum(dtype=torch.float64).item() for name in a)


def select_most_helpful(
    view: View,
    budget: int,
    targets: Targets,
    direction: Direction,
    without_boxes: WithoutBoxes,
    rng: np.random.Generator,
) -> Indices:
    """Selects the `budget` candidates with the most negative influence, I = -direction . G.

    With `without_boxes=last` a detector's images without a pseudo box have no value and follow at random where too few
    others are left (the authors' code). With `score` they have the influence of an image of background alone.
    """
    slope_N = view.directional(view.unlabelled, targets, direction)
    has_value_N: npt.NDArray[np.bool_] = np.ones(len(view.unlabelled), dtype=np.bool_)
    if isinstance(targets, list):
        has_boxes_N = np.array([len(boxes) > 0 for boxes in targets], dtype=np.bool_)
        view.log(share_without_boxes=float((~has_boxes_N).mean()))
        has_value_N = has_boxes_N | (without_boxes == "score")
    view.log(share_negative=float(((slope_N > 0).cpu().numpy() & has_value_N).mean()))
    return lowest_then_random(view, -slope_N, has_value_N, budget, rng)
