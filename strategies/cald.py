"""Consistency-based active learning for object detection (Yu et al., CVPR workshops 2022).

Shapes: N images, P predictions, S of them image by image, A or B boxes of one image, C classes.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.api import Augmentation, Indices, Predictions, View, register

from .shared.boxes import (
    CHUNK,
    WithoutBoxes,
    best_match,
    box_classes,
    boxes_by_image,
    lowest_then_random,
    rank_in_image,
)

BASE_POINT = 1.3  # what IoU and likeness of a useful box add up to; both are 1 where nothing changes, so 2


@register(needs={"predict", "augmented", "labels"}, version=2)
def cald(
    view: View, budget: int, rng: np.random.Generator, *, candidates: float = 1.2, without_boxes: WithoutBoxes = "score"
) -> Indices:
    """The images whose boxes change most when the image does, and of those the ones with the rarest classes.

    A box with its best match by IoU in the changed image has m = |IoU + (1 - JS) (P + P') / 2 - 1.3|: JS is the
    Jensen-Shannon divergence of their class scores (nats, background is one more class), P and P' their confidences. An
    image has the mean over four changes (mirrored, two patches cut out, shrunk, turned) of the least m of its boxes, 0
    for a change that leaves none. Of the images with the lowest, those are bought whose classes diverge most from the
    labelled ones: JS between softmaxes of the labelled boxes an image, by class, and of the largest confidence of a box
    of each class, averaged over image and changes.
    candidates: how many of the lowest are compared by their classes, as a multiple of the budget (1.2: the published
        code's).
    without_boxes: `score` = m is 0 and the classes diverge most (the published code), so such images are bought first;
        `last` = only where too few others are left, then at random (ours).
    Logs `consistency`, the mean of images with boxes, and `share_without_boxes`.
    Deviations from the published code: boxes are compared in pixels of the image as it was, where it moves the clean
    ones (a turned box grows on the way); patches are cut out wherever they fall and have the mean colour, where it
    looks for places that cover a tenth of a box and fills them with black; the shrunk image lies on a canvas of the old
    size, where its detector enlarges it again; all boxes count, where it takes 50 of more than 40; a box's class is its
    likeliest; all of COCO's images are candidates, where it draws 10,000.
    Cost: five predictions an unlabelled image, of which two at a time are held, and the IoU of all its boxes with all
    those of each changed one.
    """
    if candidates < 1:
        raise ValueError(f"cald[candidates={candidates:g}]: as a multiple of the budget, at least 1")
    value_N, classes_NC, has_N = consistency(view, rng)
    num = min(int(candidates * budget), len(value_N))
    known_N = has_N | (without_boxes == "score")
    shortlist = lowest_then_random(view, value_N, known_N, num, rng)
    at = np.searchsorted(view.unlabelled, shortlist)
    rarity = (
        js_divergence(labelled_class_frequency(view, classes_NC).softmax(0), classes_NC[at].softmax(1)).cpu().numpy()
    )
    rarity[~has_N[at]] = np.inf if without_boxes == "score" else -np.inf
    view.log(consistency=value_N.sum().item() / max(1, has_N.sum()), share_without_boxes=(~has_N).mean())
    picks: Indices = shortlist[np.argsort(-rarity, kind="stable")[:budget]]
    return picks


def consistency(view: View, rng: np.random.Generator) -> tuple[Tensor, Tensor, npt.NDArray[np.bool_]]:
    """(N,) least m of each image, averaged over the changes; (N, C) largest confidence of each class, averaged over
    image and changes; (N,) whether it has boxes. One change's predictions at a time."""
    clean, changes = view.predict(view.unlabelled), get_args(Augmentation)
    has_N = clean.image_P.bincount(minlength=clean.num_images).bool()
    total_N, total_NC = torch.zeros_like(has_N, dtype=torch.float32), class_confidence(clean)
    for how in changes:
        other = view.augmented(view.unlabelled, how, int(rng.integers(2**63)))
        total_N = total_N + least_consistency(clean, other)
        total_NC = total_NC + class_confidence(other)
    return total_N / len(changes), total_NC / (1 + len(changes)), has_N.cpu().numpy()


def least_consistency(clean: Predictions, other: Predictions) -> Tensor:
    """(N,): the least m of an image's boxes; 0 without boxes, and where the other has none."""
    iou_NA, match_NA = best_match(boxes_by_image(clean), boxes_by_image(other))
    counts_N = other.image_P.bincount(minlength=other.num_images)
    matched_P = (counts_N > 0)[clean.image_P]
    image_S, column_S = clean.image_P[matched_P], rank_in_image(clean.image_P, clean.num_images)[matched_P]
    first_S = (counts_N.cumsum(0) - counts_N)[image_S]
    row_S = other.image_P.argsort(stable=True)[first_S + match_NA[image_S, column_S]]
    pairs = zip(matched_P.nonzero()[:, 0].split(CHUNK), row_S.split(CHUNK), strict=True)
    likeness_S = torch.cat([score_consistency(clean, mine, other, theirs) for mine, theirs in pairs])
    m_P = torch.zeros_like(clean.confidence_P)
    m_P[matched_P] = (iou_NA[image_S, column_S] + likeness_S - BASE_POINT).abs()
    return -clean.per_image(-m_P, "max")


def score_consistency(one: Predictions, mine_S: Tensor, other: Predictions, theirs_S: Tensor) -> Tensor:
    """(S,): (1 - JS) (P + P') / 2 of pairs of rows."""
    alike_S = 1 - js_divergence(one.scores_PC[mine_S], other.scores_PC[theirs_S])
    return alike_S * (one.confidence_P[mine_S] + other.confidence_P[theirs_S]) / 2


def js_divergence(p_C: Tensor, q_C: Tensor) -> Tensor:
    """Jensen-Shannon divergence of distributions along the last axis, broadcast: 0 for equal ones, at most log 2."""
    mean_C = (p_C + q_C) / 2
    entropy, entropies = torch.special.entr(mean_C).sum(-1), torch.special.entr(p_C).sum(-1)
    divergence: Tensor = entropy - (entropies + torch.special.entr(q_C).sum(-1)) / 2
    return divergence.clamp(min=0)


def class_confidence(predictions: Predictions) -> Tensor:
    """(N, C): the largest confidence of an image's boxes of each class, 0 for none."""
    num_classes = predictions.scores_PC.shape[1] - 1
    cell_P = predictions.image_P * num_classes + box_classes(predictions)
    out = predictions.scores_PC.new_zeros(predictions.num_images * num_classes)
    return out.scatter_reduce(0, cell_P, predictions.confidence_P, "amax").view(-1, num_classes)


def labelled_class_frequency(view: View, like_NC: Tensor) -> Tensor:
    """(C,): labelled boxes of each class an image."""
    truth = view.labels(view.labelled)
    assert isinstance(truth, list), "a detector's labels are boxes"
    label_B = torch.cat([torch.empty(0, dtype=torch.int64), *(one.labels_M.cpu() for one in truth)])
    counts_C = label_B.bincount(minlength=like_NC.shape[1])
    return counts_C.to(like_NC) / max(1, len(truth))
