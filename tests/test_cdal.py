"""Contextual diversity agrees with a twin that loops over pairs of images and their classes, and with hand
calculations."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from torch import Tensor

from benchmark.api import Indices, Predictions, View
from benchmark.strategies import cdal as module
from benchmark.strategies.cdal import build_mixtures, cdal, pick_farthest

RNG = np.random.default_rng
Kind = Literal["classifier", "detector", "segmenter"]
TINY = np.finfo(np.float64).tiny


class FixedPredictions:
    """A task with fixed predictions, in the order of the predictions and not of the indices."""

    def __init__(self, whole: Predictions) -> None:
        self.whole = whole

    def predict(self, model: object, indices: Indices) -> Predictions:
        """Returns the predictions of these images in their stored order, not in the order of the indices."""
        place_N = torch.full((self.whole.num_images,), -1)
        place_N[torch.from_numpy(indices)] = torch.arange(len(indices))
        image_P = place_N[self.whole.image_P]
        is_of_images_P = image_P >= 0
        scores_PC, image_P = self.whole.scores_PC[is_of_images_P], image_P[is_of_images_P]
        if self.whole.one_each:
            order = image_P.argsort()
            scores_PC, image_P = scores_PC[order], image_P[order]
        boxes = None if self.whole.boxes_P4 is None else self.whole.boxes_P4[is_of_images_P]
        return Predictions(scores_PC, image_P, len(indices), boxes)

    def view(self, labelled: list[int]) -> View:
        unlabelled, none = np.setdiff1d(np.arange(self.whole.num_images), labelled), np.empty(0, np.int64)
        bought = np.array(labelled, np.int64)
        return View(self, None, bought, unlabelled, num_initial=0, held_out=none, needs={"predict"})  # type: ignore[arg-type]


def predictions(kind: Kind, num_images: int = 40, classes: int = 6) -> Predictions:
    """Predictions in float64: one per image, 0 to 3 boxes per image in mixed order, or 12 places each; image 4 has no
    boxes."""
    generator = torch.Generator().manual_seed(7)
    counts = {"classifier": 1, "segmenter": 12}.get(kind)
    counts_N = torch.arange(num_images) % 4 if counts is None else torch.full((num_images,), counts)
    image_P = torch.arange(num_images).repeat_interleave(counts_N)
    if kind == "detector":
        image_P = image_P[torch.randperm(len(image_P), generator=generator)]
    sharpness = 4 * torch.rand(len(image_P), 1, generator=generator).double()
    p_PC = (sharpness * torch.randn(len(image_P), classes + (kind == "detector"), generator=generator)).softmax(1)
    return Predictions(p_PC, image_P, num_images, torch.zeros(len(image_P), 4) if kind == "detector" else None)


def twin_mixtures(predictions: Predictions, by_class: bool) -> list[dict[int, Any]]:
    """Returns the mixture of each class of each image."""
    mixtures: list[dict[int, Any]] = []
    for image in range(predictions.num_images):
        groups: dict[int, list[Any]] = {}
        for p in predictions.scores_PC[predictions.image_P == image].numpy():
            label = (
                int((p if predictions.boxes_P4 is None else p[:-1]).argmax())
                if by_class and not predictions.one_each
                else 0
            )
            groups.setdefault(label, []).append(p)
        weights = {label: [-(p * np.log(p)).sum() for p in rows] for label, rows in groups.items()}
        mixtures.append({label: np.average(rows, 0, weights[label]) for label, rows in groups.items()})
    return mixtures


def twin_distance(first: dict[int, Any], second: dict[int, Any], how: str) -> float:
    """Returns the distance over the classes of both images; infinite if they share none."""
    both = [
        (rel_entr(first[c], second[c]).sum() + rel_entr(second[c], first[c]).sum()) / 2 for c in first if c in second
    ]
    return math.inf if not both else float(np.mean(both) if how == "mean" else np.sum(both))


def twin_picks(mixtures: list[dict[int, Any]], num_labelled: int, budget: int, how: str, rank: Indices) -> list[int]:
    centres, picks = [mixtures[i] for i in range(num_labelled) if mixtures[i]], []
    free = [i for i in range(num_labelled, len(mixtures)) if mixtures[i]]
    while free and len(picks) < budget:
        values = [min(twin_distance(mixtures[i], centre, how) for centre in centres) for i in free]
        best = max(range(len(free)), key=lambda i: (values[i], -rank[free[i]]))
        picks.append(free.pop(best))
        centres.append(mixtures[picks[-1]])
    return picks


@pytest.mark.parametrize("kind", ["classifier", "detector", "segmenter"])
@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("how", ["mean", "sum"])
def test_cdal_is_its_brute_force_twin(kind: Kind, by_class: bool, how: Literal["mean", "sum"]) -> None:
    """All unlabelled images are selected; images without predictions come last."""
    task, labelled = FixedPredictions(predictions(kind)), [17, 3, 30, 8, 9]
    view = task.view(labelled)
    all_predictions = task.predict(None, np.concatenate([labelled, view.unlabelled]))
    rank = view.tie_ranks(np.concatenate([labelled, view.unlabelled]))
    twin = twin_picks(twin_mixtures(all_predictions, by_class), 5, 35, how, rank)
    chosen = cdal(view, 35, RNG(0), by_class=by_class, how=how)
    assert len(twin) == {"detector": 26}.get(kind, 35)
    assert chosen[: len(twin)].tolist() == view.unlabelled[np.array(twin) - 5].tolist()
    assert sorted(chosen.tolist()) == view.unlabelled.tolist()


@pytest.mark.parametrize(("kind", "given"), [("detector", {"by_class": False}), ("segmenter", {"how": "sum"})])
def test_parameters_matter(kind: Kind, given: dict[str, Any]) -> None:
    view = FixedPredictions(predictions(kind)).view([17, 3])
    assert cdal(view, 20, RNG(0)).tolist() != cdal(view, 20, RNG(0), **given).tolist()


def test_a_classifiers_classes_do_not_part_its_images() -> None:
    view = FixedPredictions(predictions("classifier")).view([17, 3])
    assert cdal(view, 20, RNG(0)).tolist() == cdal(view, 20, RNG(0), by_class=False).tolist()


def rows(*rows_PC: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows_PC, dtype=torch.float64)


def test_distances_by_hand() -> None:
    """(1/2, 1/2) and (1/4, 3/4): (1/4 log 2 - 1/4 log(2/3)) / 2 = log(3) / 8; each image has one mixture."""
    mixed = build_mixtures(Predictions(rows((0.5, 0.5), (0.25, 0.75)), torch.arange(2), 2), by_class=True)
    distance_2 = mixed.distance_to_nearest(torch.tensor([0]), "mean")
    torch.testing.assert_close(distance_2, torch.tensor([0, math.log(3) / 8]).double())


def test_mixtures_by_hand() -> None:
    """Two boxes of class 0 have the entropies log 2 and 1.5 log 2, so the weights 2/5 and 3/5. A third box is of class
    1, although background is more likely, and is a mixture of its own."""
    class_predictions = Predictions(
        rows((0.5, 0.5, 0.0), (0.1, 0.2, 0.7), (0.5, 0.25, 0.25)), torch.tensor([1, 1, 1]), 3, torch.zeros(3, 4)
    )
    mixed = build_mixtures(class_predictions, by_class=True)
    assert (mixed.class_R.tolist(), mixed.image_R.tolist()) == ([0, 1], [1, 1])
    torch.testing.assert_close(mixed.p_RC, rows((0.5, 0.35, 0.15), (0.1, 0.2, 0.7)))
    assert build_mixtures(class_predictions, by_class=False).class_R.tolist() == [0]


def test_certain_predictions_count_alike_where_there_are_no_others() -> None:
    image_P, boxes_P4 = torch.tensor([0, 0, 1, 1]), torch.zeros(4, 4)
    certain_predictions = Predictions(rows((1, 0, 0), (0, 0, 1), (1, 0, 0), (0.4, 0.3, 0.3)), image_P, 2, boxes_P4)
    mixed = build_mixtures(certain_predictions, by_class=False)
    torch.testing.assert_close(mixed.p_RC, rows((0.5, 0, 0.5), (0.4, 0.3, 0.3)))


def test_zeros_are_the_least_above() -> None:
    """(1, 0) and (0, 1) have the distance -log(tiny) and not NaN, which is larger than that of any other pair."""
    mixed = build_mixtures(Predictions(rows((1, 0), (0, 1), (1 - 1e-12, 1e-12)), torch.arange(3), 3), by_class=True)
    distance_3 = mixed.distance_to_nearest(torch.tensor([0]), "mean")
    assert distance_3.tolist()[:2] == [0, pytest.approx(-math.log(TINY))]
    assert 0 < distance_3[2] < 1


def test_images_that_share_no_class_with_any_centre_come_first_and_those_without_boxes_last() -> None:
    """Image 0 is labelled and has class 0, like image 1, which is far from it. Images 2 and 3 have class 1; images 4, 5
    and 6 have no boxes. Once image 2 is selected, image 3 is nearer to a centre than image 1."""
    scores_PC = rows((0.8, 0.1, 0.1), (0.4, 0.3, 0.3), (0.1, 0.8, 0.1), (0.1, 0.79, 0.11))
    view = FixedPredictions(Predictions(scores_PC, torch.arange(4), 7, torch.zeros(4, 4))).view([0])
    selections = [cdal(view, 6, RNG(seed)).tolist() for seed in range(6)]
    assert all(selection[:3] == [2, 1, 3] and sorted(selection[3:]) == [4, 5, 6] for selection in selections)
    assert len({tuple(selection) for selection in selections}) > 1
    assert cdal(view, 2, RNG(0)).tolist() == [2, 1]


def test_without_any_prediction_all_is_random() -> None:
    view = FixedPredictions(
        Predictions(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 9, torch.zeros(0, 4))
    ).view([0])
    drawn = [cdal(view, 8, RNG(seed)).tolist() for seed in range(2)]
    assert drawn[0] != drawn[1]
    assert sorted(drawn[0]) == sorted(drawn[1]) == list(range(1, 9))


@pytest.mark.parametrize("kind", ["classifier", "detector", "segmenter"])
def test_labelled_images_in_chunks_are_those_at_once(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = build_mixtures(predictions(kind), by_class=True)
    whole = pick_farthest(mixed, 12, 20, "mean", torch.arange(40))
    sizes, nearest = [], module.Mixtures.distance_to_nearest
    monkeypatch.setattr(
        module.Mixtures, "distance_to_nearest", lambda *given: sizes.append(len(given[1])) or nearest(*given)
    )
    monkeypatch.setattr(module, "CHUNK", 200)
    assert pick_farthest(mixed, 12, 20, "mean", torch.arange(40)) == whole
    assert sizes == [5, 5, 2] + [1] * len(whole)


def test_single_precision_is_close() -> None:
    double = predictions("detector")
    single = Predictions(double.scores_PC.float(), double.image_P, double.num_images, double.boxes_P4)
    centres = torch.arange(10)
    exact, close = (
        build_mixtures(values, by_class=True).distance_to_nearest(centres, "sum") for values in (double, single)
    )
    torch.testing.assert_close(close.double(), exact, atol=1e-5, rtol=1e-5)
    own_N = build_mixtures(single, by_class=True).distance_to_nearest(torch.arange(40), "sum")
    own_N = own_N[own_N.isfinite()]
    assert (own_N >= 0).all()
    assert (own_N < 1e-5).all()


def test_nan_is_refused() -> None:
    broken = predictions("classifier")
    broken.scores_PC[9, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        cdal(FixedPredictions(broken).view([0]), 3, RNG(0))
