"""Influence functions (Koh and Liang, 2017) as ISAL uses them (Liu et al., 2021, section 3).

The influence of a candidate x with targets q on the reference loss is I = -s . G: G is the gradient of its loss
and s = s_test the inverse Hessian applied to the reference gradient v. A negative I means that training on x
lowers the reference loss. No candidate's gradient is built: s . G is one directional derivative of its loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap

from benchmark.api import Direction, Indices, Need, Targets, View

from .boxes import WithoutBoxes, lowest_then_random

ReferenceSet: TypeAlias = Literal["test", "held_out", "initial", "labelled"]
Order: TypeAlias = Literal["random", "file", "newest", "published"]


def needs(*, reference: str, **_: object) -> frozenset[Need]:
    """What influence asks of a task, and which labels beyond those bought."""
    labels: dict[str, Need] = {"test": "test_labels", "held_out": "held_out"}
    own: frozenset[Need] = frozenset({"losses", "directional", "pseudo_labels", "weights"})
    return own | {labels[reference]} if reference in labels else own


def expected_targets(view: View, k: int, allow_degenerate: bool, min_score: float) -> Targets:
    """Pseudo labels of the unlabelled images: the expectation of the gradient over the k likeliest classes (Eq. 3).

    Refuses k = number of classes: E_{y~p}[grad log p(y)] = 0, so the ranking would be rounding noise.
    A detector's are the boxes of a confidence of at least min_score, each as if it were labelled.
    """
    if k < 1:
        raise ValueError(f"k={k}: must be 1 or more")
    targets = view.pseudo_labels(view.unlabelled, k, min_score)
    num_classes = targets.shape[1] if isinstance(targets, Tensor) and targets.ndim == 2 else math.inf
    if k >= num_classes and not allow_degenerate:
        raise ValueError(
            f"k={k} on {num_classes} classes: the gradient's full expectation under the model's own probabilities "
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


def gradients(
    scalar: Tensor, weights: dict[str, torch.nn.Parameter], differentiable: bool = False
) -> tuple[Tensor, ...]:
    """The gradient of a scalar by weight, zeros where it has none; again: differentiable once more."""
    return torch.autograd.grad(scalar, list(weights.values()), create_graph=differentiable, materialize_grads=True)


def scales_by_name(view: View, scale: float, block_scales: str) -> dict[str, float]:
    """The scale of each weight tensor, by name: `scale`, or the numbers of `100/8000/5000`, in the tensors' order."""
    names = list(view.weights())
    try:
        scales = [float(number) for number in block_scales.split("/")] if block_scales else [scale] * len(names)
    except ValueError:
        scales = []
    if len(scales) != len(names):
        told = f"{len(names)} numbers with / between them, for {', '.join(names)}"
        raise ValueError(f"isal[block_scales={block_scales}]: {told}")
    if not all(0 < number < math.inf for number in scales):
        raise ValueError(f"isal: scale and block_scales must be finite and above 0, not {block_scales or scale}")
    return dict(zip(names, scales, strict=True))


def inverse_hessian_product(
    view: View, v: Direction, chains: Indices, *, damping: float, scale: Mapping[str, float], batched: bool = False
) -> Direction:
    """s: the mean over the chains of LiSSA's recursion (Agarwal et al., 2017; the paper's Algorithm 3).

    h_0 = v and h_j = v + (1 - damping) h_{j-1} - S^-1 H_j h_{j-1}, where H_j is the Hessian of the loss of one
    labelled image, chains[repeat, j], and S the scale of each tensor. Its fixed point is (H + damping S)^-1 S v: the
    result is not divided by S, which no ranking needs where S is one number; where it is not, blocks weigh by it, as
    in the authors' code. Converges where the curvature of S^-1 H stays below 2 - damping. As in that code, a tensor
    whose product holds NaN starts again from v, so a diverging chain shows in the gain, not as NaN.
    together: the products of all chains in one call of each operation, for a device that waits for calls.
    """
    weights = view.weights()
    hs = [dict(v) for _ in chains]
    products = hessian_products_batched if batched else hessian_products_one_by_one
    for indices in chains.T:
        for h, moved in zip(hs, products(view, indices, weights, hs), strict=True):
            for name, product in moved.items():
                step = torch.sub(v[name], product, alpha=1 / scale[name]).add_(h[name], alpha=1 - damping)
                h[name] = torch.where(product.amax().isnan(), v[name], step)  # a maximum passes NaN on
    total = {name: torch.zeros_like(tensor) for name, tensor in v.items()}
    for h in hs:
        for name, tensor in h.items():
            total[name] += tensor / len(chains)
    return total


def hessian_products_one_by_one(
    view: View, indices: Indices, weights: dict[str, torch.nn.Parameter], hs: Sequence[Direction]
) -> Iterator[Direction]:
    """The Hessian of each labelled image's loss, applied to its h: it is symmetric, so h weighs the gradient's
    gradient."""
    for index, h in zip(indices, hs, strict=True):
        first = gradients(view.losses(np.array([index])).sum(), weights, differentiable=True)
        moving = [(gradient, h[name]) for name, gradient in zip(weights, first, strict=True) if gradient.requires_grad]
        if not moving:
            yield {name: torch.zeros_like(weight) for name, weight in weights.items()}
            continue
        slopes, along = zip(*moving, strict=True)
        second = torch.autograd.grad(slopes, list(weights.values()), along, materialize_grads=True)
        yield dict(zip(weights, second, strict=True))


def hessian_products_batched(
    view: View, indices: Indices, weights: dict[str, torch.nn.Parameter], hs: Sequence[Direction]
) -> list[Direction]:
    """The same by forward over reverse differentiation, all images in one batch: more arithmetic, fewer calls."""
    loss_of = LossesModule(view, indices)
    at = {f"model.{name}": weight.detach() for name, weight in weights.items()}

    def product(only_R: Tensor, h: Direction) -> Direction:
        def loss(weights: Direction) -> Tensor:
            masked: Tensor = functional_call(loss_of, weights, ()) @ only_R
            return masked

        moved: Direction = jvp(grad(loss), (at,), (h,))[1]
        return moved

    stacked = {f"model.{name}": torch.stack([h[name] for h in hs]) for name in weights}
    one_R = torch.eye(len(hs), device=next(iter(at.values())).device, dtype=next(iter(at.values())).dtype)
    moved = vmap(product)(one_R, stacked)
    return [{name: moved[f"model.{name}"][number] for name in weights} for number in range(len(hs))]


class LossesModule(torch.nn.Module):
    """The losses of labelled images as a module, so that its weights can be replaced."""

    def __init__(self, view: View, indices: Indices) -> None:
        super().__init__()
        self.model, self._losses = view.model, partial(view.losses, indices)

    def forward(self) -> Tensor:
        """(R,)."""
        return self._losses()


def draw_chains(
    purchases: Sequence[Indices], depth: int, repeats: int, order: Order, rng: np.random.Generator
) -> Indices:
    """(repeats, depth): the labelled images of each chain, disjoint chains where there are enough of them.

    random: without replacement, and in a new order each time the labelled set is used up (the paper's text).
    file: in order of purchase, so the first ones in every round, from the start when used up (the authors' code for
        classification). newest: the same, backwards.
    published: the authors' code for detection, which puts each purchase in front of the earlier ones, in its own order,
        deals the images of that one after another to `repeats` processes, and filled up from its beginning where they
        do not come out even, and passes over them once: chains shorter than depth where images are few.
    """
    if min(depth, repeats) < 1:
        raise ValueError(f"depth={depth}, repeats={repeats}: both must be 1 or more")
    labelled = np.concatenate(purchases)
    if order == "published":
        length = -(-len(labelled) // repeats)
        dealt: Indices = np.resize(np.concatenate(purchases[::-1]), length * repeats).reshape(length, repeats)
        return dealt.T[:, :depth]
    size = depth * repeats
    in_order = labelled[::-1] if order == "newest" else labelled
    num_passes = -(-size // len(labelled))
    passes = [rng.permutation(labelled) if order == "random" else in_order for _ in range(num_passes)]
    chains: Indices = np.concatenate(passes)[:size].reshape(repeats, depth)
    return chains


def dot(a: Direction, b: Direction) -> float:
    """Inner product of two directions."""
    return sum((a[name] * b[name]).sum(dtype=torch.float64).item() for name in a)


def select_most_helpful(
    view: View,
    budget: int,
    targets: Targets,
    direction: Direction,
    without_boxes: WithoutBoxes,
    rng: np.random.Generator,
) -> Indices:
    """The `budget` candidates of most negative influence, I = -direction . G; ranked by direction . G.

    without_boxes: a detector's images without a pseudo box have no value, and come in at random where too few others
    are left (`last`, the authors' code), or have that of an image of background alone (`score`).
    """
    helpful_N = view.directional(view.unlabelled, targets, direction)
    known_N: npt.NDArray[np.bool_] = np.ones(len(view.unlabelled), dtype=np.bool_)
    if isinstance(targets, list):
        has_N = np.array([len(boxes) > 0 for boxes in targets], dtype=np.bool_)
        view.log(share_without_boxes=float((~has_N).mean()))
        known_N = has_N | (without_boxes == "score")
    view.log(share_negative=float(((helpful_N > 0).cpu().numpy() & known_N).mean()))
    return lowest_then_random(view, -helpful_N, known_N, budget, rng)
