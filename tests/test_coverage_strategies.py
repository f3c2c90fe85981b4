"""MaxHerding and Uncertainty Herding select what a slow twin selects that builds the kernel of all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.api import Indices, Predictions, View
from benchmark.strategies.max_herding import max_herding
from benchmark.strategies.shared import coverage
from benchmark.strategies.shared.coverage import GaussianCoverage, maximise_coverage
from benchmark.strategies.uncertainty_herding import smallest_distance, uncertainty_herding

RNG = np.random.default_rng


def unit_points(num: int, width: int = 5, seed: int = 0, *, copies: bool = False) -> Tensor:
    """Points of the unit sphere around some directions, in float64; with copies, each about three times."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(8, width, generator=generator)[torch.randint(8, (num,), generator=generator)].double()
    points = torch.nn.functional.normalize(points + 0.6 * torch.randn(num, width, generator=generator).double())
    return points[torch.randint(num // 3, (num,), generator=generator)] if copies else points


def kernel(points_NE: Tensor, radius: float) -> Tensor:
    return (-(torch.cdist(points_NE, points_NE) ** 2) / radius**2).exp()


def twin(kernel_NN: Tensor, weight_N: Tensor, num_labelled: int, budget: int) -> tuple[list[int], float]:
    """Greedy selection from the whole kernel; also returns the weighted mean coverage."""
    covered_N = kernel_NN[:num_labelled].amax(0) if num_labelled else torch.zeros_like(weight_N)
    picks: list[int] = []
    for _ in range(budget):
        gain_N = ((kernel_NN - covered_N).clamp(min=0) * weight_N).sum(1)
        gain_N[[*range(num_labelled), *picks]] = -1
        picks.append(int(gain_N.argmax()))
        covered_N = torch.maximum(covered_N, kernel_NN[picks[-1]])
    return picks, ((weight_N * covered_N).sum() / weight_N.sum()).item()


@pytest.mark.parametrize("active", [1, 3, 4096])
@pytest.mark.parametrize("num_labelled", [0, 7])
@pytest.mark.parametrize("radius", [0.2, 1.0])
def test_lazy_selection_is_that_of_the_whole_kernel(
    active: int, num_labelled: int, radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "NUM_ACTIVE", active)
    monkeypatch.setattr(coverage, "BLOCK", 32)
    points_NE, weight_N = unit_points(150), torch.rand(150, generator=torch.Generator().manual_seed(1)).double()
    result = maximise_coverage(points_NE, weight_N, num_labelled, radius, 60, torch.arange(150))
    picks, covered = twin(kernel(points_NE, radius), weight_N, num_labelled, 60)
    assert result.picks == picks
    assert result.coverage == pytest.approx(covered, abs=1e-5)


@pytest.mark.parametrize("active", [2, 4096])
def test_copies_are_selected_last_and_by_rank(active: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among copies of an image the lowest rank is selected; once all places are covered, ranks alone decide."""
    monkeypatch.setattr(coverage, "NUM_ACTIVE", active)
    points_NE = unit_points(90, copies=True).float()
    rank_N = torch.from_numpy(RNG(0).permutation(90))
    places = {tuple(point) for point in points_NE.tolist()}
    picks = maximise_coverage(points_NE, torch.ones(90), 0, 1.0, 90, rank_N).picks
    assert sorted(picks) == list(range(90))
    assert {tuple(points_NE[pick].tolist()) for pick in picks[: len(places)]} == places
    for place in places:
        first = next(pick for pick in picks if tuple(points_NE[pick].tolist()) == place)
        assert rank_N[first] == rank_N[(points_NE == torch.tensor(place)).all(1)].min()
    assert rank_N[picks[len(places) :]].tolist() == sorted(rank_N[picks[len(places) :]].tolist())


def test_few_pairs_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual way takes N^2 numbers per selected image; here all 40 selections together take fewer than 6 N^2."""
    sizes: list[int] = []
    whole = GaussianCoverage.kernel

    def spy(state: GaussianCoverage, rows: Tensor, columns: Tensor) -> Tensor:
        sizes.append(len(rows) * len(columns))
        return whole(state, rows, columns)

    monkeypatch.setattr(GaussianCoverage, "kernel", spy)
    monkeypatch.setattr(coverage, "BLOCK", 128)
    monkeypatch.setattr(coverage, "NUM_ACTIVE", 64)
    maximise_coverage(unit_points(1200, 16), torch.ones(1200).double(), 0, 1.0, 40, torch.arange(1200))
    assert sum(sizes) < 6 * 1200**2
    assert max(sizes) <= 128**2


class Fixed:
    """A task with fixed features and predictions."""

    def __init__(self, features_NE: Tensor, scores_NC: Tensor) -> None:
        self.features_NE, self.scores_NC = features_NE, scores_NC

    def embed(self, model: object, indices: Indices) -> Tensor:
        return self.features_NE[indices]

    def predict(self, model: object, indices: Indices) -> Predictions:
        return Predictions(self.scores_NC[indices], torch.arange(len(indices)), len(indices))

    def view(self, labelled: list[int]) -> View:
        unlabelled = np.setdiff1d(np.arange(len(self.features_NE)), labelled)
        bought, none = np.array(labelled, np.int64), np.empty(0, np.int64)
        task: Any = self
        model: Any = None
        return View(task, model, bought, unlabelled, num_initial=0, held_out=none, needs={"embed", "predict"})


def fixed_task(num: int = 80) -> Fixed:
    points_NE = unit_points(num, seed=3)
    return Fixed(3 * points_NE, torch.rand(num, 4, generator=torch.Generator().manual_seed(2)).double().softmax(1))


def test_max_herding_is_its_twin() -> None:
    task, labelled = fixed_task(), [5, 60]
    view = task.view(labelled)
    order = np.concatenate([labelled, view.unlabelled])
    picks, covered = twin(kernel(task.features_NE[order] / 3, 0.8), torch.ones(80).double(), 2, 12)
    assert max_herding(view, 12, RNG(0), encoder=None, radius=0.8).tolist() == order[picks].tolist()
    assert view.diagnostics["coverage"] == pytest.approx(covered, abs=1e-5)
    assert view.diagnostics["was_covered"] < covered


@pytest.mark.parametrize("uncertainty", ["margin", "entropy", "confidence"])
def test_uncertainty_herding_is_its_twin(uncertainty: Any) -> None:
    task, labelled = fixed_task(), [5, 60, 33]
    view = task.view(labelled)
    order = np.concatenate([labelled, view.unlabelled])
    p_NC = (task.scores_NC[order].log() / 2).softmax(1)
    ranked_NC = p_NC.sort(descending=True).values
    weight_N = {
        "margin": 1 - (ranked_NC[:, 0] - ranked_NC[:, 1]),
        "entropy": -(p_NC * p_NC.log()).sum(1),
        "confidence": 1 - ranked_NC[:, 0],
    }[uncertainty]
    weight_N[:3] = 0
    points_NE = task.features_NE[order] / 3
    radius = float(torch.pdist(points_NE[:3]).min())
    picks, _ = twin(kernel(points_NE, radius), weight_N, 3, 12)
    chosen = uncertainty_herding(view, 12, RNG(0), encoder=None, uncertainty=uncertainty, temperature=2.0)
    assert chosen.tolist() == order[picks].tolist()
    assert view.diagnostics["radius"] == pytest.approx(radius)


def test_without_labels_uncertainty_herding_is_max_herding_of_radius_1() -> None:
    view = fixed_task().view([])
    expected = max_herding(view, 10, RNG(0), encoder=None)
    assert uncertainty_herding(view, 10, RNG(0), encoder=None).tolist() == expected.tolist()


def test_the_adaptive_radius_leaves_copies_out() -> None:
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert smallest_distance(points) == pytest.approx(float((points[2] - points[3]).norm()))
    assert smallest_distance(points[:2]) == smallest_distance(points[:1]) == smallest_distance(points[:0]) == 1


def test_by_hand() -> None:
    """On a line of angles 0, 10, 20, 90 and 100 degrees the middle of the three comes first, then one of the two."""
    angle = torch.tensor([0.0, 10.0, 20.0, 90.0, 100.0]).double().deg2rad()
    task = Fixed(torch.stack([angle.cos(), angle.sin()], 1), torch.full((5, 2), 0.5))
    chosen = max_herding(task.view([]), 3, RNG(0), encoder=None, radius=0.3).tolist()
    assert chosen[0] == 1
    assert chosen[1] in (3, 4)
    assert chosen[2] in (0, 2, 3, 4)


@pytest.mark.parametrize(
    ("strategy", "given"),
    [
        (max_herding, {"radius": 0.0}),
        (uncertainty_herding, {"radius": -1.0}),
        (uncertainty_herding, {"temperature": 0.0}),
    ],
)
def test_values_that_make_no_sense_are_refused(strategy: Any, given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        strategy(fixed_task().view([0]), 3, RNG(0), encoder=None, **given)
