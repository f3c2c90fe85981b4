"""ALFA-Mix agrees with a twin that tries every cap on every anchor and mixes feature by feature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Indices, View
from benchmark.strategies import alfa_mix as module
from benchmark.strategies.alfa_mix import alfa_mix, anchors, ascent_direction, least_cap, nearest_to_centres

RNG = np.random.default_rng
D, C = 6, 4


class Head:
    """A last layer on fixed features in float64, some of which are 0 as after a ReLU; three of four classes have
    labels."""

    def __init__(self, num: int = 80, sharpness: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(3)
        self.features = torch.randn(num, D, generator=generator).double().relu()
        self.features[:, 5] = 0
        self.labels_N = torch.randint(C - 1, (num,), generator=generator)
        self.weight = sharpness * torch.randn(C, D, generator=generator).double()
        self.bias = torch.randn(C, generator=generator).double()

    def embed(self, model: object, indices: Indices) -> Tensor:
        return self.features[indices]

    def labels(self, model: object, indices: Indices) -> Tensor:
        return self.labels_N[indices]

    def classify(self, model: object, features_ND: Tensor) -> Tensor:
        return F.linear(features_ND, self.weight, self.bias)

    def view(self, labelled: list[int]) -> View:
        unlabelled, none = np.setdiff1d(np.arange(len(self.features)), labelled), np.empty(0, np.int64)
        bought, needs = np.array(labelled, np.int64), {"embed", "labels", "classify"}
        return View(self, nn.Identity(), bought, unlabelled, num_initial=0, held_out=none, needs=needs)  # type: ignore[arg-type]


LABELLED = [70, 3, 12, 44, 21, 9, 60]


def flipped(view: View, cap: float) -> list[bool]:
    """Returns whether each image's class flips for any anchor at this cap: one image, class and feature at a time."""
    all_flips = []
    bought, label_M = view.embed(view.labelled), view.labels(view.labelled)
    means = [bought[label_M == c].mean(0) if (label_M == c).any() else bought.mean(0) for c in range(C)]
    for z in view.embed(view.unlabelled):
        at = z.clone().requires_grad_()
        label = int(view.classify(at).argmax())
        [g] = torch.autograd.grad(F.cross_entropy(view.classify(at), torch.tensor(label)), at)
        flips = False
        for star in means:
            reach = cap / math.sqrt(D) * (star - z).norm() / g.norm()
            alpha = [reach * g[i] / (star[i] - z[i]) if star[i] != z[i] else 0.0 for i in range(D)]
            mixed = torch.stack([(1 - alpha[i]) * z[i] + alpha[i] * star[i] for i in range(D)])
            flips |= int(view.classify(mixed).argmax()) != label
        all_flips.append(flips)
    return all_flips


def least(view: View) -> Tensor:
    anchors_AD = anchors(view.embed(view.labelled), view.labels(view.labelled), C)
    return least_cap(view, view.embed(view.unlabelled), anchors_AD)


@pytest.mark.parametrize("cap", [0.03125, 0.125, 0.25, 0.5, 0.75, 1.0])
def test_candidates_are_those_of_the_twin(cap: float) -> None:
    """Some flip at each cap but the smallest, not all flip at 1, and what flips at a cap flips at larger ones."""
    view = Head().view(LABELLED)
    twin = flipped(view, cap)
    assert (least(view) < cap).tolist() == twin
    assert any(twin) == (cap > 0.1)
    assert not all(twin)


def test_the_least_cap_is_where_the_label_flips() -> None:
    view = Head().view(LABELLED)
    least_N = least(view)
    number = int(least_N.argmin())
    assert not flipped(view, least_N.min().item() * (1 - 1e-9))[number]
    assert flipped(view, least_N.min().item() * (1 + 1e-9))[number]


@pytest.mark.parametrize("budget", [1, 5, 12])
def test_alfa_mix_is_its_twin(budget: int) -> None:
    """The cap rises until there are more candidates than the budget; k-means with the same seed selects one per
    cluster."""
    view = Head().view(LABELLED)
    cap = next(0.03125 * n for n in range(1, 33) if sum(flipped(view, 0.03125 * n)) > budget)
    candidates = np.flatnonzero(flipped(view, cap))
    unit = F.normalize(view.embed(view.unlabelled[candidates])).numpy()
    model = KMeans(budget, n_init=1, random_state=int(RNG(2).integers(2**32))).fit(unit)
    distance = ((unit - model.cluster_centers_[model.labels_]) ** 2).sum(1)
    rank = view.tie_ranks(view.unlabelled[candidates])  # both of a cluster of two are as near
    twin = [min(np.flatnonzero(model.labels_ == k), key=lambda i: (distance[i], rank[i])) for k in range(budget)]
    chosen = alfa_mix(view, budget, RNG(2))
    assert set(chosen.tolist()) == set(view.unlabelled[candidates[twin]].tolist())
    assert view.diagnostics == {"alpha_cap": cap, "candidates": len(candidates)}


def test_a_larger_step_takes_more_candidates() -> None:
    view = Head().view(LABELLED)
    alfa_mix(view, 5, RNG(0), alpha_cap=0.5)
    assert view.diagnostics == {"alpha_cap": 0.5, "candidates": sum(flipped(view, 0.5))}


@pytest.mark.parametrize("step", [0.3, 0.1, 0.7, 1.0])
def test_the_cap_ends_at_1_whatever_the_step(step: float) -> None:
    """Steps of 0.3 are 0.3, 0.6, 0.9 and 1, not 1.2. Ten steps of 0.1 end at 1, not at the float below it and then
    1.1."""
    view = Head().view(LABELLED)
    alfa_mix(view, 73, RNG(0), alpha_cap=step)
    assert view.diagnostics == {"alpha_cap": 1.0, "candidates": sum(flipped(view, 1.0))}


def test_the_nearest_of_equals_goes_by_rank() -> None:
    points = torch.tensor([[0.0], [2.0], [50.0], [52.0], [100.0], [102.0]])
    for rank in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1, 0, 4, 5, 3, 2]):
        twin = {min(pair, key=rank.__getitem__) for pair in ((0, 1), (2, 3), (4, 5))}
        assert set(nearest_to_centres(points, 3, RNG(0), np.array(rank)).tolist()) == twin


def test_where_candidates_are_too_few_others_are_random_and_distinct() -> None:
    """Most images are certain to be of class 0."""
    task = Head()
    task.bias[0] += 4
    view = task.view(LABELLED)
    candidates = set(view.unlabelled[np.flatnonzero(flipped(view, 1.0))].tolist())
    num = len(candidates)
    assert 0 < num < 40
    selections = [alfa_mix(view, num + 10, RNG(seed)).tolist() for seed in range(3)]
    assert all(set(selection[:num]) == candidates and len(set(selection)) == num + 10 for selection in selections)
    assert len({tuple(selection[num:]) for selection in selections}) == 3
    assert view.diagnostics == {"alpha_cap": 1.0, "candidates": num}
    assert set(alfa_mix(view, 73, RNG(0)).tolist()) == set(view.unlabelled.tolist())


def test_one_of_each_distinct_point_then_others() -> None:
    """Two distinct directions, four images each, and three clusters: two images from clusters and a random one."""
    points = torch.eye(2).repeat(4, 1)
    picks = nearest_to_centres(points, 3, RNG(0), np.arange(8))
    assert sorted(points[picks].argmax(1).tolist()) == [0, 1]
    task = Head()
    task.features[:] = task.features[:1]
    task.features[::2] = task.features[0] + torch.eye(D).double()[0]
    chosen = alfa_mix(task.view(LABELLED), 30, RNG(0), alpha_cap=1.0)
    assert len(set(chosen.tolist())) == 30


def test_the_nearest_to_each_centre_by_hand() -> None:
    """The means are 1 and 101; the nearest are the second and the last point."""
    points = torch.tensor([[0.0], [1.1], [1.9], [100.0], [103.0], [101.0]])
    assert sorted(nearest_to_centres(points, 2, RNG(0), np.arange(6)).tolist()) == [1, 5]


def test_ascent_is_the_direction_of_the_cross_entropys_gradient_and_does_not_vanish() -> None:
    for sharpness in (1.0, 1000.0):
        view = Head(sharpness=sharpness).view(LABELLED)
        at = view.embed(view.unlabelled).requires_grad_()
        label_N = view.classify(at).argmax(1)
        upward_ND = ascent_direction(view, at, label_N[:, None])
        assert (upward_ND.norm(dim=1) > 0.1).all()
        [gradient_ND] = torch.autograd.grad(F.cross_entropy(view.classify(at), label_N, reduction="sum"), at)
        moved = gradient_ND.norm(dim=1) > 1e-9
        assert moved.all() == (sharpness == 1)
        torch.testing.assert_close(F.normalize(gradient_ND[moved]), F.normalize(upward_ND[moved]))


def test_anchors_are_class_means_and_the_mean_of_all_for_a_class_without() -> None:
    features, label = torch.tensor([[0.0, 2], [4, 0], [2, 2]]), torch.tensor([1, 0, 1])
    assert anchors(features, label, 2).tolist() == [[4, 0], [1, 2]]
    torch.testing.assert_close(anchors(features, label, 3), torch.tensor([[4, 0], [1, 2], [2, 4 / 3]]))


def test_rows_at_a_time_are_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    view = Head().view(LABELLED)
    whole = alfa_mix(view, 5, RNG(0))
    monkeypatch.setattr(module, "CHUNK", 7)
    np.testing.assert_array_equal(whole, alfa_mix(view, 5, RNG(0)))


@pytest.mark.parametrize("which", [LABELLED[2], 5])
def test_nan_is_refused(which: int) -> None:
    task = Head()
    task.features[which, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        alfa_mix(task.view(LABELLED), 3, RNG(0))


@pytest.mark.parametrize("step", [0.0, 1.5])
def test_steps_outside_0_and_1_are_refused(step: float) -> None:
    with pytest.raises(ValueError, match=rf"alfa_mix\[alpha_cap={step}\]"):
        alfa_mix(Head().view(LABELLED), 3, RNG(0), alpha_cap=step)
