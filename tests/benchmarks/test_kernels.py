"""The hot paths beside the usual ways to write them, in one run: `make bench`. Compare the rows of a group.

Shapes: N images, D features, C classes.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.metrics import pairwise_distances
from torch import Tensor

from benchmark.api import Machine
from strategies._kcenter import eager, greedy, nearest
from strategies.badge import seeding
from tasks._classifier import Classifier, Recipe, Split

N, D, C = 5_000, 128, 50


def usual_greedy(points_ND: Tensor, centres_MD: Tensor, budget: int) -> Tensor:
    """k-center with `torch.cdist`, a stack, a minimum and an argmax a pick."""
    distance_N = torch.cdist(points_ND, centres_MD).amin(1)
    picks: list[int] = []
    for _ in range(budget):
        picks.append(int(distance_N.argmax().item()))
        distance_N = torch.stack([distance_N, torch.cdist(points_ND, points_ND[picks[-1:]])[:, 0]]).amin(0)
    return torch.tensor(picks)


def usual_pairwise(points_ND: Tensor, centres_MD: Tensor, budget: int) -> Tensor:
    """k-center with scikit-learn's `pairwise_distances`, as the published code of several papers does."""
    points, distance_N = points_ND.numpy(), pairwise_distances(points_ND.numpy(), centres_MD.numpy()).min(1)
    picks: list[int] = []
    for _ in range(budget):
        picks.append(int(distance_N.argmax()))
        distance_N = np.minimum(distance_N, pairwise_distances(points, points[picks[-1:]])[:, 0])
    return torch.tensor(picks)


def one_product_a_pick(points_ND: Tensor, centres_MD: Tensor, budget: int) -> Tensor:
    """k-center that reads every feature once a pick."""
    norms_N = points_ND.square().sum(1)
    return eager(points_ND, norms_N, nearest(points_ND, norms_N, centres_MD), budget)


def usual_seeding(residual_NC: Tensor, embedding_ND: Tensor, budget: int, rng: np.random.Generator) -> list[int]:
    """k-means++ on materialised (N, C D) gradients."""
    gradients = (residual_NC[:, :, None] * embedding_ND[:, None, :]).flatten(1)
    picks = [int(gradients.square().sum(1).argmax())]
    nearest_N = torch.full((len(gradients),), torch.inf)
    while len(picks) < budget:
        nearest_N = torch.minimum(nearest_N, (gradients - gradients[picks[-1]]).square().sum(1))
        weights = nearest_N.double().numpy()
        picks.append(int(rng.choice(len(weights), p=weights / weights.sum())))
    return picks


WAYS = {
    "ours": greedy,
    "one product a pick": one_product_a_pick,
    "torch.cdist": usual_greedy,
    "scikit-learn": usual_pairwise,
}


@pytest.mark.benchmark(group="k-center, 50,000 x 512, 2,000 picks")
@pytest.mark.parametrize("way", WAYS)
def test_k_center(benchmark: BenchmarkFixture, way: str) -> None:
    points_ND = torch.randn(50_000, 512, generator=torch.Generator().manual_seed(0))
    picks = benchmark.pedantic(WAYS[way], (points_ND, points_ND[:1], 2_000), rounds=1)
    assert len(set(picks.tolist())) == 2_000


@pytest.mark.benchmark(group="k-center, 1,000 picks")
@pytest.mark.parametrize(("num", "width"), [(118_000, 512), (1_000_000, 384)])
def test_large_k_center(benchmark: BenchmarkFixture, num: int, width: int) -> None:
    points_ND = torch.randn(num, width, generator=torch.Generator().manual_seed(0))
    picks = benchmark.pedantic(greedy, (points_ND, points_ND[:1], 1_000), rounds=1)
    assert len(set(picks.tolist())) == 1_000


@pytest.mark.benchmark(group="badge")
@pytest.mark.parametrize("way", [seeding, usual_seeding], ids=["ours", "usual"])
def test_badge(benchmark: BenchmarkFixture, way: Callable[..., object]) -> None:
    generator = torch.Generator().manual_seed(0)
    residual_NC, embedding_ND = (torch.randn(N, width, generator=generator) for width in (C, D))
    picks = benchmark.pedantic(way, (residual_NC, embedding_ND, 10, np.random.default_rng(0)), rounds=1)
    assert len(set(picks)) == 10


def one_by_one(
    task: Classifier, model: torch.nn.Module, indices: np.ndarray, targets: Tensor, s: dict[str, Tensor]
) -> None:
    """Influence as ISAL's code computes it: a backward pass an image."""
    weights = task.weights(model)
    for number in range(len(indices)):
        loss = task.losses(model, indices[number : number + 1], targets[number : number + 1]).sum()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        sum((g * s[name]).sum() for name, g in zip(weights, gradients, strict=True))


@pytest.mark.benchmark(group="influence of 64 images, ResNet-18")
@pytest.mark.parametrize("way", [Classifier.directional, one_by_one], ids=["ours", "usual"])
def test_influence(benchmark: BenchmarkFixture, way: Callable[..., object]) -> None:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (64, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, 64))
    task = Classifier(Machine(torch.device("cpu")), Recipe(), split, split, num_classes=10)
    model, indices = task.model(), np.arange(64)
    direction = {name: torch.randn_like(weight) for name, weight in task.weights(model).items()}
    benchmark.pedantic(way, (task, model, indices, task.pseudo_labels(model, indices, 1), direction), rounds=2)
