"""Core-set and BADGE select what brute-force twins select that build all distances or gradient embeddings."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from benchmark.api import Predictions
from benchmark.strategies.badge import badge, kmeans_plus_plus
from benchmark.strategies.coreset import coreset
from benchmark.strategies.shared import kcenter
from benchmark.strategies.shared.kcenter import farthest_first, k_center_greedy, squared_distance_to_nearest
from tests._toy import Toy, look


def greedy_twin(
    distances_NN: npt.NDArray[np.float64], centres: list[int], budget: int
) -> tuple[list[int], list[float]]:
    """Returns the selection, and the covering radius after each step, from a full matrix of distances."""
    centres, radii = list(centres), []
    for _ in range(budget):
        squared_distance_to_nearest = distances_NN[:, centres].min(1)
        squared_distance_to_nearest[centres] = -1
        centres.append(int(squared_distance_to_nearest.argmax()))
        radii.append(distances_NN[:, centres].min(1).max())
    return centres[-budget:], radii


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_coreset_is_its_brute_force_twin(metric: Literal["euclidean", "cosine"]) -> None:
    view = look(Toy(dtype=torch.float64), {"embed"})
    everything = np.concatenate([view.unlabelled, view.labelled])
    embeddings = view.embed(everything).numpy()
    twin, _ = greedy_twin(cdist(embeddings, embeddings, metric), list(range(40, 52)), 25)
    chosen = coreset(view, 25, np.random.default_rng(0), metric=metric)
    np.testing.assert_array_equal(chosen, view.unlabelled[twin])


def test_metrics_differ() -> None:
    view = look(Toy(), {"embed"})
    assert set(coreset(view, 5, np.random.default_rng(0)).tolist()) != set(
        coreset(view, 5, np.random.default_rng(0), metric="cosine").tolist()
    )


def test_greedy_covers_and_its_radius_never_grows() -> None:
    points = torch.randn(200, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    picks = k_center_greedy(points[20:], points[:20], 60, torch.arange(180)).tolist()
    distances = cdist(points[20:], points.numpy())
    radii = [distances[:, [*range(20), *(20 + p for p in picks[:n])]].min(1).max() for n in range(61)]
    twin, twin_radii = greedy_twin(cdist(points, points), list(range(20)), 60)
    assert [20 + p for p in picks] == twin
    assert all(a >= b for a, b in pairwise(radii))
    np.testing.assert_allclose(radii[1:], twin_radii)


def test_greedy_in_chunks_is_greedy_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(2))
    whole = k_center_greedy(points[:40], points[40:], 10, torch.arange(40))
    monkeypatch.setattr(kcenter, "CHUNK", 80)  # two centres at a time
    assert torch.equal(whole, k_center_greedy(points[:40], points[40:], 10, torch.arange(40)))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_greedy_never_picks_twice_from_a_pool_of_duplicates(offset: float) -> None:
    """Three distinct points, eight copies each; one is also a centre. They are far from the origin, where squares
    cancel."""
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]) + offset
    picks = k_center_greedy(corners.repeat(8, 1), corners[:1], 24, torch.arange(24)).tolist()
    assert picks[:2] == [2, 1]
    assert sorted(picks) == list(range(24))


def test_squared_distances_are_not_negative() -> None:
    points = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) + 100
    distances = squared_distance_to_nearest(points, points.square().sum(1), points)
    assert distances.min() == 0
    assert distances.max() < 0.1  # of squares of 80 000


@pytest.mark.parametrize("run", [kcenter.pick_exactly, kcenter.pick_lazily])
@pytest.mark.parametrize("active", [1, 2, 1024])
def test_greedy_ties_go_by_rank(run: Any, active: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corners of a square around the centre come first, then their copies, which are at distance 0."""
    monkeypatch.setattr(kcenter, "NUM_ACTIVE", active)
    square = torch.tensor([[1.0, 1], [-1, 1], [1, -1], [-1, -1]]).repeat(2, 1)
    for rank in ([0, 1, 2, 3, 4, 5, 6, 7], [7, 3, 5, 1, 0, 2, 6, 4]):
        picks = run(square, square.square().sum(1), torch.full((8,), 2.0), torch.tensor(rank), 8).tolist()
        first = {corner: min((corner, corner + 4), key=rank.__getitem__) for corner in range(4)}
        twin = sorted(first.values(), key=rank.__getitem__)
        assert picks == [*twin, *sorted(set(range(8)) - set(twin), key=rank.__getitem__)]


def seeding_twin(gradients_NG: npt.NDArray[np.float64], budget: int, rng: np.random.Generator) -> list[int]:
    """k-means++ on materialised gradient embeddings."""
    picks = [int((gradients_NG**2).sum(1).argmax())]
    while len(picks) < budget:
        weights = (cdist(gradients_NG, gradients_NG[picks]) ** 2).min(1)
        if not weights.any():
            weights = np.array([float(i not in picks) for i in range(len(weights))])
        picks.append(int(rng.choice(len(weights), p=weights / weights.sum())))
    return picks


def test_badge_is_its_brute_force_twin() -> None:
    view = look(Toy(dtype=torch.float64), {"predict", "embed"})
    p_NC, embedding_ND = view.predict(view.unlabelled).scores_PC, view.embed(view.unlabelled)
    residual_NC = torch.eye(4, dtype=torch.float64)[p_NC.argmax(1)] - p_NC
    gradients = torch.einsum("nc,nd->ncd", residual_NC, embedding_ND).flatten(1).numpy()
    for seed in range(3):
        twin = seeding_twin(gradients, 20, np.random.default_rng(seed))
        np.testing.assert_array_equal(badge(view, 20, np.random.default_rng(seed)), view.unlabelled[twin])


def test_badge_gradient_is_the_last_layers() -> None:
    """(e_yhat - p) outer h is, up to its sign, the gradient from backpropagation for the pseudo label."""
    view = look(Toy(dtype=torch.float64), {"losses", "pseudo_labels", "predict", "embed"})
    image = view.unlabelled[:1]
    loss = view.losses(image, view.pseudo_labels(image, 1, 0.1)).sum()
    [gradient_CD] = torch.autograd.grad(loss, [cast(Any, view.model).head.weight])
    p_C, h_D = view.predict(image).scores_PC[0], view.embed(image)[0]
    residual_C = torch.eye(4, dtype=torch.float64)[p_C.argmax()] - p_C
    torch.testing.assert_close(-torch.outer(residual_C, h_D), gradient_CD)


def degenerate(kind: str) -> tuple[Tensor, Tensor]:
    """30 images: all certain (gradients are exactly zero), or three distinct gradients, ten images each."""
    if kind == "certain":
        return torch.zeros(30, 4), torch.rand(30, 5)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, generator=generator).repeat(10, 1), torch.randn(3, 5, generator=generator).repeat(10, 1)


@pytest.mark.parametrize("kind", ["certain", "duplicates"])
def test_badge_picks_distinct_images_where_no_distance_is_left(kind: str) -> None:
    residual_NC, embedding_ND = degenerate(kind)
    picks = [
        kmeans_plus_plus(residual_NC, embedding_ND, 30, np.random.default_rng(seed), torch.arange(30))
        for seed in range(2)
    ]
    assert sorted(picks[0].tolist()) == list(range(30))
    assert picks[0].tolist() != picks[1].tolist()


def test_badge_draws_in_proportion_to_squared_distance() -> None:
    """Gradients 0, 1, 2 and 4 on a line: 4 comes first, then 0, 1 and 2 have the weights 16, 9 and 4."""
    line = torch.tensor([[0.0], [1], [2], [4]])
    rng = np.random.default_rng(0)
    seconds = [kmeans_plus_plus(line, torch.ones(4, 1), 2, rng, torch.arange(4)) for _ in range(3000)]
    assert all(first == 3 for first, _ in seconds)
    counts = np.bincount([second for _, second in seconds], minlength=4) / 3000
    np.testing.assert_allclose(counts, [16 / 29, 9 / 29, 4 / 29, 0], atol=0.03)


def test_badge_refuses_a_detector() -> None:
    class Boxes(Toy):
        def predict(self, model: object, indices: npt.NDArray[np.int64]) -> Predictions:
            return Predictions(torch.ones(1, 4), torch.zeros(1, dtype=torch.int64), len(indices), torch.zeros(1, 4))

    with pytest.raises(ValueError, match="classifier"):
        badge(look(Boxes(), {"predict", "embed"}), 3, np.random.default_rng(0))


# --- lazy and eager k-center ------------------------------------------------------------------
def cloud(kind: str, num: int = 400) -> Tensor:
    """Points in float64: one cloud, clusters of unequal width, a grid with many ties, or duplicates."""
    generator = torch.Generator().manual_seed(len(kind))
    points = torch.randn(num, 8, generator=generator, dtype=torch.float64)
    if kind == "clusters":
        points = (
            points * torch.rand(num, 1, generator=generator)
            + 5 * torch.randn(5, 8, generator=generator).double()[torch.randint(5, (num,), generator=generator)]
        )
    if kind == "grid":
        points = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0)).double()
    if kind == "duplicates":
        points = points[torch.randint(12, (num,), generator=generator)]
    return points


@pytest.mark.parametrize("active", [1, 2, 7, 64, 400])
@pytest.mark.parametrize("kind", ["cloud", "clusters", "grid", "duplicates"])
def test_lazy_picks_are_the_eager_ones(kind: str, active: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kcenter, "NUM_ACTIVE", active)
    points = cloud(kind)
    centred = points[5:] - points[5:].mean(0)
    norms = centred.square().sum(1)
    initial = squared_distance_to_nearest(centred, norms, points[:5] - points[5:].mean(0))
    eager = kcenter.pick_exactly(centred, norms, initial.clone(), torch.arange(395), 120)
    lazy = k_center_greedy(points[5:], points[:5], 120, torch.arange(395))
    if kind in ("cloud", "clusters"):
        assert torch.equal(lazy, eager)
    else:  # rounding may order equals otherwise: each pick must be one of the farthest
        assert len(set(lazy.tolist())) == 120
        distance = initial.clone()
        for pick in lazy:
            assert distance[pick] >= distance.max() - 1e-9
            distance = torch.minimum(distance, squared_distance_to_nearest(centred, norms, centred[pick : pick + 1]))
            distance[pick] = -torch.inf


def test_lazy_makes_few_distances_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    exact = kcenter.squared_distance_to_nearest
    monkeypatch.setattr(
        kcenter, "squared_distance_to_nearest", lambda p, n, c: counted.append(len(p) * len(c)) or exact(p, n, c)
    )
    monkeypatch.setattr(kcenter, "NUM_ACTIVE", 64)
    points = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    k_center_greedy(points, points[:1], 200, torch.arange(20_000))
    assert sum(counted) < 20_000 * 200 / 2


@pytest.mark.slow
def test_each_pick_of_a_large_pool_is_the_farthest_to_1e_5() -> None:
    points = torch.randn(20_000, 512, generator=torch.Generator().manual_seed(0))
    exact = points.double()
    distance = torch.cdist(exact, exact[:1])[:, 0]
    for pick in k_center_greedy(points, points[:1], 500, torch.arange(20_000)):
        assert distance[pick] >= distance.max() * (1 - 1e-5)
        distance = torch.minimum(distance, torch.linalg.vector_norm(exact - exact[pick], dim=1))


def test_farthest_first_takes_any_distance_and_leaves_out_what_is_closed() -> None:
    place_N = torch.tensor([0.0, 1.0, 2.0, 5.0, 9.0])
    distance_N = torch.full((5,), torch.inf)
    distance_N[1] = -torch.inf  # closed

    def distance_to(taken_K: torch.Tensor) -> torch.Tensor:
        return (place_N - place_N[taken_K]).abs()

    ranks = torch.tensor([4, 0, 3, 2, 1])
    assert farthest_first(distance_N, 4, ranks, distance_to).tolist() == [4, 0, 3, 2]
    assert farthest_first(distance_N, 0, ranks, distance_to).tolist() == []
