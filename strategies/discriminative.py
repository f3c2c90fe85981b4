"""Discriminative active learning, DAL (Gissin and Shalev-Shwartz, 2019). Shapes: N, M images, D features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Indices, View, register, seeded

LABELLED, UNLABELLED = 0, 1  # classes of the discriminator


@dataclass(frozen=True)
class Recipe:
    """How one discriminator is trained."""

    width: int
    epochs: int
    lr: float
    batch_size: int
    stop_accuracy: float
    balanced: bool


@register(needs={"embed"}, version=2)
def discriminative(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    num_queries: int = 10,
    width: int = 256,
    epochs: int = 500,
    lr: float = 2e-4,
    batch_size: int = 1024,
    stop_accuracy: float = 0.98,
    unlabelled_ratio: int = 10,
    balanced: bool = False,
    within: Literal["subset", "pool"] = "subset",
) -> Indices:
    """The images that a classifier of labelled against unlabelled is surest are unlabelled.

    Each query trains a new one, on the input of the model's last layer (computed once, not standardised, as the authors
    do): all labelled images against a fresh draw of unlabelled ones. Its picks are of that draw, and join the labelled.
    num_queries: parts of the budget (10: SuperAnnotate's; the authors' code: 20 on learned features). width, epochs,
        lr, batch_size: units a hidden layer, epochs at most, Adam's step and batch (the authors' for 512 features).
        stop_accuracy: training stops above it (0.98: the authors'). unlabelled_ratio: unlabelled images drawn for each
        labelled one (10: the authors'). balanced: weigh both sides alike; off, as the authors' weights do nothing.
        within: picks are of the draw (`subset`, as in the authors' code and SuperAnnotate's) or of the whole `pool`.
    Logs means over queries: `epochs`, and `accuracy` in the last one (below stop_accuracy: it ran out of epochs).
    Deviations: 10 queries, not the authors' 20; ranks logits: no ties at p = 1. SuperAnnotate's script optimises the
    backbone's parameters in place of the discriminator's: its published curve is that of an untrained discriminator.
    Cost: a forward pass an image; a query is at most `epochs` passes of the net over (1 + unlabelled_ratio) M images.
    """
    if min(num_queries, width, epochs, batch_size, unlabelled_ratio) < 1:
        raise ValueError("discriminative: num_queries, width, epochs, batch_size and unlabelled_ratio start at 1")
    recipe = Recipe(width, epochs, lr, batch_size, stop_accuracy, balanced)
    num_labelled = len(view.labelled)
    features_ND = view.embed(np.concatenate([view.labelled, view.unlabelled]))
    known_N = np.arange(len(features_ND)) < num_labelled
    picks, lasted, accuracies = [], [], []
    for size in split_budget(budget, num_queries):
        inside, outside = np.flatnonzero(known_N), np.flatnonzero(~known_N)
        least = size if within == "subset" else 1
        shown = rng.choice(outside, min(len(outside), max(unlabelled_ratio * len(inside), least)), replace=False)
        net, epoch, accuracy = train_discriminator(
            features_ND[inside], features_ND[shown], recipe, int(rng.integers(2**63))
        )
        offered = shown if within == "subset" else outside
        score_N = torch.full_like(features_ND[:, 0], -torch.inf)
        score_N[offered] = unlabelled_logit(net, features_ND[offered])
        picks.append(view.highest(score_N[num_labelled:], size))
        lasted.append(epoch)
        accuracies.append(accuracy)
        known_N[num_labelled + np.searchsorted(view.unlabelled, picks[-1])] = True
    view.log(epochs=float(np.mean(lasted)), accuracy=float(np.mean(accuracies)))
    return np.concatenate(picks)


def split_budget(budget: int, num_queries: int) -> list[int]:
    """The budget in num_queries parts that differ by one at most; fewer parts where it is smaller than that."""
    return [len(part) for part in np.array_split(np.arange(budget), min(num_queries, budget))]


def build_discriminator(num_features: int, width: int) -> nn.Sequential:
    """D -> width x 3 -> 2 with ReLU, at most 20 wide below 30 features; Glorot-uniform weights and zero biases."""
    width = width if num_features >= 30 else min(width, 20)
    layers: list[nn.Module] = []
    for inputs in (num_features, width, width):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(width, 2))
    for name, parameter in net.named_parameters():
        nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.xavier_uniform_(parameter)
    return net


def train_discriminator(
    labelled_MD: Tensor, unlabelled_MD: Tensor, recipe: Recipe, seed: int
) -> tuple[nn.Sequential, int, float]:
    """A discriminator, the epochs it took and its accuracy in the last one.

    Adam until stop_accuracy is passed, counted as Keras does: over the batches of an epoch while it trains.
    """
    inputs_MD = torch.cat([labelled_MD, unlabelled_MD])
    label_M = (torch.arange(len(inputs_MD), device=inputs_MD.device) >= len(labelled_MD)).long()
    with seeded(seed):
        net = build_discriminator(inputs_MD.shape[1], recipe.width).to(inputs_MD)
    shuffle = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.lr, eps=1e-7, fused=True)
    weight_2 = len(label_M) / (2 * label_M.bincount().to(inputs_MD)) if recipe.balanced else None
    epoch, accuracy = 0, 0.0
    while epoch < recipe.epochs and accuracy <= recipe.stop_accuracy:
        right = torch.zeros((), dtype=torch.int64, device=inputs_MD.device)
        order_M = torch.randperm(len(label_M), generator=shuffle).to(inputs_MD.device)
        for batch in torch.split(order_M, recipe.batch_size):
            logits = net(inputs_MD[batch])
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(logits, label_M[batch], weight_2))
            optimiser.step()
            right += (logits.argmax(1) == label_M[batch]).sum()
        epoch, accuracy = epoch + 1, right.item() / len(label_M)
    return net, epoch, accuracy


@torch.no_grad()
def unlabelled_logit(net: nn.Sequential, features_ND: Tensor) -> Tensor:
    """(N,): the logit of being unlabelled."""
    logits_N2 = torch.cat([net(part) for part in torch.split(features_ND, 2**16)])
    return logits_N2[:, UNLABELLED] - logits_N2[:, LABELLED]
