"""Times the hot paths and their usual implementations in one run: `make bench`. Compare the rows of a group.

`AL_BENCHMARK_TINY=1` makes the sizes of those that run on a GPU tiny: it shows that they run.

Shapes: N images, D features, C classes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.metrics import pairwise_distances
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Direction, Indices, Machine
from benchmark.strategies.badge import kmeans_plus_plus
from benchmark.strategies.bait import Design, label_covariances, select_forward_backward
from benchmark.strategies.batch_bald import Configurations, select_jointly
from benchmark.strategies.shared.coverage import maximise_coverage
from benchmark.strategies.shared.kcenter import k_center_greedy, pick_exactly, squared_distance_to_nearest
from benchmark.vision.classification import Classifier, Recipe, Split
from benchmark.vision.classification.task import jvp_derivatives
from benchmark.vision.networks import Network

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_DEVICE = ", cuda" if DEVICE.type == "cuda" else ""  # ends the name of a group whose numbers a GPU changes
TINY = os.environ.get("AL_BENCHMARK_TINY") == "1"
NUM_INFLUENCE = 8 if TINY else 2_560 if DEVICE.type == "cuda" else 256
NUM_POINTS, NUM_PICKS = (500, 20) if TINY else (50_000, 2_000)  # of k-center


def usual_greedy(points_ND: Tensor, centres_MD: Tensor, budget: int) -> Tensor:
    """k-center with `torch.cdist`, a stack, a minimum and an argmax per pick."""
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
    """k-center that reads every feature once per pick."""
    norms_N = points_ND.square().sum(1)
    rank_N = torch.arange(len(points_ND), device=points_ND.device)
    return pick_exactly(points_ND, norms_N, squared_distance_to_nearest(points_ND, norms_N, centres_MD), rank_N, budget)


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


def ours(points_ND: Tensor, centres_MD: Tensor, budget: int) -> Tensor:
    """`greedy`; ties are broken by position."""
    return k_center_greedy(points_ND, centres_MD, budget, torch.arange(len(points_ND), device=points_ND.device))


WAYS = {
    "ours": ours,
    "one product a pick": one_product_a_pick,
    "torch.cdist": usual_greedy,
    "scikit-learn": usual_pairwise,
}


def finish(work: Callable[..., Any]) -> Callable[..., Any]:
    """The work, and waiting until the GPU has finished it."""

    def finished_work(*arguments: object) -> Any:
        result = work(*arguments)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return result

    return finished_work


@pytest.mark.device
@pytest.mark.benchmark(group=f"k-center, {NUM_POINTS:,} x 512, {NUM_PICKS:,} picks{ON_DEVICE}")
@pytest.mark.parametrize("way", WAYS)
def test_k_center(benchmark: BenchmarkFixture, way: str) -> None:
    if DEVICE.type == "cuda" and way == "scikit-learn":
        pytest.skip("runs on the CPU, for minutes")
    points_ND = torch.randn(NUM_POINTS, 512, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    arguments = points_ND, points_ND[:1], NUM_PICKS
    picks = benchmark.pedantic(finish(WAYS[way]), arguments, rounds=1, warmup_rounds=int(DEVICE.type == "cuda"))
    assert len(set(picks.tolist())) == NUM_PICKS


@pytest.mark.benchmark(group="k-center, 1,000 picks")
@pytest.mark.parametrize(("num", "width"), [(118_000, 512), (1_000_000, 384)])
def test_large_k_center(benchmark: BenchmarkFixture, num: int, width: int) -> None:
    points_ND = torch.randn(num, width, generator=torch.Generator().manual_seed(0))
    picks = benchmark.pedantic(k_center_greedy, (points_ND, points_ND[:1], 1_000, torch.arange(num)), rounds=1)
    assert len(set(picks.tolist())) == 1_000


BADGE = "BADGE, 20,000 images, 100 classes, 512 features, 1,000 picks"


@pytest.mark.benchmark(group=BADGE)
def test_badge(benchmark: BenchmarkFixture) -> None:
    benchmark.extra_info["more memory at its peak, MB"] = run_in_fresh_process("badge_peak")
    arguments = (*gradients_of_badge(), 1_000, np.random.default_rng(0), torch.arange(20_000))
    picks = benchmark.pedantic(kmeans_plus_plus, arguments, rounds=1)
    assert len(set(picks)) == 1_000


@pytest.mark.benchmark(group=BADGE)
def test_materialised_badge(benchmark: BenchmarkFixture) -> None:
    """1,000 picks would take hours: the time is extrapolated from 4 picks."""
    factors = gradients_of_badge()
    start = time.perf_counter()
    usual_seeding(*factors, 1, np.random.default_rng(0))
    seconds_of_one = time.perf_counter() - start
    picks = benchmark.pedantic(usual_seeding, (*factors, 4, np.random.default_rng(0)), rounds=1)
    assert len(set(picks)) == 4
    benchmark.extra_info["seconds for 1,000 picks, from 4"] = (
        seconds_of_one + 999 * (benchmark.stats["min"] - seconds_of_one) / 3
    )
    benchmark.extra_info["gradients, MB"] = round(4 * factors[0].numel() * factors[1].shape[1] / 1e6)


def gradients_of_badge() -> tuple[Tensor, Tensor]:
    """(N, C) residuals and (N, D) features, whose outer products are the gradients."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(20_000, 100, generator=generator), torch.randn(20_000, 512, generator=generator)


def badge_peak() -> float:
    """The MB by which BADGE raises the peak memory of this process."""
    factors = gradients_of_badge()
    before = peak()
    kmeans_plus_plus(*factors, 100, np.random.default_rng(0), torch.arange(len(factors[0])))
    return peak() - before


# --- herding: coverage by a Gaussian kernel ---------------------------------------------------
NUM_HERDING, NUM_HERDING_PICKS = (500, 20) if TINY else (16_000, 1_000)
HERDING = f"herding, {NUM_HERDING:,} x 512, {NUM_HERDING_PICKS:,} picks{ON_DEVICE}"


def clustered_features(num: int) -> Tensor:
    """Unit vectors around 100 directions whose coordinates shrink, as those of self-supervised features do."""
    generator, scale_D = torch.Generator().manual_seed(0), torch.arange(1, 513) ** -1.0
    centres_KD = torch.randn(100, 512, generator=generator)[torch.randint(100, (num,), generator=generator)]
    return F.normalize((centres_KD + 0.7 * torch.randn(num, 512, generator=generator)) * scale_D).to(DEVICE)


def whole_kernel(points_ND: Tensor, budget: int) -> list[int]:
    """Herding as the authors' code does it: the matrix of all pairs, read once per pick."""
    kernel_NN = (-(torch.cdist(points_ND, points_ND) ** 2)).exp()
    covered_N, picks = torch.zeros(len(points_ND), device=points_ND.device), list[int]()
    for _ in range(budget):
        rise_NN = kernel_NN - covered_N
        rise_NN[rise_NN < 0] = 0
        gain_N = rise_NN.mean(1)
        gain_N[picks] = -torch.inf
        picks.append(int(gain_N.argmax()))
        covered_N = rise_NN[picks[-1]] + covered_N
    return picks


def our_herding(points_ND: Tensor, budget: int) -> list[int]:
    """`max_herding` on these features."""
    weight_N, rank_N = torch.ones_like(points_ND[:, 0]), torch.arange(len(points_ND), device=points_ND.device)
    return maximise_coverage(points_ND, weight_N, 0, 1.0, budget, rank_N).picks


@pytest.mark.device
@pytest.mark.benchmark(group=HERDING)
@pytest.mark.parametrize("way", [our_herding, whole_kernel])
def test_herding(benchmark: BenchmarkFixture, way: Callable[..., list[int]]) -> None:
    """The usual way is timed on a fiftieth of the picks: each takes as long as the others."""
    points_ND, is_ours = clustered_features(NUM_HERDING), way is our_herding
    num_picks = NUM_HERDING_PICKS if is_ours else NUM_HERDING_PICKS // 50 + 1
    picks = benchmark.pedantic(finish(way), (points_ND, num_picks), rounds=1)
    assert len(set(picks)) == num_picks
    if not is_ours:
        seconds = benchmark.stats["min"] * NUM_HERDING_PICKS / num_picks
        benchmark.extra_info[f"seconds for {NUM_HERDING_PICKS:,} picks, from {num_picks}"] = seconds


@pytest.mark.slow
@pytest.mark.benchmark(group="herding, 50,000 x 512, 1,000 picks")
def test_large_herding(benchmark: BenchmarkFixture) -> None:
    """The matrix of all pairs would take 10 GB."""
    picks = benchmark.pedantic(
        our_herding, (clustered_features(500 if TINY else 50_000), 100 if TINY else 1_000), rounds=1
    )
    assert len(set(picks)) == len(picks)


# --- BAIT -------------------------------------------------------------------------------------
NUM_BAIT, BAIT_CLASSES, BAIT_WIDTH, BAIT_PICKS = (60, 3, 8, 4) if TINY else (2_000, 10, 64, 50)
BAIT = f"BAIT, {NUM_BAIT:,} images, {BAIT_CLASSES} classes, {BAIT_WIDTH} features, {2 * BAIT_PICKS} picks"


def fisher_factors() -> tuple[Tensor, Tensor]:
    """Features (N, D) and probabilities (N, C), in float64."""
    generator = torch.Generator().manual_seed(0)
    features_ND = torch.randn(NUM_BAIT, BAIT_WIDTH, generator=generator).double()
    return features_ND, torch.randn(NUM_BAIT, BAIT_CLASSES, generator=generator).double().softmax(1)


def our_bait(features_ND: Tensor, p_NC: Tensor, num_picks: int) -> list[int]:
    """`bait` on these features, forward steps alone."""
    design = Design.start(features_ND, label_covariances(p_NC, is_full=True), 20, 1.0)
    return select_forward_backward(design, num_picks, num_picks, torch.arange(len(p_NC) - 20))


def embedded_bait(features_ND: Tensor, p_NC: Tensor, num_picks: int) -> list[int]:
    """BAIT as the authors' code does it: (N, C, C D) embeddings, each multiplied by (C D, C D) matrices per pick."""
    gradients_NCC = torch.eye(p_NC.shape[1]).double() - p_NC[:, None, :]
    x_NCR = (p_NC.sqrt()[:, :, None, None] * gradients_NCC[..., None] * features_ND[:, None, None]).flatten(2)
    pool_RR = torch.einsum("ncr,ncs->rs", x_NCR, x_NCR) / len(x_NCR)
    labelled_RR = torch.einsum("ncr,ncs->rs", x_NCR[:20], x_NCR[:20]) / 20
    inverse_RR = torch.linalg.inv(torch.eye(len(pool_RR)).double() + labelled_RR)
    candidates_NCR, picks, identity_CC = x_NCR[20:], list[int](), torch.eye(p_NC.shape[1]).double()
    for _ in range(num_picks):
        directions_NCR = candidates_NCR @ inverse_RR
        inner_NCC = torch.linalg.inv(identity_CC + directions_NCR @ candidates_NCR.transpose(1, 2))
        drop_N = (directions_NCR @ pool_RR @ directions_NCR.transpose(1, 2) @ inner_NCC).diagonal(dim1=1, dim2=2).sum(1)
        drop_N[picks] = -torch.inf
        picks.append(int(drop_N.argmax()))
        inverse_RR = inverse_RR - directions_NCR[picks[-1]].T @ inner_NCC[picks[-1]] @ directions_NCR[picks[-1]]
    return picks


@pytest.mark.benchmark(group=BAIT)
@pytest.mark.parametrize("way", [our_bait, embedded_bait])
def test_bait(benchmark: BenchmarkFixture, way: Callable[..., list[int]]) -> None:
    """The usual way is timed on two picks: each takes as long as the others."""
    factors, is_ours = fisher_factors(), way is our_bait
    num_picks = 2 * BAIT_PICKS if is_ours else 2
    picks = benchmark.pedantic(way, (*factors, num_picks), rounds=1)
    assert picks[:2] == our_bait(*factors, 2)
    if not is_ours:
        seconds = benchmark.stats["min"] * BAIT_PICKS
        benchmark.extra_info[f"seconds for {2 * BAIT_PICKS} picks, from 2"] = seconds


# --- BatchBALD --------------------------------------------------------------------------------
NUM_BATCH_BALD, NUM_BATCH = (40, 4) if TINY else (2_000, 10)
BATCH_BALD = f"BatchBALD, {NUM_BATCH_BALD:,} images, 10 classes, 20 samples, 10,000 configurations, {NUM_BATCH} picks"


def sampled_probabilities() -> Tensor:
    """Class probabilities under samples of the weights, (N, K, C)."""
    return (2 * torch.randn(NUM_BATCH_BALD, 20, 10, generator=torch.Generator().manual_seed(0)).double()).softmax(2)


def our_batch_bald(p_NKC: Tensor) -> list[int]:
    """`batch_bald` on these probabilities."""
    return select_jointly(p_NKC, NUM_BATCH, 10_000, torch.arange(len(p_NKC)), np.random.default_rng(0)).picks


def every_candidate(p_NKC: Tensor) -> list[int]:
    """BatchBALD as the authors' code does it: the joint entropy of the batch with every candidate, at each pick."""
    rng, configurations = np.random.default_rng(0), Configurations.of_nothing(p_NKC)
    noise_N, picks = torch.special.entr(p_NKC).sum(2).mean(1), list[int]()
    for _ in range(NUM_BATCH):
        parts = torch.arange(len(p_NKC)).split(16)
        gain_N = torch.cat([configurations.gains(p_NKC, noise_N, rows) for rows in parts])
        gain_N[picks] = -torch.inf
        picks.append(int(gain_N.argmax()))
        configurations = configurations.with_image(p_NKC[picks[-1]], 10_000, rng)
    return picks


@pytest.mark.benchmark(group=BATCH_BALD)
@pytest.mark.parametrize("way", [our_batch_bald, every_candidate])
def test_batch_bald(benchmark: BenchmarkFixture, way: Callable[..., list[int]]) -> None:
    picks = benchmark.pedantic(way, (sampled_probabilities(),), rounds=1)
    assert len(set(picks)) == NUM_BATCH


def peak() -> float:
    """The peak memory of this process in MB; ru_maxrss would begin at the peak of the parent process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def run_in_fresh_process(name: str) -> float:
    """The result of a function of this file in a new process, whose memory peak is its own."""
    output = subprocess.check_output([sys.executable, __file__, name], text=True)
    return round(float(output), 1)


def one_by_one(task: Classifier, model: Network, indices: Indices, targets: Tensor, s: Direction) -> None:
    """Influence as ISAL's code computes it: a backward pass per image."""
    weights = task.weights(model)
    for number in range(len(indices)):
        loss = task.losses(model, indices[number : number + 1], targets[number : number + 1]).sum()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        sum((g * s[name]).sum() for name, g in zip(weights, gradients, strict=True))


def by_jacobian(task: Classifier, model: Network, indices: Indices, targets: Tensor, s: Direction) -> None:
    """Influence by PyTorch's Jacobian-vector products, in float32."""
    for which, goals in zip(torch.from_numpy(indices).split(256), targets.split(256), strict=True):
        jvp_derivatives(model, task._prepare_inputs(task._inputs[which]), goals, s)


def entropy_pass(task: Classifier, model: Network, indices: Indices, targets: Tensor, s: Direction) -> None:
    """The predictions alone, which entropy needs."""
    task._memo = None
    task.predict(model, indices)


INFLUENCE: dict[str, Callable[..., object]] = {
    "ours": Classifier.directional,
    "entropy pass": entropy_pass,
    "Jacobian-vector products": by_jacobian,
    "backward, one by one": one_by_one,
}


@pytest.mark.device
@pytest.mark.benchmark(group=f"influence of {NUM_INFLUENCE:,} images, ResNet-18, {DEVICE.type}")
@pytest.mark.parametrize("way", INFLUENCE)
def test_influence(benchmark: BenchmarkFixture, way: str) -> None:
    rng = np.random.default_rng(0)
    images_NKHW = rng.integers(0, 256, (NUM_INFLUENCE, 3, 32, 32), dtype=np.uint8)
    split = Split(images_NKHW, rng.integers(0, 10, NUM_INFLUENCE))
    task = Classifier(Machine(DEVICE), Recipe(width=4 if TINY else 64), split, split, num_classes=10)
    model, indices = task.model(), np.arange(NUM_INFLUENCE)
    direction = {name: torch.randn_like(weight) for name, weight in task.weights(model).items()}
    arguments = task, model, indices, task.pseudo_labels(model, indices, 1), direction
    is_slow = way == "backward, one by one"
    benchmark.pedantic(finish(INFLUENCE[way]), arguments, rounds=2 if is_slow else 5, warmup_rounds=not is_slow)


if __name__ == "__main__":
    print(globals()[sys.argv[1]]())
