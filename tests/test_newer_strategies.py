"""TCM, DCoM, DropQuery, GALAXY, ActiveFT and BiLAF: hand-computed cases, and slow twins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import EncoderName, Encoding, Indices, Predictions, View
from benchmark.strategies.active_ft import active_ft
from benchmark.strategies.bilaf import Boundary, bilaf, share_budget
from benchmark.strategies.centroids import centroids
from benchmark.strategies.dcom import covered_by, dcom, logistic_competence, pure_squared_radii
from benchmark.strategies.dropquery import dropquery
from benchmark.strategies.galaxy import Graphs, galaxy, middle_of_shortest_run
from benchmark.strategies.margin import margin
from benchmark.strategies.probcover import probcover
from benchmark.strategies.shared.active_ft import CentreOptimiser
from benchmark.strategies.tcm import tcm
from benchmark.strategies.typiclust import typiclust

RNG = np.random.default_rng
NEEDS = {"embed", "encode", "predict", "labels", "sample"}


class Fixed:
    """A task with fixed features, predictions, dropout samples and labels."""

    def __init__(self, features_NE: Tensor, scores_NC: Tensor | None = None, samples: list[Tensor] | None = None):
        num = len(features_NE)
        self.features_NE, self.samples = features_NE, samples or []
        generator = torch.Generator().manual_seed(num)
        self.scores_NC = torch.rand(num, 3, generator=generator).softmax(1) if scores_NC is None else scores_NC
        self.label_N = torch.randint(self.scores_NC.shape[1], (num,), generator=generator)

    def embed(self, model: object, indices: Indices) -> Tensor:
        return self.features_NE[indices]

    def encode(self, model: object, indices: Indices, encoder: EncoderName) -> Iterator[Encoding]:
        yield Encoding(torch.zeros(len(indices), 1, 1), torch.ones(len(indices), 1), self.features_NE[indices])

    def predict(self, model: object, indices: Indices) -> Predictions:
        return Predictions(self.scores_NC[indices], torch.arange(len(indices)), len(indices))

    def sample(self, model: object, indices: Indices, num: int, seed: int) -> Iterator[Predictions]:
        for scores_NC in self.samples[:num]:
            yield Predictions(scores_NC[indices], torch.arange(len(indices)), len(indices))

    def labels(self, model: object, indices: Indices) -> Tensor:
        return self.label_N[indices]

    def view(self, labelled: list[int], needs: set[str] = NEEDS) -> View:
        unlabelled = np.setdiff1d(np.arange(len(self.features_NE)), labelled)
        bought, none = np.array(labelled, np.int64), np.empty(0, np.int64)
        task: Any = self
        model: Any = None
        return View(task, model, bought, unlabelled, num_initial=0, held_out=none, needs=needs)


def clouds(num: int = 90, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(6, 5, generator=generator).double()
    return (
        directions[torch.randint(6, (num,), generator=generator)]
        + 0.5 * torch.randn(num, 5, generator=generator).double()
    )


# --- TCM --------------------------------------------------------------------------------------
def test_tcm_is_typiclust_first_and_margin_then() -> None:
    task = Fixed(clouds())
    few, many = task.view(list(range(9))), task.view(list(range(30)))
    assert tcm(few, 5, RNG(0), encoder=None).tolist() == typiclust(few, 5, RNG(0), encoder=None).tolist()
    assert few.diagnostics["by_margin"] == 0
    assert tcm(many, 5, RNG(0), encoder=None).tolist() == margin(many, 5, RNG(0)).tolist()  # 3 classes, ten of each
    assert many.diagnostics["by_margin"] == 1
    assert tcm(few, 5, RNG(0), encoder=None, switch_at=9).tolist() == margin(few, 5, RNG(0)).tolist()
    assert (
        tcm(many, 5, RNG(0), encoder=None, switch_at=31).tolist() == typiclust(many, 5, RNG(0), encoder=None).tolist()
    )
    cold = task.view([], {"embed"})  # no model: neither predictions nor classes
    assert len(set(tcm(cold, 5, RNG(0), encoder=None, switch_at=None).tolist())) == 5


# --- DCoM -------------------------------------------------------------------------------------
def test_without_labels_dcom_is_probcover() -> None:
    view = Fixed(clouds()).view([])
    expected = probcover(view, 8, RNG(0), encoder=None, delta=0.4)
    assert dcom(view, 8, RNG(0), encoder=None, delta=0.4).tolist() == expected.tolist()


def test_competence_rises_from_0_to_1() -> None:
    assert logistic_competence(1.0, 0.8, 50) == pytest.approx(1)
    assert logistic_competence(0.8, 0.8, 50) == pytest.approx(0.5, abs=1e-4)
    assert logistic_competence(0.2, 0.8, 50) < 1e-10


def on_circle(*degrees: float) -> Tensor:
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], 1)


def chord(degrees: float) -> float:
    return float(2 * np.sin(np.deg2rad(degrees) / 2))


def test_radii_by_hand() -> None:
    """Labelled image 0 at 0 degrees is of class 0; its neighbours at 5, 10, 30 and 31 are predicted 0, 1, 0, 1."""
    points = on_circle(0, 5, 10, 30, 31, 180)
    scores = F.one_hot(torch.tensor([0, 0, 1, 0, 1, 1]), 2).double()
    task = Fixed(points, scores)
    task.label_N = torch.zeros(6, dtype=torch.int64)
    view, predicted = task.view([0]), scores.argmax(1)
    # with delta=0.01 the coverage is 1 of 6, the purity 0.4 + 0.2 / 6: of all six images half are of class 0
    [squared] = pure_squared_radii(view, points, predicted, 0.01, 1.1).tolist()
    assert squared == pytest.approx(1.1**2)
    task.scores_NC = F.one_hot(torch.tensor([0, 0, 1, 1, 1, 1]), 2).double()
    [squared] = pure_squared_radii(view, points, task.scores_NC.argmax(1), 0.01, 9.0).tolist()
    assert squared == pytest.approx(chord(31) ** 2)  # 2 of the 4 before it are of class 0, beyond it 2 of 5
    assert covered_by(points, 1, torch.tensor([squared]).double()).tolist() == [True] * 4 + [False] * 2


def test_dcom_is_its_twin() -> None:
    task, labelled, delta = Fixed(clouds(60)), [3, 40, 22], 0.5
    view = task.view(labelled)
    order = np.concatenate([labelled, view.unlabelled])
    points = F.normalize(task.features_NE[order])
    distance = torch.cdist(points, points)
    radii = pure_squared_radii(view, points, task.scores_NC[order].argmax(1), delta, 1.1).sqrt()
    covered = (distance[:3] < radii[:, None]).any(0)
    covered[:3] = True
    competence = logistic_competence(float(covered.double().mean()), 0.8, 50)
    top = task.scores_NC[order].double().topk(2).values
    score = 1 - (top[:, 0] - top[:, 1])
    margins = (score - score.min()) / (score.max() - score.min())
    near, picks = distance < radii.mean(), [0, 1, 2]
    for _ in range(10):
        degree = (near & ~covered).sum(1).double()
        degree[picks], margins[picks] = 0, 0
        density = degree / degree.max() if degree.max() > 0 else degree
        value = competence * margins + (1 - competence) * density
        value[picks] = -1
        rank = view.tie_ranks(order)
        best = torch.nonzero(value == value.max())[:, 0].tolist()
        picks.append(min(best, key=lambda i: rank[i]))
        covered |= near[picks[-1]]
    assert dcom(view, 10, RNG(0), encoder=None, delta=delta).tolist() == order[picks[3:]].tolist()
    assert view.diagnostics["competence"] == pytest.approx(competence)


@pytest.mark.parametrize(("centre", "by_margin"), [(-9.0, True), (9.0, False)])
def test_competence_decides_between_margin_and_density(centre: float, by_margin: bool) -> None:
    view = Fixed(clouds()).view([0, 1, 2])
    chosen = dcom(view, 5, RNG(0), encoder=None, centre=centre, steepness=20)
    assert (chosen.tolist() == margin(view, 5, RNG(0)).tolist()) == by_margin


# --- DropQuery and centroids ------------------------------------------------------------------
def one_hot(*labels: int) -> Tensor:
    return F.one_hot(torch.tensor(labels), 2).double()


def test_dropquery_takes_images_whose_class_changes() -> None:
    """Images 1 and 4 change under two of three masks, image 2 under one, the others never."""
    scores = one_hot(0, 0, 0, 1, 1, 1)
    samples = [one_hot(0, 1, 1, 1, 0, 1), one_hot(0, 1, 0, 1, 0, 1), one_hot(0, 0, 0, 1, 1, 1)]
    task = Fixed(clouds(6), scores, samples)
    view = task.view([5])
    assert set(dropquery(view, 2, RNG(0), surplus=1).tolist()) == {1, 4}
    assert view.diagnostics == {"candidates": 2, "mismatches": 2}
    assert set(dropquery(view, 3, RNG(0), surplus=1).tolist()) == {1, 2, 4}
    assert view.diagnostics == {"candidates": 3, "mismatches": 1}
    assert {1, 2, 4} < set(dropquery(view, 4, RNG(0)).tolist())
    [single] = dropquery(view, 1, RNG(0), surplus=1).tolist()
    assert single in (1, 4)


def test_dropquery_begins_with_centroids() -> None:
    task = Fixed(clouds())
    cold = task.view([], {"encode"})
    expected = centroids(cold, 6, RNG(0), encoder=EncoderName("patch_pca")).tolist()
    assert dropquery(cold, 6, RNG(0), encoder=EncoderName("patch_pca")).tolist() == expected


def test_centroids_are_one_of_each_cluster() -> None:
    """Six tight clouds give one image each; among copies of one image the rest is drawn at random."""
    generator = torch.Generator().manual_seed(0)
    place_N = torch.arange(60) % 6
    points = torch.eye(6).double()[place_N] + 1e-3 * torch.randn(60, 6, generator=generator).double()
    for seed in range(3):
        chosen = centroids(Fixed(points).view([]), 6, RNG(seed), encoder=None)
        assert sorted(place_N[chosen].tolist()) == list(range(6))
    assert len(set(centroids(Fixed(points[:1].repeat(20, 1)).view([]), 8, RNG(0), encoder=None).tolist())) == 8


# --- GALAXY -----------------------------------------------------------------------------------
def test_the_middle_of_the_shortest_run() -> None:
    assert middle_of_shortest_run(np.array([10]), np.array([0, 20])) in (5, 15)
    assert middle_of_shortest_run(np.array([10, 13]), np.array([0, 20])) == 17  # 13 and 20: six between them
    assert middle_of_shortest_run(np.array([3]), np.array([2, 4])) is None


def test_galaxy_bisects_until_it_finds_the_boundary() -> None:
    """One class's order is that of the images, 0 to 15; the boundary between predictions is after image 5."""
    label_N = np.array([0] * 6 + [1] * 10)
    has_label_N = np.isin(np.arange(16), [0, 15])
    graphs = Graphs(np.arange(16)[None], label_N, has_label_N)
    assert [graphs.select(1 % 1, RNG(0)) for _ in range(4)] == [8, 4, 6, 5]
    assert [graphs.select(0, RNG(0)) for _ in range(2)] == [7, 3]  # both at distance 2 of the farther kind


def test_galaxy_balances_a_rare_class() -> None:
    """Of 400 images ten are of class 1, whose scores are the highest; half of a batch should be of it."""
    generator = torch.Generator().manual_seed(0)
    is_rare_N = torch.arange(400) < 10
    score_N = torch.where(is_rare_N, 0.6, 0.1) + 0.2 * torch.rand(400, generator=generator)
    task = Fixed(clouds(400), torch.stack([1 - score_N, score_N], 1))
    task.label_N = is_rare_N.long()
    chosen = galaxy(task.view([0, *range(100, 130)]), 10, RNG(0))
    assert 3 <= int(is_rare_N[chosen].sum()) <= 7


def test_galaxy_without_a_boundary_draws_at_random() -> None:
    task = Fixed(clouds(40), torch.rand(40, 2, generator=torch.Generator().manual_seed(0)).softmax(1))
    task.label_N = torch.zeros(40, dtype=torch.int64)
    view = task.view([0, 1])
    first, second = (galaxy(view, 1, RNG(seed)).tolist() for seed in (0, 1))
    assert first != second


# --- ActiveFT and BiLAF -----------------------------------------------------------------------
def plain_loss(points: Tensor, centres: Tensor, temperature: float) -> Tensor:
    """The loss as the paper writes it, with all products and a plain gradient of the nearest centre alone."""
    similarity = (points @ centres.T / temperature).exp()
    attraction, nearest = similarity.max(1)
    repulsion = (centres.detach() @ centres.T / temperature).exp().sum(0)
    return -(attraction / (attraction + repulsion[nearest])).log().mean()


def test_the_loss_and_its_gradient_are_those_of_the_paper() -> None:
    points = F.normalize(clouds(50))
    optimiser = CentreOptimiser(0.2, 0.01, 5)
    gradients = []
    for loss in (optimiser.loss, lambda p, c: plain_loss(p, c, 0.2)):
        start = points[:7].clone().requires_grad_()
        value = loss(points, F.normalize(start))
        value.backward()
        assert start.grad is not None
        gradients.append((value.detach(), start.grad))
    torch.testing.assert_close(*gradients)


def test_active_ft_lowers_its_loss_and_spreads() -> None:
    points = F.normalize(clouds(90))
    optimiser = CentreOptimiser(0.07, 0.02, 60)
    start = points[:6].clone()
    end = optimiser.optimise(points, points[:0], start.clone())
    assert optimiser.loss(points, end) < optimiser.loss(points, start) - 0.1
    torch.testing.assert_close(end.norm(dim=1), torch.ones(6).double())


def test_active_ft_takes_no_image_twice() -> None:
    points = clouds(12)
    chosen = active_ft(Fixed(points).view([3]), 11, RNG(0), encoder=None, num_steps=3, lr=0.1)
    assert sorted(chosen.tolist()) == [i for i in range(12) if i != 3]
    without_steps = active_ft(Fixed(points).view([]), 4, RNG(0), encoder=None, num_steps=0).tolist()
    assert without_steps == RNG(0).choice(12, 4, replace=False).tolist()


def test_shares_of_the_budget() -> None:
    assert share_budget(10, np.array([10, 30])).tolist() == [3, 7]
    assert share_budget(9, np.array([2, 30])).tolist() == [2, 7]  # the rest of 1 goes to the smaller share
    assert share_budget(9, np.array([1, 30])).tolist() == [1, 8]
    assert share_budget(9, np.array([2, 3])).tolist() == [2, 3]


def test_a_cluster_grows_from_its_core_and_loses_its_outliers() -> None:
    angles = [0, 1, -1, 2, -2, 3, -3, 4, 20, 90, 91]
    boundary = Boundary(on_circle(*angles), torch.tensor([0, 9]), torch.arange(11))
    first, second = boundary.clusters(num_neighbours=2, outliers=0.1, step=0.1)
    assert first.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]  # fewer than ten: nothing is left out
    assert second.tolist() == [9, 10]
    boundary = Boundary(on_circle(*angles, 5), torch.tensor([0, 9]), torch.arange(12))
    members = boundary.clusters(num_neighbours=2, outliers=0.1, step=0.1)[0].tolist()
    assert set(members) == {0, 1, 2, 3, 4, 5, 6, 7, 11}  # the image at 20 degrees joins last


def test_boundary_images_by_hand() -> None:
    """Cores at 0 and 90 degrees; of the first cluster the image at 40 is nearest to the other core."""
    points = on_circle(0, 10, 20, 40, -10, -20, 90)
    boundary = Boundary(points, torch.tensor([0, 6]), torch.arange(7))
    members = torch.arange(6)
    assert boundary.select(0, members, 2, 1.1) == [3]
    assert len(set(boundary.select(0, members, 6, 1.1))) == 5
    assert boundary.select(0, members, 1, 1.1) == []


@pytest.mark.parametrize("budget", [1, 5, 40, 88])
def test_bilaf_selects_its_cores_first(budget: int) -> None:
    view = Fixed(clouds()).view([7, 8])
    chosen = bilaf(view, budget, RNG(0), encoder=None, num_steps=3)
    assert len(set(chosen.tolist())) == budget
    cores = max(1, budget // 4)
    expected = active_ft(view, cores, RNG(0), encoder=None, num_steps=3)
    assert chosen[:cores].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("strategy", "given"),
    [
        (tcm, {"switch_at": -1}),
        (dcom, {"delta": 0.0}),
        (dropquery, {"num_samples": 0}),
        (active_ft, {"lr": 0.0}),
        (bilaf, {"num_cores": 4}),
        (bilaf, {"penalty": 0.9}),
        (bilaf, {"temperature": 0.0}),
    ],
)
def test_values_that_make_no_sense_are_refused(strategy: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|1 or more"):
        strategy(Fixed(clouds()).view([0]), 3, RNG(0), **given)
