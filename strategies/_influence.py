"""Influence functions (Koh and Liang, 2017) as ISAL uses them (Liu et al., 2021, section 3).

The influence of a candidate x with targets q on the reference loss is I = -s . G: G is the gradient of its loss
and s = s_test the inverse Hessian applied to the reference gradient v. A negative I means that training on x
lowers the reference loss. No candidate's gradient is built: s . G is one directional derivative of its loss.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Direction, Indices, Targets, View

ReferenceSet: TypeAlias = Literal["test", "held_out", "initial", "labelled"]
Order: TypeAlias = Literal["random", "file"]


def needs(*, reference: str, **_: object) -> frozenset[str]:
    """What influence asks of a task, and which labels beyond those bought."""
    labels = {"test": {"test_labels"}, "held_out": {"held_out"}}.get(reference, set())
    return frozenset({"losses", "directional", "pseudo_labels", "weights"} | labels)


def expected_targets(view: View, k: int, allow_degenerate: bool) -> Targets:
    """Pseudo labels of the unlabelled images: the expectation of the gradient over the k likeliest classes (Eq. 3).

    Refuses k = number of classes: E_{y~p}[grad log p(y)] = 0, so the ranking would be rounding noise.
    """
    if k < 1:
        raise ValueError(f"k={k}: must be 1 or more")
    targets = view.pseudo_labels(view.unlabelled, k)
    soft = isinstance(targets, Tensor) and targets.ndim == 2
    if soft and k >= targets.shape[1] and not allow_degenerate:
        raise ValueError(
            f"k={k} on {targets.shape[1]} classes: the gradient's full expectation under the model's own probabilities "
            "is identically zero, and the ranking rounding noise; take a smaller k (allow_degenerate=true insists)"
        )
    return targets


def reference_gradient(view: View, reference: str) -> Direction:
    """v: the SUM over the reference images of the gradient of their loss on their true labels."""
    weights = view.weights()
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for losses_N in view.reference(reference).losses():
        for name, gradient in zip(weights, gradients(losses_N.sum(), weights), strict=True):
            total[name] += gradient
    if not any(tensor.any() for tensor in total.values()):
        raise ValueError(f"reference={reference}: its gradient is zero (no images set aside? all fitted exactly?)")
    return total


def gradients(scalar: Tensor, weights: dict[str, torch.nn.Parameter], again: bool = False) -> tuple[Tensor, ...]:
    """The gradient of a scalar by weight, zeros where it has none; again: differentiable once more."""
    return torch.autograd.grad(scalar, list(weights.values()), create_graph=again, materialize_grads=True)


def inverse_hessian_product(view: View, v: Direction, chains: Indices, *, damping: float, scale: float) -> Direction:
    """s: the mean over the chains of LiSSA's recursion (Agarwal et al., 2017; the paper's Algorithm 3).

    h_0 = v and h_j = v + (1 - damping) h_{j-1} - H_j h_{j-1} / scale, where H_j is the Hessian of the loss of one
    labelled image, chains[repeat, j]. Its fixed point is scale (H + damping scale I)^-1 v: the result is not divided
    by scale, which no ranking needs. Converges where curvature stays below (2 - damping) scale. As in the authors'
    code, a tensor whose product holds NaN starts again from v, so a diverging chain shows in the gain, not as NaN.
    """
    weights = view.weights()
    total = {name: torch.zeros_like(tensor) for name, tensor in v.items()}
    for chain in chains:
        h = dict(v)
        for index in chain:
            for name, product in hessian_product(view, index, weights, h).items():
                step = torch.sub(v[name], product, alpha=1 / scale).add_(h[name], alpha=1 - damping)
                h[name] = torch.where(product.isnan().any(), v[name], step)
        for name, tensor in h.items():
            total[name] += tensor / len(chains)
    return total


def hessian_product(view: View, index: np.int64, weights: dict[str, torch.nn.Parameter], h: Direction) -> Direction:
    """The Hessian of one labelled image's loss, applied to h: the gradient of <gradient, h>."""
    first = gradients(view.losses(np.array([index])).sum(), weights, again=True)
    slope = torch.stack([(g * h[name]).sum() for name, g in zip(weights, first, strict=True)]).sum()
    return dict(zip(weights, gradients(slope, weights), strict=True))


def draw_chains(labelled: Indices, depth: int, repeats: int, order: Order, rng: np.random.Generator) -> Indices:
    """(repeats, depth): the labelled images of each chain, disjoint chains where there are enough of them.

    random: without replacement, and in a new order each time the labelled set is used up (the paper's text).
    file: in order of purchase, so the first ones in every round (the authors' code), from the start when used up.
    """
    size = depth * repeats
    num_passes = -(-size // len(labelled))
    passes = [labelled if order == "file" else rng.permutation(labelled) for _ in range(num_passes)]
    chains: Indices = np.concatenate(passes)[:size].reshape(repeats, depth)
    return chains


def dot(a: Direction, b: Direction) -> float:
    """Inner product of two directions."""
    return sum((a[name] * b[name]).sum(dtype=torch.float64).item() for name in a)


def most_helpful(view: View, budget: int, targets: Targets, direction: Direction) -> Indices:
    """The `budget` candidates of most negative influence, I = -direction . G; ranked by direction . G."""
    helpful_N = view.directional(view.unlabelled, targets, direction)
    view.log(share_negative=(helpful_N > 0).double().mean().item())
    return view.highest(helpful_N, budget)
