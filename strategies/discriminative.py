"""Discriminative active learning, DAL (Gissin and Shalev-Shwartz, 2019).

Shapes: N, M images; D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import CapturedFunction, Indices, View, register, seeded

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
    """Selects the images that a discriminator of labelled and unlabelled images most confidently calls unlabelled.

    The budget is divided into several queries. Each query trains a new discriminator on all labelled images and a fresh
    random subset of the unlabelled ones. Its input is the input of the model's last layer, computed once and not
    standardised, as in the authors' code. The selected images count as labelled in the next query; the model itself is
    not trained in between.

    Args:
        num_queries: number of queries that share the budget (10 in SuperAnnotate's code; 20 on learned features in the
            authors').
        width: units in each of the three hidden layers (256: the authors'); at most 20 if there are fewer than 30
            features.
        epochs: the largest number of epochs of a discriminator (500: the authors' for 512 features).
        lr: the learning rate of Adam (2e-4: the authors' for 512 features).
        batch_size: images in a batch of the discriminator (1024: the authors' for 512 features).
        stop_accuracy: the training accuracy above which training stops (0.98: the authors').
        unlabelled_ratio: the number of unlabelled images drawn for each labelled one (10: the authors').
        balanced: `true` gives the labelled and the unlabelled class equal total weight in the loss. The default is
            `false`, because the class weights in the authors' code have no effect.
        within: where a query selects from: the unlabelled `subset` that it was trained on, as in the authors' and
            SuperAnnotate's code, or the whole `pool`.

    Logs:
        epochs: the mean number of epochs of a discriminator.
        accuracy: the mean training accuracy in the last epoch; below `stop_accuracy` a discriminator ran out of epochs.

    References:
        Gissin and Shalev-Shwartz, Discriminative Active Learning, 2019.

    Deviations:
        10 queries, whereas the authors have 20. Images are ranked by logits, so that there are no ties at p = 1.
        SuperAnnotate's script optimises the parameters of the backbone in place of the discriminator's: its published
        curve is that of an untrained discriminator.

    Cost:
        One forward pass per image. Each query takes at most `epochs` passes of the discriminator over (1 +
        unlabelled_ratio) M images, where M are labelled.
    """
    if min(num_queries, width, epochs, batch_size, unlabelled_ratio) < 1:
        raise ValueError(
            "discriminative: num_queries, width, epochs, batch_size and unlabelled_ratio must be 1 or more"
        )
    recipe = Recipe(width, epochs, lr, batch_size, stop_accuracy, balanced)
    num_labelled = len(view.labelled)
    features_ND = view.embed(np.concatenate([view.labelled, view.unlabelled]))
    is_labelled_N = np.arange(len(features_ND)) < num_labelled
    picks, num_epochs, accuracies = [], [], []
    for size in split_budget(budget, num_queries):
        labelled, unlabelled = np.flatnonzero(is_labelled_N), np.flatnonzero(~is_labelled_N)
        smallest = size if within == "subset" else 1
        num_drawn = min(len(unlabelled), max(unlabelled_ratio * len(labelled), smallest))
        subset = rng.choice(unlabelled, num_drawn, replace=False)
        net, epoch, accuracy = train_discriminator(
            features_ND[labelled], features_ND[subset], recipe, int(rng.integers(2**63))
        )
        candidates = subset if within == "subset" else unlabelled
        score_N = torch.full_like(features_ND[:, 0], -torch.inf)
        score_N[candidates] = unlabelled_logit(net, features_ND[candidates])
        picks.append(view.highest(score_N[num_labelled:], size))
        num_epochs.append(epoch)
        accuracies.append(accuracy)
        is_labelled_N[num_labelled + np.searchsorted(view.unlabelled, picks[-1])] = True
    view.log(epochs=float(np.mean(num_epochs)), accuracy=float(np.mean(accuracies)))
    return np.concatenate(picks)


def split_budget(budget: int, num_queries: int) -> list[int]:
    """Divides the budget into `num_queries` parts that differ by at most one; fewer parts if the budget is smaller."""
    return [len(part) for part in np.array_split(np.arange(budget), min(num_queries, budget))]


def build_discriminator(num_features: int, width: int) -> nn.Sequential:
    """Builds the network D -> width x 3 -> 2 with ReLU; `width` is at most 20 below 30 features.

    Weights are Glorot-uniform, biases zero.
    """
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
    """Trains a discriminator; returns it, the number of epochs and its accuracy in the last epoch.

    Adam runs until the accuracy is above `stop_accuracy`. As in Keras, the accuracy is counted over the batches of an
    epoch while the network trains.
    """
    inputs_MD = torch.cat([labelled_MD, unlabelled_MD])
    label_M = (torch.arange(len(inputs_MD), device=inputs_MD.device) >= len(labelled_MD)).long()
    with seeded(seed):
        net = build_discriminator(inputs_MD.shape[1], recipe.width).to(inputs_MD)
    shuffle = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.lr, eps=1e-7, fused=True, capturable=inputs_MD.is_cuda)
    weight_2 = len(label_M) / (2 * label_M.bincount().to(inputs_MD)) if recipe.balanced else None
    num_correct = torch.zeros((), dtype=torch.int64, device=inputs_MD.device)

    def take_step(batch: Tensor) -> None:
        logits = net(inputs_MD[batch])
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(logits, label_M[batch], weight_2))
        optimiser.step()
        num_correct.add_((logits.argmax(1) == label_M[batch]).sum())

    train_on, epoch, accuracy = CapturedFunction(take_step, "the training of a discriminator"), 0, 0.0
    while epoch < recipe.epochs and accuracy <= recipe.stop_accuracy:
        num_correct.zero_()
        order_M = torch.randperm(len(label_M), generator=shuffle).to(inputs_MD.device)
        for batch in torch.split(order_M, recipe.batch_size):
            train_on(batch)
        epoch, accuracy = epoch + 1, num_correct.item() / len(label_M)
    return net, epoch, accuracy


@torch.no_grad()
def unlabelled_logit(net: nn.Sequential, features_ND: Tensor) -> Tensor:
    """Returns the logit of being unlabelled, (N,)."""
    logits_N2 = torch.cat([net(part) for part in torch.split(features_ND, 2**16)])
    return logits_N2[:, UNLABELLED] - logits_N2[:, LABELLED]
