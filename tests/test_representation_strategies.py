"""TypiClust and ProbCover select what slow twins select that build all distances; and their shared features and
clusters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor

from benchmark.api import EncoderName, Encoding, Indices, Predictions, View
from benchmark.strategies import probcover, typiclust
from benchmark.strategies.probcover import squared_radius
from benchmark.strategies.shared import features, typicality
from benchmark.strategies.shared.features import count_classes, kmeans, squared_distances, unit_features
from benchmark.strategies.shared.typicality import most_typical

RNG = np.random.default_rng
PCA = EncoderName("patch_pca")
Points = npt.NDArray[np.float64]


class Fixed:
    """A task with fixed features, both of the model and of any encoder, and predictions over several classes."""

    def __init__(self, features_NE: Tensor, classes: int = 4) -> None:
        self.features_NE, self.classes, self.encoders = features_NE, classes, []  # type: ignore[var-annotated]

    def embed(self, model: object, indices: Indices) -> Tensor:
        return self.features_NE[indices]

    def encode(self, model: object, indices: Indices, encoder: EncoderName) -> Iterator[Encoding]:
        self.encoders.append(encoder)
        for part in np.array_split(indices, 3):
            yield Encoding(torch.zeros(len(part), 1, 1), torch.ones(len(part), 1), -self.features_NE[part])

    def predict(self, model: object, indices: Indices) -> Predictions:
        num = len(indices)
        return Predictions(torch.full((num, self.classes), 1 / self.classes), torch.arange(num), num)

    def view(self, labelled: list[int]) -> View:
        """Returns a view with these labelled images in this order; all others are unlabelled."""
        unlabelled = np.setdiff1d(np.arange(len(self.features_NE)), labelled)
        bought, none = np.array(labelled, np.int64), np.empty(0, np.int64)
        needs = {"embed", "encode", "predict"}
        return View(self, None, bought, unlabelled, num_initial=0, held_out=none, needs=needs)  # type: ignore[arg-type]


def clouds(num: int = 120, seed: int = 0, lengths: bool = True) -> Tensor:
    """Points in float64 around eight directions in five dimensions, with different lengths."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(8, 5, generator=generator).double()
    spread = torch.rand(num, 1, generator=generator).double()
    points = directions[torch.randint(8, (num,), generator=generator)]
    points = points + 0.5 * spread * torch.randn(num, 5, generator=generator).double()
    return points * (0.1 + 9 * torch.rand(num, 1, generator=generator).double()) if lengths else points


def on_circle(*degrees: float) -> Tensor:
    """Points of the unit circle at these angles, in float64."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], 1)


def unit(points: Tensor) -> Points:
    return (points / points.norm(dim=1, keepdim=True)).numpy()


def choose(module: Any, view: View, budget: int, seed: int = 0, **more: Any) -> list[int]:
    plugin = getattr(module, module.__name__.rpartition(".")[2])
    return plugin(view, budget, RNG(seed), **({"encoder": None} | more)).tolist()  # type: ignore[no-any-return]


# --- features, distances, clusters ------------------------------------------------------------
def test_features_are_of_unit_length_and_in_order() -> None:
    task = Fixed(torch.cat([clouds(20), torch.zeros(1, 5).double()]))
    which = np.array([20, 3, 17, 0])
    own, encoded = (unit_features(task.view([1]), encoder, which) for encoder in (None, PCA))
    torch.testing.assert_close(own.norm(dim=1), torch.tensor([0.0, 1, 1, 1]).double())
    torch.testing.assert_close(own[1:], torch.from_numpy(unit(task.features_NE[which[1:]])))
    assert torch.equal(encoded, -own)
    assert task.encoders == [PCA]


def test_distances_are_those_of_scipy_and_not_negative() -> None:
    points, others = clouds(30), clouds(20, seed=1)
    expected = cdist(points.numpy(), others.numpy(), "sqeuclidean")
    np.testing.assert_allclose(squared_distances(points, others).numpy(), expected, atol=1e-9)
    single = (points.float() + 100).contiguous()
    assert squared_distances(single, single).min() == 0


@pytest.mark.parametrize("minibatch", [False, True])
def test_clusters_follow_rng_alone(minibatch: bool) -> None:
    points = clouds()
    np.random.seed(1)  # noqa: NPY002
    first, centres = kmeans(points, 6, RNG(3), minibatch=minibatch)
    state = np.random.get_state(legacy=False)["state"]["pos"]  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    again, _ = kmeans(points, 6, RNG(3), minibatch=minibatch)
    others = [kmeans(points, 6, RNG(seed), minibatch=minibatch)[0].tolist() for seed in range(4, 9)]
    assert np.random.get_state(legacy=False)["state"]["pos"] == state  # noqa: NPY002
    np.testing.assert_array_equal(first, again)
    assert any(other != first.tolist() for other in others)
    assert centres.shape == (6, 5)


@pytest.mark.parametrize("minibatch", [False, True])
def test_kmeans_runs_on_one_thread(minibatch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = MiniBatchKMeans if minibatch else KMeans
    num_threads, fit_predict = [], kind.fit_predict

    def spy(model: Any, points: Any) -> Any:
        num_threads.extend(pool["num_threads"] for pool in threadpool_info())
        return fit_predict(model, points)

    monkeypatch.setattr(kind, "fit_predict", spy)
    with threadpool_limits(2):
        kmeans(clouds(), 6, RNG(0), minibatch=minibatch)
        pools = [pool for pool in threadpool_info() if pool.get("threading_layer") != "disabled"]  # as is OpenCV's
        assert {pool["num_threads"] for pool in pools} == {2}
    assert set(num_threads) == {1}


def test_kmeans_of_few_distinct_points_leaves_clusters_empty_without_a_warning() -> None:
    cluster, centres = kmeans(on_circle(0, 90, 180).repeat(5, 1), 6, RNG(0))
    assert len(set(cluster.tolist())) == 3
    torch.testing.assert_close(centres[cluster], on_circle(0, 90, 180).repeat(5, 1))


@pytest.mark.parametrize("module", [typiclust, probcover])
@pytest.mark.parametrize("encoder", [None, PCA])
def test_features_that_are_not_finite_are_refused(module: Any, encoder: EncoderName | None) -> None:
    points = clouds(30)
    points[7, 2] = torch.nan
    with pytest.raises(ValueError, match=f"encoder={encoder or 'null'}: its features hold NaN"):
        choose(module, Fixed(points).view([0]), 3, encoder=encoder)


@pytest.mark.parametrize("module", [typiclust, probcover])
def test_lengths_of_features_do_not_matter_and_the_encoder_does(module: Any) -> None:
    short, long, task = Fixed(clouds(lengths=False)), Fixed(7 * clouds(lengths=False)), Fixed(clouds())
    assert choose(module, short.view([5, 2]), 20) == choose(module, long.view([5, 2]), 20)
    choose(module, task.view([5, 2]), 3, encoder=PCA)
    assert task.encoders == [PCA]


# --- TypiClust --------------------------------------------------------------------------------
def typiclust_twin(
    points: Points, cluster: Indices, num_labelled: int, budget: int, neighbours: int, rank: Indices
) -> list[int]:
    """Returns the selection: the list of clusters is repeated, and distances are built anew for each image."""
    free = set(range(num_labelled, len(points)))
    sizes = {c: sum(cluster == c) for c in sorted(set(cluster.tolist()))}
    known = {c: sum(cluster[:num_labelled] == c) for c in sizes}
    order = sorted(sizes, key=lambda c: (known[c], -sizes[c], c))
    picks: list[int] = []
    for group in ([c for c in order if sizes[c] > 5], [c for c in order if sizes[c] <= 5]):
        while len(picks) < budget and any(cluster[i] in group for i in free):
            for c in group:
                members = sorted(i for i in free if cluster[i] == c)
                if not members or len(picks) == budget:
                    continue
                near = min(neighbours, len(members) // 2)
                typicality = []
                for i in members:
                    distances = sorted(((points[i] - points[j]) ** 2).sum() for j in members if j != i)[:near]
                    typicality.append(1 / (sum(distances) / max(near, 1) + 1e-5))
                best = max(range(len(members)), key=lambda i: (typicality[i], -rank[members[i]]))
                picks.append(members[best])
                free.remove(picks[-1])
    return picks


@pytest.mark.parametrize("neighbours", [3, 20])
@pytest.mark.parametrize("budget", [1, 7, 40, 112])
def test_typiclust_is_its_brute_force_twin(budget: int, neighbours: int) -> None:
    """At a budget of 112 all images are selected, those of small clusters too."""
    task, labelled = Fixed(clouds()), [30, 2, 7, 100, 55, 56, 57, 3]
    view = task.view(labelled)
    ordered = np.concatenate([labelled, view.unlabelled])
    num = min(8 + budget, 20)
    cluster, _ = kmeans(torch.from_numpy(unit(task.features_NE[ordered])), num, RNG(4))
    assert budget < 112 or (np.bincount(cluster) <= 5).any()
    twin = typiclust_twin(unit(task.features_NE[ordered]), cluster, 8, budget, neighbours, view.tie_ranks(ordered))
    chosen = choose(typiclust, view, budget, 4, max_clusters=20, num_neighbours=neighbours)
    assert chosen == ordered[twin].tolist()
    assert view.diagnostics["clusters"] == num
    assert view.diagnostics["without_labels"] == num - len(set(cluster[:8].tolist()))


def test_the_most_typical_by_hand() -> None:
    """0, 1, 3, 7 and 8 on a line: with two neighbours the mean squares are 5, 2.5, 6.5, 8.5 and 13; with one, 1 at
    0."""
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0], [8.0]])
    rank = torch.arange(5)
    assert most_typical(line, 20, rank) == 1
    assert most_typical(line, 1, rank) == 0
    assert most_typical(line, 1, torch.tensor([4, 2, 3, 1, 0])) == 4  # 0 and 1, 7 and 8 are as near to each other
    assert most_typical(line[:1], 20, rank[:1]) == 0
    assert most_typical(line[[3, 0, 1]], 20, rank[:3]) == 1


def test_typiclust_turns_by_hand() -> None:
    """7 images lie around 0 degrees, 8 around 120 of which one is labelled, and 6 around 240. The clusters take turns
    in that order, but the one with a label is last. With two neighbours, the middle of the narrowest three is the first
    of each cluster. Then, around 0, image 2 has its neighbours at 2 and 8 degrees, image 10 at 6 and 8."""
    first, second, third = [0, 1, 2, 10, -10, 16, -16], [120, 121, 122, 129, 131, 133, 110, 100], [240, 241, 242, 250]
    view = Fixed(on_circle(*first, *second, *third, 260, 233)).view([8])
    chosen = choose(typiclust, view, 4, max_clusters=3, num_neighbours=2)
    assert chosen == [1, 16, 11, 2]


def test_typiclust_in_chunks_is_typiclust_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = choose(typiclust, Fixed(clouds()).view([5, 2]), 30, max_clusters=4)
    monkeypatch.setattr(features, "CHUNK", 50)
    assert choose(typiclust, Fixed(clouds()).view([5, 2]), 30, max_clusters=4) == whole


@pytest.mark.parametrize(("budget", "most", "clusters"), [(10, 500, 12), (48, 500, 50), (49, 500, 51), (70, 60, 60)])
def test_typiclust_clusters(budget: int, most: int, clusters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cluster for each label that there will be, at most max_clusters, by mini-batches above 50."""
    calls = []

    def spy(points: Tensor, num: int, rng: Any, *, minibatch: bool) -> Any:
        calls.append((len(points), num, minibatch))
        return kmeans(points, num, rng, minibatch=minibatch)

    monkeypatch.setattr(typicality, "kmeans", spy)
    chosen = choose(typiclust, Fixed(clouds()).view([5, 2]), budget, max_clusters=most)
    assert len(set(chosen)) == budget
    assert calls == [(120, clusters, clusters > 50)]


@pytest.mark.parametrize("given", ["max_clusters", "num_neighbours"])
def test_typiclust_refuses(given: str) -> None:
    with pytest.raises(ValueError, match=f"typiclust.*{given}=0"):
        choose(typiclust, Fixed(clouds()).view([0]), 3, **{given: 0})


# --- ProbCover --------------------------------------------------------------------------------
def probcover_twin(
    points: Points, num_labelled: int, delta: float, budget: int, rank: Indices
) -> tuple[list[int], list[float]]:
    """Returns the selection while an image is uncovered, by sets of neighbours, and the coverage after each step."""
    neighbours = [set(np.flatnonzero(row < delta).tolist()) for row in cdist(points, points)]
    covered: set[int] = set().union(*neighbours[:num_labelled])
    picks, shares = [], [len(covered) / len(points)]
    while len(picks) < budget and len(covered) < len(points):
        gains = {i: len(neighbours[i] - covered) for i in range(num_labelled, len(points))}
        best = max(gains, key=lambda i: (gains[i], -rank[i]))
        covered |= neighbours[best]
        picks.append(best)
        shares.append(len(covered) / len(points))
    return picks, shares


@pytest.mark.parametrize("delta", [0.02, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("budget", [1, 10, 112])
def test_probcover_is_its_brute_force_twin(budget: int, delta: float) -> None:
    """Where the twin stops, all images are covered and the rest is random; at delta=0.02 an image covers itself
    alone."""
    task, labelled = Fixed(clouds()), [30, 2, 7, 100, 55, 56, 57, 3]
    view = task.view(labelled)
    ordered = np.concatenate([labelled, view.unlabelled])
    twin, shares = probcover_twin(unit(task.features_NE[ordered]), 8, delta, budget, view.tie_ranks(ordered))
    chosen = choose(probcover, view, budget, delta=delta)
    assert chosen[: len(twin)] == ordered[twin].tolist()
    assert len(set(chosen)) == budget
    assert not set(chosen) & set(labelled)
    assert view.diagnostics["was_covered"] == pytest.approx(shares[0])
    assert view.diagnostics["coverage"] == pytest.approx(shares[-1])


def test_probcover_by_hand() -> None:
    """Images at 0, 10, 20 ... degrees and a radius of 11. With 0 labelled, the best is 30, which covers 20, 30 and 40.
    With 180 labelled, 10 covers 0, 10 and 20 and is as good as 20 and 30: ranks decide. Balls are open: at a radius of
    2 opposite points do not cover each other."""
    points = on_circle(0, 10, 20, 30, 40, 100, 180)
    delta = 2 * math.sin(math.radians(5.5))
    assert choose(probcover, Fixed(points).view([0]), 3, delta=delta) == [3, 5, 6]
    other = Fixed(points).view([6])
    assert choose(probcover, other, 1, delta=delta) == [min((1, 2, 3), key=lambda i: other.tie_ranks(np.array([i]))[0])]
    view = Fixed(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])).view([0])
    assert choose(probcover, view, 1, delta=2.0) == [1]
    assert view.diagnostics == {"delta": 2.0, "was_covered": pytest.approx(2 / 3), "coverage": 1}


def test_probcover_buys_covered_images_that_cover_more() -> None:
    """The last image is covered by the labelled one, 6 degrees away. It covers two images that are 6.5 degrees away, on
    both sides. The radius is 7.2 degrees."""
    away, turn = torch.tensor([6.0, 6.5, 6.5, 0.0]).deg2rad(), torch.tensor([0.0, 120, -120, 0]).deg2rad()
    points = torch.stack([away.cos(), away.sin() * turn.cos(), away.sin() * turn.sin()], 1)
    assert choose(probcover, Fixed(points).view([0]), 1, delta=2 * math.sin(math.radians(3.6))) == [3]


def test_an_image_covers_itself_at_any_radius() -> None:
    """In single precision the distance of an image to itself is not 0, but larger than this radius."""
    points = clouds().float()
    view = Fixed(points).view([*range(20)])
    chosen = choose(probcover, view, 70, delta=1e-6)
    assert len(set(chosen)) == 70
    assert min(chosen) >= 20
    assert view.diagnostics["was_covered"] == pytest.approx(20 / 120)
    assert view.diagnostics["coverage"] == pytest.approx(90 / 120)


def test_after_full_coverage_the_rest_is_random() -> None:
    view = Fixed(clouds()).view([5])
    selections = [choose(probcover, view, 20, seed, delta=1.9) for seed in range(3)]
    known = len(probcover_twin(unit(clouds()[[5, *view.unlabelled]]), 1, 1.9, 20, np.arange(120))[0])
    assert 0 < known < 20
    assert len({tuple(selection[:known]) for selection in selections}) == 1
    assert len({tuple(selection[known:]) for selection in selections}) == 3
    assert all(len(set(selection)) == 20 for selection in selections)
    assert view.diagnostics["coverage"] == 1


def test_probcover_in_chunks_is_probcover_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = choose(probcover, Fixed(clouds()).view([5, 2]), 30)
    monkeypatch.setattr(features, "CHUNK", 500)
    assert choose(probcover, Fixed(clouds()).view([5, 2]), 30) == whole


def test_all_picks_take_few_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice N^2, one row per selected image and those of the labelled images; never more than CHUNK at once."""
    sizes = []

    def spy(points: Tensor, others: Tensor) -> Tensor:
        sizes.append(len(points) * len(others))
        return squared_distances(points, others)

    monkeypatch.setattr(probcover, "squared_distances", spy)
    monkeypatch.setattr(features, "squared_distances", spy)
    monkeypatch.setattr(features, "CHUNK", 1200)
    choose(probcover, Fixed(clouds()).view([5, 2]), 118, delta=0.3)
    assert sum(sizes) <= 120 * (2 * 120 + 118 + 2)
    assert max(sizes) <= 1200


@pytest.mark.parametrize("purity", [0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("num", [120, 97])
def test_the_radius_is_the_largest_that_is_pure_enough(num: int, purity: float) -> None:
    """The share of pure balls falls below the purity just above the radius; the twin has all distances."""
    points = unit(clouds(num))
    cluster, _ = kmeans(torch.from_numpy(points), 4, RNG(0))
    pairs, apart = cdist(points, points), cluster[:, None] != cluster

    def share_pure(delta: float) -> float:
        return float(np.mean([not apart[i][pairs[i] < delta].any() for i in range(num)]))

    radius = math.sqrt(squared_radius(torch.from_numpy(points), 4, purity, RNG(0)))
    assert share_pure(radius - 1e-9) >= purity > share_pure(radius + 1e-9)


def test_the_radius_by_hand() -> None:
    """Two clusters, at 0, 10 and 20 and at 90 and 120 degrees: the nearest of the other are 90, 80, 70, 70 and 100
    away."""
    points = on_circle(0, 10, 20, 90, 120)
    for purity, degrees in ((1.0, 70), (0.6, 80), (0.4, 90), (0.2, 100)):
        squared = squared_radius(points, 2, purity, RNG(0))
        assert squared == pytest.approx((2 * math.sin(math.radians(degrees / 2))) ** 2)


def test_probcover_takes_its_own_radius_by_default() -> None:
    view = Fixed(clouds(), classes=4).view([5, 2])
    points = torch.from_numpy(unit(clouds()[[5, 2, *view.unlabelled]]))
    delta = math.sqrt(squared_radius(points, 4, 0.95, RNG(0)))
    chosen = choose(probcover, view, 10)
    assert view.diagnostics["delta"] == pytest.approx(delta)
    assert chosen == choose(probcover, view, 10, delta=delta)


def test_classes_are_counted_in_predictions() -> None:
    class Detector(Fixed):
        def predict(self, model: object, indices: Indices) -> Predictions:
            return Predictions(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64), 1, torch.zeros(0, 4))

    assert count_classes(Fixed(clouds(), classes=9).view([0])) == 9
    assert count_classes(Detector(clouds()).view([0])) == 6


@pytest.mark.parametrize(("given", "words"), [({"delta": 0.0}, "delta=0.0"), ({"purity": 0.0}, "purity=0.0")])
def test_probcover_refuses(given: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        choose(probcover, Fixed(clouds()).view([0]), 3, **given)


@pytest.mark.parametrize("task", [Fixed(clouds(), classes=1), Fixed(on_circle(0, 0, 0, 0))])
def test_probcover_refuses_one_cluster(task: Fixed) -> None:
    with pytest.raises(ValueError, match="give no radius"):
        choose(probcover, task.view([0]), 2)


@pytest.mark.parametrize(
    ("encoder", "delta", "expected"),
    [
        (None, None, {"embed", "predict"}),
        (None, 0.5, {"embed"}),
        (PCA, None, {"encode", "predict"}),
        (PCA, 0.5, {"encode"}),
    ],
)
def test_needs_follow_the_parameters(encoder: EncoderName | None, delta: float | None, expected: set[str]) -> None:
    assert probcover.needs(encoder=encoder, delta=delta, purity=0.9) == expected
    assert features.needs(encoder=encoder, max_clusters=3) == expected - {"predict"}
