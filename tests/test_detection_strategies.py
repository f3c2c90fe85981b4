"""Strategies on boxes, by hand and against slow twins."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

import benchmark.strategies.entropy
import benchmark.strategies.learning_loss
import benchmark.strategies.random  # noqa: F401 - matched_random asks for these by name
from benchmark.api import Indices, Predictions, View
from benchmark.plugins.registry import get
from benchmark.strategies.box_count import box_count
from benchmark.strategies.gradient_similarity import gradient_similarity
from benchmark.strategies.isal import isal
from benchmark.strategies.localization_stability import NOISE_SIGMAS, localization_stability
from benchmark.strategies.localization_tightness import localization_tightness
from benchmark.strategies.matched_random import matched_random
from benchmark.strategies.shared import boxes as shared_boxes
from benchmark.strategies.shared.boxes import best_iou, count_boxes, iou, lowest_then_random, pad_by_image
from benchmark.strategies.shared.influence import expected_targets, reference_gradient
from tests._toy import Toy, look
from tests._toy_detector import ToyDetector

RNG = np.random.default_rng
ALL = {"predict", "perturbed", "proposals", "weights", "pseudo_labels", "losses", "directional", "held_out"}
NONE = np.empty(0, np.int64)


def toy_view(needs: Collection[str] = ALL) -> View:
    return look(ToyDetector(), needs)


def make_predictions(boxes: dict[int, list[tuple[float, ...]]], num_images: int) -> Predictions:
    """Builds predictions from image -> (confidence, x1, y1, x2, y2), with one class; the last image's boxes come
    first."""
    rows = torch.tensor([(image, *box) for image in sorted(boxes)[::-1] for box in boxes[image]]).reshape(-1, 6)
    scores_PC = torch.stack([rows[:, 1], 1 - rows[:, 1]], 1)
    return Predictions(scores_PC, rows[:, 0].long(), num_images, rows[:, 2:])


class Staged:
    """A task with fixed predictions, clean ones and one for each level of noise (or the nearest lower level)."""

    def __init__(self, clean: Predictions, noisy: dict[float, Predictions] | None = None) -> None:
        self.clean, self.noisy, self.calls = clean, noisy or {}, []  # type: ignore[var-annotated]

    def predict(self, model: object, indices: Indices) -> Predictions:
        return self.clean

    def perturbed(
        self, model: object, indices: Indices, sigmas: Sequence[float], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        self.calls.extend(zip(sigmas, seeds, strict=True))
        yield [self.clean, *(self.noisy[max(level for level in self.noisy if level <= sigma)] for sigma in sigmas)]

    proposals = predict

    def view(self, tie_seed: int = 0) -> View:
        """Returns a view in which image n is at position 10 (n + 1)."""
        unlabelled = 10 * np.arange(1, self.clean.num_images + 1)
        needs = {"predict", "perturbed", "proposals"}
        return View(self, None, NONE, unlabelled, num_initial=0, held_out=NONE, needs=needs, tie_seed=tie_seed)  # type: ignore[arg-type]


# --- boxes ----------------------------------------------------------------------------------
def random_boxes(number: int, num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Boxes and their images, unsorted; some images have none."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator) * 50
    image_P = torch.randint(num_images, (number,), generator=generator)
    return torch.cat([corner, corner + torch.rand(number, 2, generator=generator) * 50], 1), image_P


def test_iou_is_torchvisions_and_zero_without_area() -> None:
    a, b = random_boxes(40, 1, 0)[0], random_boxes(30, 1, 1)[0]
    torch.testing.assert_close(iou(a[:, None], b), box_iou(a, b))
    point = torch.tensor([3.0, 3.0, 3.0, 3.0])
    assert iou(point, point) == 0
    assert iou(torch.full((4,), torch.nan), a[0]).isnan()


def test_padding_keeps_the_order_within_an_image() -> None:
    values, image = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([2, 0, 2, 0, 2])
    assert pad_by_image(values, image, 4).tolist() == [[2, 4, 0], [0, 0, 0], [1, 3, 5], [0, 0, 0]]
    assert pad_by_image(values[:0], image[:0], 2).tolist() == [[0], [0]]
    assert pad_by_image(torch.zeros(0, 4), image[:0], 2).shape == (2, 1, 4)


@pytest.mark.parametrize("chunk", [1, 500, 2**20])
def test_best_iou_is_the_largest_in_the_same_image(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every pair of boxes of 12 images, some without boxes, in blocks of one, some and all."""
    monkeypatch.setattr(shared_boxes, "CHUNK", chunk)
    (boxes, image_P), (others, image_Q) = random_boxes(60, 12, 0), random_boxes(25, 12, 1)
    assert len(image_Q.unique()) < 12
    pairs = box_iou(boxes, others).masked_fill(image_P[:, None] != image_Q, 0)
    best_NA = best_iou(pad_by_image(boxes, image_P, 12), pad_by_image(others, image_Q, 12))
    torch.testing.assert_close(best_NA, pad_by_image(pairs.amax(1), image_P, 12))


def test_boxes_are_counted_from_the_least_confidence() -> None:
    sees = make_predictions({0: [(0.3, 0, 0, 1, 1), (0.29, 0, 0, 1, 1)], 2: [(0.9, 0, 0, 1, 1), (0.31, 0, 0, 1, 1)]}, 4)
    assert count_boxes(sees, 0.3).tolist() == [1, 0, 2, 0]
    assert count_boxes(sees, 0.0).tolist() == [2, 0, 2, 0]
    assert count_boxes(Predictions(sees.scores_PC, torch.arange(4), 4), 0.99).tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="1 of 4 confidences are NaN"):
        count_boxes(make_predictions({0: [(torch.nan, 0, 0, 1, 1), (0.5,) * 5], 1: [(0.5,) * 5] * 2}, 2), 0.3)


def test_images_without_a_value_come_last_and_at_random() -> None:
    view = Staged(make_predictions({}, 6)).view()
    known = np.array([True, False, False, True, False, False])
    values = torch.tensor([2.0, -5.0, torch.nan, 1.0, 0.0, -torch.inf])
    assert lowest_then_random(view, values, known, 2, RNG(0)).tolist() == [40, 10]
    drawn = [lowest_then_random(view, values, known, 4, RNG(seed)) for seed in range(200)]
    assert all(chosen[:2].tolist() == [40, 10] and len(set(chosen.tolist())) == 4 for chosen in drawn)
    counts = Counter(index for chosen in drawn for index in chosen[2:].tolist())
    assert counts.keys() == {20, 30, 50, 60}
    assert all(80 < number < 120 for number in counts.values())


# --- localization ---------------------------------------------------------------------------
BOX = (0.0, 0.0, 10.0, 10.0)


def test_stability_of_boxes_that_stay_is_one() -> None:
    clean = make_predictions({0: [(0.9, *BOX), (0.4, 5, 5, 9, 9)], 1: [(0.2, *BOX)]}, 2)
    task = Staged(clean, {0: clean})
    view = task.view()
    assert localization_stability(view, 2, RNG(0)).tolist() == [10, 20]
    assert view.diagnostics == {"stability": pytest.approx(1), "share_without_boxes": 0}
    assert [sigma for sigma, _ in task.calls] == [8, 16, 24, 32, 40, 48]
    assert len({seed for _, seed in task.calls}) == 6
    again = Staged(clean, {0: clean})
    localization_stability(again.view(), 2, RNG(0))
    assert again.calls == task.calls


def test_stability_by_hand() -> None:
    """Image 0 has boxes of confidence 0.75 and 0.25. Below level 32 the first overlaps 50 of 150 with one box (1/3) and
    25 of 175 with another; the second has its own (1). From level 32 on both are lost, because only image 1 has a box:
    (0.75 / 3 + 0.25) / 2 = 0.25. Image 1 has 1/4 of its box below level 32 and all of it above: 0.625."""
    clean = make_predictions({0: [(0.75, *BOX), (0.25, 50, 50, 60, 60)], 1: [(0.5, 0, 0, 4, 4)]}, 2)
    low = make_predictions(
        {0: [(0.9, 5, 5, 15, 15), (0.1, 5, 0, 15, 10), (0.2, 50, 50, 60, 60)], 1: [(0.5, 0, 0, 2, 2)]}, 2
    )
    task = Staged(clean, {0: low, 32: make_predictions({1: [(0.5, 0, 0, 4, 4)]}, 2)})
    view = task.view()
    assert localization_stability(view, 2, RNG(0)).tolist() == [10, 20]
    assert view.diagnostics["stability"] == pytest.approx((0.25 + 0.625) / 2)
    view = task.view()
    localization_stability(view, 2, RNG(0), max_boxes=1)
    assert view.diagnostics["stability"] == pytest.approx((1 / 6 + 0.625) / 2)


def test_boxes_weigh_by_the_score_of_the_detectors_paper() -> None:
    """A stable box has confidence 0.8 and a lost one 0.4; the paper's scores are their squares. 0.64 / 0.8 and not 2 /
    3, which is less stable than an image at 0.75, and with LS+C by 1 - 0.16."""
    clean = make_predictions({0: [(0.8, *BOX), (0.4, 50, 50, 60, 60)], 1: [(0.8, *BOX)]}, 2)
    noisy = make_predictions({0: [(0.8, *BOX)], 1: [(0.8, 0, 0, 10, 7.5)]}, 2)
    papers = dataclasses.replace(clean, paper_score_P=clean.confidence_P.square())
    torch.testing.assert_close(papers.score_P, torch.tensor([0.64, 0.64, 0.16]))
    torch.testing.assert_close(clean.score_P, clean.confidence_P)
    for sees, stability, order in ((clean, 2 / 3, [10, 20]), (papers, 0.8, [20, 10])):
        view = Staged(sees, {0: noisy}).view()
        assert localization_stability(view, 2, RNG(0)).tolist() == order
        assert view.diagnostics["stability"] == pytest.approx((stability + 0.75) / 2)
    view = Staged(papers, {0: noisy}).view()
    assert localization_stability(view, 2, RNG(0), certainty=True).tolist() == [10, 20]  # 0.8 - 0.84 and 0.75 - 0.36


def test_stability_without_any_boxes_under_noise_is_zero() -> None:
    view = Staged(make_predictions({0: [(0.9, *BOX)]}, 1), {0: make_predictions({}, 1)}).view()
    localization_stability(view, 1, RNG(0))
    assert view.diagnostics["stability"] == 0


def test_certainty_is_taken_off_by_the_least_sure_box() -> None:
    """All are equally stable; 1 - P is largest in image 1, whose uncertain box `max_boxes=1` leaves out."""
    clean = make_predictions({0: [(0.6, *BOX)], 1: [(0.9, *BOX), (0.3, 20, 20, 30, 30)], 2: [(0.8, *BOX)]}, 3)
    view = Staged(clean, {0: clean}).view()
    assert localization_stability(view, 3, RNG(0), certainty=True).tolist() == [20, 10, 30]
    assert localization_stability(view, 3, RNG(0), certainty=True, max_boxes=1).tolist() == [10, 30, 20]


def test_stability_of_images_without_boxes() -> None:
    """LS+C: image 0 has 1 - 0.1, image 2 has 0 - 0.6, and images without boxes have 0, in between."""
    clean = make_predictions({0: [(0.9, *BOX)], 2: [(0.4, *BOX)]}, 4)
    view = Staged(clean, {0: make_predictions({0: [(0.9, *BOX)]}, 4)}).view()
    options: dict[str, Any] = {"certainty": True, "without_boxes": "score"}
    assert localization_stability(view, 4, RNG(0), **options).tolist() == [30, 20, 40, 10]
    assert localization_stability(view, 2, RNG(0), without_boxes="last").tolist() == [30, 10]
    assert view.diagnostics["share_without_boxes"] == 0.5
    assert {localization_stability(view, 3, RNG(seed))[2] for seed in range(20)} == {20, 40}
    assert localization_stability(view, 2, RNG(0), without_boxes="score").tolist() == [20, 30]


def test_stability_against_a_loop_over_boxes() -> None:
    view = toy_view()
    rng = RNG(5)
    seeds = [int(rng.integers(2**63)) for _ in NOISE_SIGMAS]
    parts, scores, start = list(view.perturbed(view.unlabelled, NOISE_SIGMAS, seeds)), {}, 0
    assert len(parts) > 3
    for clean, *noisy in parts:
        for number in clean.image_P.unique().tolist():
            at = clean.image_P == number
            best = [box_iou(clean.boxes_P4[at], n.boxes_P4[n.image_P == number]).amax(1) for n in noisy]  # type: ignore[index]
            value = np.average(torch.stack(best).mean(0), weights=clean.confidence_P[at])
            scores[view.unlabelled[start + number]] = value
        start += clean.num_images
    expected = sorted(scores, key=lambda index: scores[index])
    assert localization_stability(view, 15, RNG(5)).tolist() == expected[:15]
    assert view.diagnostics["stability"] == pytest.approx(np.mean(list(scores.values())))
    assert view.diagnostics["share_without_boxes"] == pytest.approx(1 - len(scores) / len(view.unlabelled))


def test_stability_refuses_what_it_cannot_do() -> None:
    clean = make_predictions({0: [(0.9, *BOX)]}, 1)
    with pytest.raises(ValueError, match=r"max_boxes=0\]: must be 1 or more"):
        localization_stability(Staged(clean, {0: clean}).view(), 1, RNG(0), max_boxes=0)
    without_boxes = Predictions(clean.scores_PC, clean.image_P, 1)
    with pytest.raises(ValueError, match="needs a detector"):
        localization_stability(Staged(without_boxes, {0: without_boxes}).view(), 1, RNG(0))
    broken = make_predictions({0: [(0.9, torch.nan, 0, 1, 1)]}, 1)
    with pytest.raises(ValueError, match="NaN"):
        localization_stability(Staged(clean, {0: broken}).view(), 1, RNG(0))


def test_tightness_by_hand() -> None:
    """T + P - 1: image 0 has 1/3 + 0.9 - 1 = 0.233; image 1 has 1 + 0.2 - 1 = 0.2, and a certain tight box at 1; image
    2 has no box, so 1; image 3 has 0 + 0.05 - 1 = -0.95."""
    clean = make_predictions({0: [(0.9, *BOX)], 1: [(1.0, *BOX), (0.2, *BOX)], 3: [(0.05, *BOX)]}, 4)
    shift = torch.tensor([90.0, 0, 0, 5])[:, None] * torch.tensor([1.0, 0, 1, 0])
    task = Staged(Predictions(clean.scores_PC, clean.image_P, 4, clean.boxes_P4, clean.boxes_P4 + shift))  # type: ignore[operator]
    assert localization_tightness(task.view(), 4, RNG(0)).tolist() == [20, 10, 40, 30]


# --- controls -------------------------------------------------------------------------------
def counted(*counts: int) -> Staged:
    return Staged(make_predictions({n: [(0.5, *BOX)] * c + [(0.1, *BOX)] for n, c in enumerate(counts)}, len(counts)))


def test_box_count_takes_the_fewest_or_the_most_and_breaks_ties_at_random() -> None:
    task = counted(2, 0, 1, 1, 1, 3)
    view = task.view()
    assert box_count(view, 1, RNG(0)).tolist() == [20]
    assert box_count(view, 6, RNG(0), order="most")[[0, 1, 5]].tolist() == [60, 10, 20]
    third = Counter(box_count(task.view(seed), 2, RNG(0))[1] for seed in range(300))
    assert third.keys() == {30, 40, 50}
    assert all(75 < number < 125 for number in third.values())
    assert {box_count(task.view(seed), 3, RNG(0), order="most")[2] for seed in range(20)} == {30, 40, 50}
    assert box_count(view, 2, RNG(0), order="most", min_score=0.6).tolist() != [60, 10]


def test_matched_random_has_the_counts_of_the_choice_and_draws_evenly() -> None:
    """box_count selects the image without boxes, the image with one, and one of the four images with two."""
    view = counted(2, 0, 1, 2, 2, 3, 2).view()
    drawn = [matched_random(view, 3, RNG(seed), like="box_count") for seed in range(400)]
    assert all(len(set(chosen.tolist())) == 3 for chosen in drawn)
    assert all({20, 30} < set(chosen.tolist()) for chosen in drawn)
    third = Counter(index for chosen in drawn for index in chosen.tolist() if index not in (20, 30))
    assert third.keys() == {10, 40, 50, 70}
    assert all(75 < number < 125 for number in third.values())
    assert {chosen[0] for chosen in drawn} == {10, 20, 30, 40, 50, 70}  # in random order
    assert 2 / 3 <= view.diagnostics["overlap"] <= 1


LIKE = "isal[depth=3,repeats=2,damping=0.1,scale=20]"


@pytest.mark.parametrize("like", [LIKE, "gradient_similarity[without_boxes=score]", "entropy[how=sum]", "random"])
@pytest.mark.parametrize("budget", [1, 7, 40])
def test_matched_random_follows_any_strategy(like: str, budget: int) -> None:
    values = {"like": like, "min_score": 0.5}
    view = toy_view(get("strategy", "matched_random").resolve_needs(values))
    counts = dict(zip(view.unlabelled, count_boxes(view.predict(view.unlabelled), 0.5), strict=True))
    choice = view.choice_of(like, budget, RNG(3))
    drawn = matched_random(view, budget, RNG(3), like=like, min_score=0.5)
    assert Counter(counts[index] for index in choice) == Counter(counts[index] for index in drawn)
    assert len(set(drawn.tolist())) == budget
    assert view.diagnostics["overlap"] == pytest.approx(np.isin(drawn, choice).mean())
    if budget == 7:
        assert set(choice.tolist()) != set(drawn.tolist())


def test_matched_random_needs_and_trains_what_the_other_does() -> None:
    plugin = get("strategy", "matched_random")
    needed = {
        like: plugin.resolve_needs(plugin.bind({"like": like})) for like in ("isal[reference=test]", "learning_loss")
    }
    assert needed["isal[reference=test]"] == get("strategy", "isal").resolve_needs({"reference": "test"}) | {"predict"}
    assert needed["learning_loss"] == {"companion", "predict"}
    other = get("strategy", "learning_loss")
    assert plugin.companion is not None
    assert other.companion is not None
    built = plugin.companion(**plugin.bind({"like": "learning_loss[width=7]"}))
    assert built == other.companion(**other.bind({"width": 7}))
    assert plugin.companion(**plugin.bind({})) is None
    assert plugin.resolve_needs(plugin.bind({})) == get("strategy", "isal").resolve_needs({"reference": "held_out"}) | {
        "predict"
    }


@pytest.mark.parametrize(
    ("like", "says"),
    [
        ("matched_random[like=random]", "must name another strategy"),
        ("isla", "did you mean 'isal'"),
        ("isal[kay=2]", "no parameter 'kay'"),
    ],
)
def test_matched_random_refuses_what_it_cannot_follow(like: str, says: str) -> None:
    plugin = get("strategy", "matched_random")
    for ask in (plugin.resolve_needs, lambda values: plugin.companion(**values)):  # type: ignore[misc]
        with pytest.raises(ValueError, match=says):
            ask({"like": like})


def test_matched_random_on_a_classifier_is_random() -> None:
    view = look(Toy(), {"predict"})
    drawn = {tuple(matched_random(view, 5, RNG(seed), like="entropy")) for seed in range(5)}
    assert len(drawn) == 5


# --- influence ------------------------------------------------------------------------------
def similarity(view: View, min_score: float = 0.1) -> tuple[list[bool], Tensor]:
    """Returns whether each candidate has pseudo boxes, and v . G by one backward pass each."""
    targets = expected_targets(view, 1, allow_degenerate=False, min_score=min_score)
    weights = list(view.weights().values())
    v = torch.cat([part.flatten() for part in reference_gradient(view, "held_out").values()])
    losses = view.losses(view.unlabelled, targets)
    rows = [torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True) for loss in losses]
    return [len(boxes) > 0 for boxes in targets], torch.stack(
        [torch.cat([p.flatten() for p in row]) for row in rows]
    ) @ v


@pytest.mark.parametrize("min_score", [0.1, 0.7])
def test_influence_of_images_without_pseudo_boxes(min_score: float) -> None:
    view = toy_view()
    has, similar = similarity(view, min_score)
    ranked = view.unlabelled[np.argsort(-similar.numpy(), kind="stable")].tolist()
    with_boxes = [index for index in ranked if has[np.searchsorted(view.unlabelled, index)]]
    assert 4 < len(with_boxes) < 38
    score = gradient_similarity(view, 40, RNG(0), min_score=min_score, without_boxes="score")
    assert score.tolist() == ranked
    assert view.diagnostics["share_negative"] == pytest.approx((similar > 0).double().mean().item())
    last = gradient_similarity(view, 40, RNG(0), min_score=min_score)
    assert last[: len(with_boxes)].tolist() == with_boxes
    assert sorted(last) == sorted(ranked)
    rest = gradient_similarity(view, 40, RNG(1), min_score=min_score)[len(with_boxes) :]
    assert rest.tolist() != last[len(with_boxes) :].tolist()
    helpful = (similar[torch.tensor(has)] > 0).sum().item() / 40
    assert view.diagnostics["share_negative"] == pytest.approx(helpful)
    assert view.diagnostics["share_without_boxes"] == pytest.approx(1 - len(with_boxes) / 40)


def test_isal_on_a_detector_weighs_its_blocks() -> None:
    """With almost no curvature s is v divided by the damping for any scales; with curvature the scales of the blocks
    matter."""
    view = toy_view()
    options: dict[str, Any] = {"depth": 20, "repeats": 1, "order": "newest"}
    flat = isal(view, 10, RNG(0), block_scales="1e12/1e12", **options)
    np.testing.assert_array_equal(flat, gradient_similarity(view, 10, RNG(0)))
    assert view.diagnostics["gain"] == pytest.approx((1 - 0.99**21) / 0.01)
    curved = isal(view, 10, RNG(0), block_scales="2e3/20", **options)
    assert view.diagnostics["ridge"] == pytest.approx(0.2)
    assert view.diagnostics["cosine"] < 0.999
    assert curved.tolist() != flat.tolist()
    with pytest.raises(ValueError, match=r"block_scales=1/2/3\]: must be 2 numbers .* classes.weight, boxes.weight"):
        isal(view, 10, RNG(0), block_scales="1/2/3", **options)
