"""BALD on boxes, CALD and PPAL, by hand and against slow twins.

Shapes: N images, P boxes of all, C classes, D features, T samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor
from torchvision.ops import box_iou

from benchmark.api import Augmentation, Boxes, Indices, Predictions, View
from benchmark.strategies import ppal as ppal_module
from benchmark.strategies.bald import bald
from benchmark.strategies.cald import cald, class_confidence, js_divergence, labelled_class_frequency, least_consistency
from benchmark.strategies.ppal import (
    binary_entropy,
    class_difficulty,
    image_distances,
    initial_medoids,
    k_medoids,
    ppal,
)
from benchmark.strategies.shared import disagreement
from benchmark.strategies.shared.boxes import best_match, box_classes, pad_by_image, rank_in_image
from benchmark.strategies.shared.disagreement import mutual_information
from tests._toy import Toy, look

RNG = np.random.default_rng
BOX = (0.0, 0.0, 10.0, 10.0)
CHANGES: tuple[Augmentation, ...] = ("flip", "cutout", "shrink", "rotate")


def some(number: int, num_images: int, seed: int, num_classes: int = 3) -> Predictions:
    """Returns random boxes of some of the images, in a mixed order."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + torch.rand(number, 2, generator=generator) * 50 + 1], 1)
    scores = (2 * torch.randn(number, num_classes + 1, generator=generator)).softmax(1)
    return Predictions(scores, torch.randint(num_images, (number,), generator=generator), num_images, boxes)


def make_predictions(rows: list[tuple[int, tuple[float, ...], tuple[float, ...]]], num_images: int) -> Predictions:
    """Builds predictions from rows of image, class probabilities (background is the remainder) and box; the last row
    first."""
    scores = torch.tensor([[*scores, 1 - sum(scores)] for _, scores, _ in rows[::-1]]).reshape(len(rows), -1)
    image, boxes = [image for image, _, _ in rows[::-1]], [box for _, _, box in rows[::-1]]
    return Predictions(scores, torch.tensor(image, dtype=torch.int64), num_images, torch.tensor(boxes).reshape(-1, 4))


class ScriptedDetector:
    """A task with fixed outputs at any positions: its n-th image is the n-th of the positions in a call."""

    def __init__(self, clean: Predictions, truth: list[Boxes], **outputs: Any) -> None:
        self.clean, self.truth, self.outputs = clean, truth, outputs
        self.calls: list[tuple[str, int]] = []

    def predict(self, model: object, indices: Indices) -> Predictions:
        return self.outputs["on_labelled"] if indices[0] >= 1000 else rows_of(self.clean, indices)

    def augmented(
        self, model: object, indices: Indices, hows: Sequence[Augmentation], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        """In parts of five images."""
        self.calls.extend(zip(hows, seeds, strict=True))
        for start in range(0, len(indices), 5):
            part = indices[start : start + 5]
            yield [rows_of(whole, part) for whole in (self.clean, *(self.outputs["changed"][how] for how in hows))]

    def sample(self, model: object, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        self.calls.append((f"{len(indices)} images", seed))
        for scores_PC in self.outputs["samples"][:num_samples]:
            whole = Predictions(scores_PC, self.clean.image_P, self.clean.num_images, self.clean.boxes_P4)
            yield rows_of(whole, indices)

    def box_features(self, model: object, indices: Indices) -> Tensor:
        return self.outputs["features"][rows_of_images(self.clean, indices)]

    def labels(self, model: object, indices: Indices) -> list[Boxes]:
        return [self.truth[index - 1000] for index in indices]

    def view(self, *needs: str) -> View:
        """Returns a view in which image n is at position n, and labelled images from 1000 on."""
        labelled, unlabelled = 1000 + np.arange(len(self.truth)), np.arange(self.clean.num_images)
        none = np.empty(0, np.int64)
        return View(self, None, labelled, unlabelled, num_initial=0, held_out=none, needs=needs)  # type: ignore[arg-type]


def rows_of_images(whole: Predictions, indices: Indices) -> Tensor:
    return torch.from_numpy(np.isin(whole.image_P.numpy(), indices))


def rows_of(whole: Predictions, indices: Indices) -> Predictions:
    """Returns the predictions on these images, which ascend."""
    here = rows_of_images(whole, indices)
    image_P = torch.from_numpy(np.searchsorted(indices, whole.image_P[here].numpy()))
    assert whole.boxes_P4 is not None
    return Predictions(whole.scores_PC[here], image_P, len(indices), whole.boxes_P4[here])


def boxes(*labels: int, at: tuple[float, ...] = BOX) -> Boxes:
    """Returns labels of one image, all at one place."""
    return Boxes(torch.tensor([at] * len(labels)).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64))


# --- boxes ------------------------------------------------------------------------------------------
def test_the_best_match_is_the_first_of_the_best() -> None:
    first, second = some(40, 5, 0), some(30, 5, 1)
    assert first.boxes_P4 is not None
    assert second.boxes_P4 is not None
    here, there = pad_by_image(first.boxes_P4, first.image_P, 5), pad_by_image(second.boxes_P4, second.image_P, 5)
    iou_NA, match_NA = best_match(here, there)
    for image in range(5):
        best = box_iou(here[image], there[image]).nan_to_num(0)
        torch.testing.assert_close(iou_NA[image], best.amax(1))
        assert match_NA[image].tolist() == [row.index(max(row)) for row in best.tolist()]
    assert best_match(here, torch.zeros(5, 4, 4))[1].sum() == 0


def test_ranks_count_within_an_image() -> None:
    assert rank_in_image(torch.tensor([2, 0, 2, 2, 0, 1]), 4).tolist() == [0, 0, 1, 2, 1, 0]
    assert rank_in_image(torch.zeros(0, dtype=torch.int64), 2).tolist() == []


# --- bald -------------------------------------------------------------------------------------------
def disagreeing(num_images: int = 7, number: int = 30) -> ScriptedDetector:
    clean = some(number, num_images, 3)
    samples = [some(number, num_images, 10 + t).scores_PC for t in range(5)]
    return ScriptedDetector(clean, [], samples=samples)


@pytest.mark.parametrize("how", ["max", "mean", "sum"])
def test_bald_takes_the_information_of_each_box(how: Any) -> None:
    task = disagreeing()
    p_TPC = torch.stack(task.outputs["samples"])
    mean_PC = p_TPC.mean(0)
    information_P = (p_TPC * (p_TPC / mean_PC).log()).sum(2).mean(0)  # the mean divergence of a sample from the mean
    torch.testing.assert_close(mutual_information(iter(p_TPC)), information_P)
    of_image = [information_P[task.clean.image_P == image] for image in range(7)]
    value = [
        {"max": max, "mean": lambda v: sum(v) / len(v), "sum": sum}[how](values.tolist() or [0]) for values in of_image
    ]
    picks = bald(task.view("sample"), 7, RNG(0), num_samples=5, how=how)
    assert picks.tolist() == sorted(range(7), key=lambda image: -value[image])


def test_bald_asks_for_some_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    task = disagreeing(num_images=11, number=50)
    whole = bald(task.view("sample"), 11, RNG(4), num_samples=5)
    assert [call for call, _ in task.calls] == ["1 images", "11 images"]
    monkeypatch.setattr(disagreement, "IMAGES_AT_ONCE", 4)
    task.calls.clear()
    np.testing.assert_array_equal(bald(task.view("sample"), 11, RNG(4), num_samples=5), whole)
    assert [call for call, _ in task.calls] == ["1 images", "4 images", "4 images", "3 images"]
    assert {seed for _, seed in task.calls} == {int(RNG(4).integers(2**63))}


def test_bald_asks_for_all_images_of_a_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples of a classifier are drawn for all images together."""
    view = look(Toy(), {"sample"})
    whole = bald(view, 40, RNG(0), num_samples=3)
    monkeypatch.setattr(disagreement, "IMAGES_AT_ONCE", 4)
    np.testing.assert_array_equal(bald(view, 40, RNG(0), num_samples=3), whole)


def test_bald_puts_images_without_boxes_last() -> None:
    clean = make_predictions([(0, (0.5, 0.3), BOX), (2, (0.5, 0.3), BOX)], 4)
    samples = [torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]]), torch.tensor([[0.3, 0.5, 0.2], [0.1, 0.9, 0.0]])]
    picks = bald(ScriptedDetector(clean, [], samples=samples).view("sample"), 4, RNG(0), num_samples=2)
    assert picks.tolist() == [0, 2, 1, 3]


# --- cald -------------------------------------------------------------------------------------------
def test_the_divergence_is_that_of_scipy() -> None:
    p, q = some(20, 1, 0).scores_PC, some(20, 1, 1).scores_PC
    expected = [jensenshannon(a, b) ** 2 for a, b in zip(p.double(), q.double(), strict=True)]
    torch.testing.assert_close(js_divergence(p, q).double(), torch.tensor(expected), rtol=1e-4, atol=1e-6)
    left, right = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert js_divergence(left, right).item() == pytest.approx(math.log(2))
    assert js_divergence(p, p).tolist() == [0.0] * 20


def test_consistency_by_hand() -> None:
    """Image 0 has a box that stays, with certainty: |1 + (0.9 + 0.9) / 2 - 1.3| = 0.6. Its other box has half the width
    and other classes: IoU 0.5, JS of (0.8, 0.1, 0.1) and (0.1, 0.8, 0.1). Image 1 loses its box. Image 2 has none at
    first."""
    clean = make_predictions([(0, (0.9, 0.05), BOX), (0, (0.8, 0.1), (20, 20, 40, 30)), (1, (0.9, 0.05), BOX)], 3)
    other = make_predictions([(0, (0.9, 0.05), BOX), (0, (0.1, 0.8), (20, 20, 30, 30)), (2, (0.9, 0.05), BOX)], 3)
    js = jensenshannon([0.8, 0.1, 0.1], [0.1, 0.8, 0.1]) ** 2
    second = abs(0.5 + (1 - js) * 0.8 - 1.3)
    assert 0 < second < 0.6
    assert least_consistency(clean, other).tolist() == pytest.approx([second, 0.0, 0.0])
    apart = make_predictions([(0, (0.6, 0.2), (60, 60, 70, 70))], 3)  # the best of none: IoU 0
    js = [jensenshannon(p, [0.6, 0.2, 0.2]) ** 2 for p in ([0.9, 0.05, 0.05], [0.8, 0.1, 0.1])]
    each = [abs((1 - js[0]) * 0.75 - 1.3), abs((1 - js[1]) * 0.7 - 1.3)]
    assert least_consistency(clean, apart)[0].item() == pytest.approx(min(each))


def slow_least(clean: Predictions, other: Predictions) -> list[float]:
    """Computes the least consistency box by box."""
    out = []
    assert clean.boxes_P4 is not None
    assert other.boxes_P4 is not None
    for image in range(clean.num_images):
        mine, theirs = (clean.image_P == image).nonzero()[:, 0], (other.image_P == image).nonzero()[:, 0]
        values = []
        for row in mine if len(theirs) else ():
            overlaps = box_iou(clean.boxes_P4[row][None], other.boxes_P4[theirs])[0].tolist()
            match = theirs[overlaps.index(max(overlaps))]
            js = jensenshannon(clean.scores_PC[row].double(), other.scores_PC[match].double()) ** 2
            sure = clean.scores_PC[row, :-1].max().item() + other.scores_PC[match, :-1].max().item()
            values.append(abs(max(overlaps) + (1 - js) * sure / 2 - 1.3))
        out.append(min(values, default=0.0))
    return out


def test_consistency_is_its_slow_twin() -> None:
    clean, other = some(60, 12, 0), some(50, 12, 1)
    assert len(clean.image_P.unique()) > len(other.image_P[other.image_P < 4].unique())
    fewer = Predictions(
        other.scores_PC[other.image_P > 2], other.image_P[other.image_P > 2], 12,
        other.boxes_P4[other.image_P > 2],  # type: ignore[index]
    )  # fmt: skip
    for augmented in (other, fewer):
        assert least_consistency(clean, augmented).tolist() == pytest.approx(
            slow_least(clean, augmented), rel=1e-4, abs=1e-5
        )


def test_class_confidence_is_the_largest_of_each_class() -> None:
    predictions = make_predictions([(0, (0.5, 0.3), BOX), (0, (0.7, 0.1), BOX), (1, (0.1, 0.4), BOX)], 3)
    torch.testing.assert_close(class_confidence(predictions), torch.tensor([[0.7, 0.0], [0.0, 0.4], [0.0, 0.0]]))


def consistent(num_images: int = 14) -> ScriptedDetector:
    """Every image has a box at first, except 2 and 5."""
    clean = some(60, num_images, 0)
    with_boxes = (clean.image_P != 2) & (clean.image_P != 5)
    assert clean.boxes_P4 is not None
    clean = Predictions(clean.scores_PC[with_boxes], clean.image_P[with_boxes], num_images, clean.boxes_P4[with_boxes])
    changed = {how: some(40, num_images, 20 + number) for number, how in enumerate(CHANGES)}
    return ScriptedDetector(clean, [boxes(0, 0, 0), boxes(0), boxes()], changed=changed)


def test_labelled_classes_are_counted_an_image() -> None:
    task = ScriptedDetector(some(5, 2, 0), [boxes(0, 2, 0), boxes(0), boxes()])
    assert labelled_class_frequency(task.view("labels"), torch.zeros(2, 4)).tolist() == pytest.approx([1, 0, 1 / 3, 0])


def slow_cald(task: ScriptedDetector, budget: int, candidates: float, *, score: bool) -> list[int]:
    """Selects image by image; images without boxes come first with `score` and are left out otherwise."""
    parts = torch.tensor([slow_least(task.clean, task.outputs["changed"][how]) for how in CHANGES])
    value, views = parts.mean(0), [task.clean, *task.outputs["changed"].values()]
    empty = [image for image in range(task.clean.num_images) if image not in task.clean.image_P]
    assert len(empty) >= 2
    ranked = sorted(range(len(value)), key=lambda image: value[image].item())
    ranked = ranked if score else [image for image in ranked if image not in empty]
    labelled = torch.tensor([4 / 3, 0, 0]).softmax(0).double()
    rare = {}
    for image in ranked[: int(candidates * budget)]:
        profile = torch.zeros(3)
        for predictions in views:
            of_view = torch.zeros(3)
            for row in (predictions.image_P == image).nonzero()[:, 0]:
                label = int(predictions.scores_PC[row, :3].argmax())
                of_view[label] = max(of_view[label], predictions.scores_PC[row, label])
            profile += of_view / len(views)
        rare[image] = math.inf if image in empty else jensenshannon(labelled, profile.softmax(0).double()) ** 2
    return sorted(rare, key=lambda image: -rare[image])[:budget]


@pytest.mark.parametrize(("budget", "candidates"), [(1, 1.2), (5, 1.2), (5, 1.0), (5, 2.5)])
def test_cald_is_its_slow_twin(budget: int, candidates: float) -> None:
    task = consistent()
    for policy in ("score", "last"):
        view = task.view("predict", "augmented", "labels")
        picks = cald(view, budget, RNG(0), candidates=candidates, without_boxes=policy)  # type: ignore[arg-type]
        assert picks.tolist() == slow_cald(task, budget, candidates, score=policy == "score")
    with_boxes = len(task.clean.image_P.unique())
    total = sum(sum(slow_least(task.clean, task.outputs["changed"][how])) for how in CHANGES) / 4
    assert view.diagnostics["consistency"] == pytest.approx(total / with_boxes, rel=1e-4)
    assert view.diagnostics["share_without_boxes"] == pytest.approx(1 - with_boxes / 14)
    assert [how for how, _ in task.calls] == [*CHANGES, *CHANGES]
    assert len({seed for _, seed in task.calls}) == 4


def test_cald_on_images_without_boxes() -> None:
    """`score` selects them first, `last` at random behind the others."""
    task = consistent()
    empty = {image for image in range(14) if image not in task.clean.image_P}
    first = cald(task.view("predict", "augmented", "labels"), 14, RNG(0))
    assert set(first[: len(empty)]) == empty
    assert sorted(first) == list(range(14))
    ends = {
        tuple(cald(task.view("predict", "augmented", "labels"), 14, RNG(seed), without_boxes="last")[-len(empty) :])
        for seed in range(12)
    }
    assert {frozenset(end) for end in ends} == {frozenset(empty)}
    assert len(ends) > 1
    few = cald(task.view("predict", "augmented", "labels"), 14 - len(empty), RNG(0), without_boxes="last")
    assert not empty & set(few.tolist())


def test_cald_refuses_fewer_candidates_than_it_buys() -> None:
    with pytest.raises(ValueError, match=r"^cald\[candidates=0.9\]: must be at least 1, as a multiple of the budget$"):
        cald(consistent().view("predict", "augmented", "labels"), 2, RNG(0), candidates=0.9)


# --- ppal: difficulty and uncertainty ------------------------------------------------------------------
def test_difficulty_by_hand() -> None:
    """Class 0 has a box that is predicted with 0.5 at IoU 1 and with 0.9 at IoU 0.5, and one that is not predicted.
    Class 1 has a box that is predicted as class 0, with 0.2 for class 1 at IoU 1. Class 2 has no labels."""
    half = (0.0, 0.0, 5.0, 10.0)
    on_labelled = make_predictions([(0, (0.5, 0.2, 0), BOX), (0, (0.9, 0.0, 0), half), (2, (0.9, 0, 0), BOX)], 3)
    truth = [boxes(0, 1), boxes(0), boxes()]
    task = ScriptedDetector(some(5, 2, 0), truth, on_labelled=on_labelled)
    best = max(0.5**0.6, 0.9**0.6 * 0.5**0.4)
    expected = [1 - best / 2, 1 - 0.2**0.6, 1.0]
    assert class_difficulty(task.view("predict", "labels"), 0.6).tolist() == pytest.approx(expected)
    by_place = class_difficulty(task.view("predict", "labels"), 0.0).tolist()
    assert by_place == pytest.approx([0.5, 0.0, 1.0])


def test_binary_entropy_of_a_coin() -> None:
    assert binary_entropy(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0, math.log(2), 0])


def uncertain(**outputs: Any) -> ScriptedDetector:
    """Three classes: 0 is easy (predicted exactly and with certainty), 1 is hard, 2 is not labelled."""
    on_labelled = make_predictions([(0, (1.0, 0.0, 0), BOX)], 2)
    return ScriptedDetector(some(80, 16, 5), [boxes(0), boxes(1)], on_labelled=on_labelled, **outputs)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.2), (0.5, 8.0), (0.01, 1.0)])
def test_ppal_takes_uncertain_images_of_difficult_classes(alpha: float, beta: float) -> None:
    """With delta = 1 the first step alone decides."""
    task = uncertain(features=torch.randn(80, 4, generator=torch.Generator().manual_seed(0)))
    hard = 1 + alpha * beta * math.log(1 + math.expm1(1 / alpha))
    assert hard == pytest.approx(1 + beta)
    value, weight = [0.0] * 16, [1.0, hard, hard]
    for image, scores in zip(task.clean.image_P.tolist(), task.clean.scores_PC.tolist(), strict=True):
        sure = max(scores[:3])
        if sure > 0.4:
            value[image] -= weight[scores.index(sure)] * (sure * math.log(sure) + (1 - sure) * math.log(1 - sure))
    expected = sorted(range(16), key=lambda image: -value[image])[:6]
    view = task.view("predict", "box_features", "labels")
    picks = ppal(view, 6, RNG(0), delta=1.0, alpha=alpha, beta=beta, min_score=0.4)
    assert set(picks.tolist()) == set(expected)
    assert view.diagnostics["difficulty"] == pytest.approx(2 / 3)


def test_weights_of_classes_matter() -> None:
    task = uncertain(features=torch.ones(80, 4))
    needs = ("predict", "box_features", "labels")
    choices = {tuple(sorted(ppal(task.view(*needs), 6, RNG(0), delta=1.0, beta=beta))) for beta in (0.0, 50.0)}
    assert len(choices) == 2


# --- ppal: diversity -----------------------------------------------------------------------------------
def slow_distance(predictions: Predictions, features: Tensor, min_score: float, first: int, second: int) -> float:
    """Computes the distance from the first image to the second, box by box."""
    sure, labels = predictions.confidence_P > min_score, box_classes(predictions)
    mine, theirs = (((predictions.image_P == image) & sure).nonzero()[:, 0].tolist() for image in (first, second))
    if not mine:
        return 2.0 if theirs else 0.0
    total = 0.0
    for row in mine:
        apart = [2.0]
        for match in theirs:
            if labels[row] == labels[match]:
                apart.append(1 - torch.cosine_similarity(features[row], features[match], dim=0).item())
        total += predictions.confidence_P[row].item() * min(apart)
    return total / predictions.confidence_P[mine].sum().item()


@pytest.mark.parametrize("pairs", [2**24, 7, 40])
def test_distances_are_their_slow_twin(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some images have no boxes, and some boxes play no part."""
    monkeypatch.setattr(ppal_module, "CHUNK", pairs)
    predictions = some(40, 14, 7)
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    assert 0 < (predictions.confidence_P <= 0.5).sum() < 30
    expected = torch.zeros(14, 14)
    for first in range(14):
        for second in range(14):
            both = [slow_distance(predictions, features, 0.5, *pair) for pair in ((first, second), (second, first))]
            expected[first, second] = 0 if first == second else sum(both) / 2
    assert (expected == 2).any()
    assert (expected.sum(1) > 0).all()
    distance_NN = image_distances(predictions, features, 0.5)
    torch.testing.assert_close(distance_NN, expected, rtol=1e-4, atol=1e-5)
    assert distance_NN.diagonal().tolist() == [0.0] * 14  # to the bit


def test_distances_by_hand() -> None:
    """Image 0 has a box of class 0 (0.8, pointing east) and one of class 1 (0.4, north). Image 1 has one of class 0
    (0.6, north). Images 2 and 3 have none."""
    predictions = make_predictions([(0, (0.8, 0.1), BOX), (0, (0.1, 0.4), BOX), (1, (0.6, 0.1), BOX)], 4)
    features = torch.tensor([[0.0, 3.0], [0.0, 2.0], [5.0, 0.0]])  # the last row first
    there, back = (0.8 * 1 + 0.4 * 2) / 1.2, 1.0
    both = (there + back) / 2
    expected = [[0, both, 2, 2], [both, 0, 2, 2], [2, 2, 0, 0], [2, 2, 0, 0]]
    torch.testing.assert_close(
        image_distances(predictions, features, 0.05), torch.tensor(expected, dtype=torch.float32)
    )
    with pytest.raises(ValueError, match="NaN or infinity"):
        image_distances(predictions, features * torch.nan, 0.05)


def test_initial_medoids_are_far_apart() -> None:
    line = torch.tensor([0.0, 1.0, 2.0, 9.0, 10.0, 5.0])
    distance = (line[:, None] - line).abs()
    assert initial_medoids(distance, 4, 1, torch.arange(6)).tolist() == [1, 4, 5, 0]
    assert initial_medoids(torch.zeros(5, 5), 5, 3, torch.tensor([4, 0, 3, 1, 2])).tolist() == [3, 1, 4, 2, 0]


def slow_medoids(distance: Tensor, num: int, first: int, rank: list[int]) -> list[int]:
    """Computes each cluster by itself."""
    medoids = [first]
    while len(medoids) < num:
        rest = [point for point in range(len(distance)) if point not in medoids]
        medoids.append(max(rest, key=lambda p: (min(distance[p, m].item() for m in medoids), -rank[p])))
    for _ in range(100):
        clusters: list[list[int]] = [[] for _ in medoids]
        for point in range(len(distance)):
            to = [distance[point, m].item() for m in medoids]
            clusters[medoids.index(point) if point in medoids else to.index(min(to))].append(point)
        moved = [min(c, key=lambda p: (sum(distance[p, q].item() for q in c), rank[p])) for c in clusters]
        if moved == medoids:
            break
        medoids = moved
    return medoids


@pytest.mark.parametrize("num", [1, 4, 11, 30])
@pytest.mark.parametrize("seed", range(4))
def test_k_medoids_are_their_slow_twin(num: int, seed: int) -> None:
    points, rank = torch.randn(30, 2, generator=torch.Generator().manual_seed(seed)).double(), RNG(9).permutation(30)
    points[::2] = points[::2].round()  # some on a grid, whose distances tie
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    medoids = k_medoids(distance, num, RNG(seed), rank)
    assert medoids.tolist() == slow_medoids(distance, num, int(RNG(seed).integers(30)), rank.tolist())
    assert len(set(medoids.tolist())) == num


def test_k_medoids_move_off_their_centres_and_stay_apart_on_equal_points() -> None:
    line = torch.tensor([0.0, 1.0, 2.0, 100.0, 101.0, 102.0])
    distance = (line[:, None] - line).abs()
    assert {tuple(sorted(k_medoids(distance, 2, RNG(seed), np.arange(6)))) for seed in range(6)} == {(1, 4)}
    assert sorted(k_medoids(torch.zeros(7, 7), 7, RNG(0), np.arange(7))) == list(range(7))


def test_ppal_spreads_over_kinds_of_images() -> None:
    """Twelve equally uncertain images with one box each; features point in three directions, and one image of each is
    selected."""
    predictions = make_predictions([(image, (0.5, 0.2, 0.1), BOX) for image in range(12)], 12)
    ways = torch.eye(3).repeat_interleave(4, 0)[torch.arange(12).flip(0)]  # the last row first
    task = ScriptedDetector(
        predictions, [boxes(0)], on_labelled=make_predictions([(0, (0.9, 0.0, 0.0), BOX)], 1), features=ways
    )
    for seed in range(5):
        picks = ppal(task.view("predict", "box_features", "labels"), 3, RNG(seed))
        assert sorted(picks // 4) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"delta": 0.5}, "ppal[delta=0.5]: must be at least 1"),
        ({"alpha": 0.0}, "ppal[alpha=0]: must be above 0"),
        ({"xi": 1.5}, "ppal[xi=1.5]: must be in [0, 1)"),
    ],
)
def test_ppal_refuses(options: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        ppal(uncertain().view("predict", "box_features", "labels"), 2, RNG(0), **options)  # type: ignore[arg-type]
    assert str(error.value) == says
