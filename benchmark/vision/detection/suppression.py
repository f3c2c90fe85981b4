"""From the candidates of a detector to its detections: non-maximum suppression.

On a CPU the images of a batch are treated one after the other. On a GPU they are treated at once, since every size that
depends on the data makes the CPU wait for the GPU: three or four times a batch instead of ten times an image.

Shapes: N images, M boxes of one image, A candidates of one image, R candidates of all images, C classes, K = C + 1
columns with background last, S pairs of a candidate and a class, L pairs on one level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.vision.transfer import move

MIN_BOX_SIDE = 1e-2  # a box with a shorter side, in pixels, is dropped


@dataclass(frozen=True)
class Detections:
    """The detections on one image, sorted by confidence.

    Args:
        corners_M4: x1, y1, x2, y2 in pixels of the batch.
        labels_M: class of each box.
        confidence_M: score of the box as its library computes it; boxes are ranked by it.
        scores_MK: class distribution of each box; rows sum to one.
        proposals_M4: the proposal that each box was refined from.
        candidates_M: index of each box among the image's candidates.
        paper_scores_M: score by which the detector's paper ranks boxes, where its library uses another.
    """

    corners_M4: Tensor
    labels_M: Tensor
    confidence_M: Tensor
    scores_MK: Tensor
    proposals_M4: Tensor | None = None
    candidates_M: Tensor | None = None
    paper_scores_M: Tensor | None = None

    def select(self, mask_M: Tensor) -> Detections:
        """The detections for which the mask is true."""
        [rows_M] = mask_M.nonzero(as_tuple=True)  # once: each use of a mask makes the CPU wait for a GPU
        parts = {name: values[rows_M] for name, values in vars(self).items() if values is not None}
        return replace(self, **parts)


@dataclass(frozen=True)
class Suppression:
    """Settings of the non-maximum suppression that turns candidates into detections.

    Args:
        min_score: candidates with a lower class score are dropped.
        iou_threshold: of two boxes of a class with a larger IoU, the one with the lower score is dropped.
        num_boxes: most detections per image.
        num_candidates: most pairs of a candidate and a class per level that enter suppression.
    """

    min_score: float = 0.05
    iou_threshold: float = 0.5
    num_boxes: int = 100
    num_candidates: int = 1000


def suppress_batch(
    scores: Sequence[Tensor],
    corners: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    suppression: Suppression,
    distributions: Sequence[Tensor],
    *,
    levels: Sequence[int] = (),
    proposals: Sequence[Tensor] = (),
) -> list[Detections]:
    """Turns the candidates of each image of a batch into detections; see `suppress`, which describes the arguments.

    Args:
        scores: of each image.
        corners: of each image.
        sizes: of each image.
        suppression: thresholds and limits.
        distributions: of each image.
        levels: number of candidates on each level, the same for all images; empty: no limit per level.
        proposals: of each image, for two-stage detectors.
    """
    if scores[0].is_cuda:
        return suppress_together(scores, corners, sizes, suppression, distributions, levels=levels, proposals=proposals)
    parts = zip(scores, corners, sizes, distributions, strict=True)
    return [
        suppress(
            scores_AC, corners_ACx4, size, suppression, rows_AK, levels=levels,
            proposals_A4=proposals[number] if proposals else None,
        )
        for number, (scores_AC, corners_ACx4, size, rows_AK) in enumerate(parts)
    ]  # fmt: skip


def suppress(
    scores_AC: Tensor,
    corners_ACx4: Tensor,
    size: tuple[int, int],
    suppression: Suppression,
    distributions_AK: Tensor,
    *,
    levels: Sequence[int] = (),
    proposals_A4: Tensor | None = None,
) -> Detections:
    """Turns the candidates of one image into detections by class-wise non-maximum suppression.

    Boxes are clipped to the image. Boxes with a side below a hundredth of a pixel are dropped.

    Args:
        scores_AC: score of each candidate for each class.
        corners_ACx4: (A, 4) boxes, or (A, C, 4) where each class has its own box.
        size: height and width of the image.
        suppression: thresholds and limits.
        distributions_AK: class distribution of each candidate.
        levels: number of candidates on each level, where each level keeps only its best; empty: no limit per level.
        proposals_A4: proposal of each candidate, for two-stage detectors.
    """
    from torchvision.ops import batched_nms, clip_boxes_to_image  # importing torchvision takes a second

    candidate_S, label_S = (scores_AC > suppression.min_score).nonzero(as_tuple=True)
    if levels:
        best_S = best_per_level(scores_AC[candidate_S, label_S], candidate_S, levels, suppression.num_candidates)
        candidate_S, label_S = candidate_S[best_S], label_S[best_S]
    boxes_S4 = corners_ACx4[candidate_S] if corners_ACx4.ndim == 2 else corners_ACx4[candidate_S, label_S]
    corners_S4 = clip_boxes_to_image(boxes_S4, size)
    large_S = ((corners_S4[:, 2:] - corners_S4[:, :2]) >= MIN_BOX_SIDE).all(1)
    candidate_S, label_S, corners_S4 = candidate_S[large_S], label_S[large_S], corners_S4[large_S]
    score_S = scores_AC[candidate_S, label_S]
    kept_indices = batched_nms(corners_S4, score_S, label_S, suppression.iou_threshold)[: suppression.num_boxes]
    candidates_M = candidate_S[kept_indices]
    proposals_M4 = None if proposals_A4 is None else proposals_A4[candidates_M]
    kept_boxes = (corners_S4[kept_indices], label_S[kept_indices], score_S[kept_indices])
    return Detections(*kept_boxes, distributions_AK[candidates_M], proposals_M4, candidates_M)


def best_per_level(score_S: Tensor, candidate_S: Tensor, levels: Sequence[int], num_candidates: int) -> Tensor:
    """Positions of the best `num_candidates` of each level. `candidate_S` is ascending, and each level is a run of
    candidates."""
    ends = torch.tensor(levels, device=candidate_S.device).cumsum(0)
    counts = torch.searchsorted(candidate_S, ends).diff(prepend=ends.new_zeros(1)).tolist()
    parts, start = [], 0
    for count in counts:
        parts.append(start + score_S[start : start + count].topk(min(num_candidates, count)).indices)
        start += count
    return torch.cat(parts)


# --- all images at once ---------------------------------------------------------------------------
def suppress_together(
    scores: Sequence[Tensor],
    corners: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    suppression: Suppression,
    distributions: Sequence[Tensor],
    *,
    levels: Sequence[int] = (),
    proposals: Sequence[Tensor] = (),
) -> list[Detections]:
    """`suppress_batch` for all images at once. The detections are those of `suppress`, but for rounding."""
    counts = [len(scores_AC) for scores_AC in scores]
    scores_RC, corners_RCx4 = torch.cat(list(scores)), torch.cat(list(corners))
    device = scores_RC.device
    image_R = torch.arange(len(sizes), device=device).repeat_interleave(
        move(torch.tensor(counts), device), output_size=sum(counts)
    )
    row_S, label_S = pairs_above(scores_RC, suppression, levels)
    boxes_S4 = corners_RCx4[row_S] if corners_RCx4.ndim == 2 else corners_RCx4[row_S, label_S]
    limits_N2 = move(torch.tensor(sizes).flip(1).to(boxes_S4.dtype), device)  # width, height
    corners_S4 = boxes_S4.clamp(min=0).minimum(limits_N2[image_R[row_S]].repeat(1, 2))
    [large_S] = ((corners_S4[:, 2:] - corners_S4[:, :2]) >= MIN_BOX_SIDE).all(1).nonzero(as_tuple=True)
    row_S, label_S, corners_S4 = row_S[large_S], label_S[large_S], corners_S4[large_S]
    score_S, image_S = scores_RC[row_S, label_S], image_R[row_S]
    group_S = image_S * scores_RC.shape[1] + label_S
    remaining = suppress_in_groups(corners_S4, score_S, group_S, max(map(max, sizes)), suppression.iou_threshold)
    best = first_of_each(remaining, image_S, len(sizes), suppression.num_boxes)
    remaining, row = torch.cat(best), row_S[torch.cat(best)]
    starts_N = torch.searchsorted(image_R, torch.arange(len(sizes), device=device))
    values = {
        "corners_M4": corners_S4[remaining], "labels_M": label_S[remaining], "confidence_M": score_S[remaining],
        "scores_MK": torch.cat(list(distributions))[row], "candidates_M": row - starts_N[image_S[remaining]],
        **({"proposals_M4": torch.cat(list(proposals))[row]} if proposals else {}),
    }  # fmt: skip
    split = {name: tensor.split([len(part) for part in best]) for name, tensor in values.items()}
    return [Detections(**{name: parts[number] for name, parts in split.items()}) for number in range(len(sizes))]


def pairs_above(scores_RC: Tensor, suppression: Suppression, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The candidate and the class of each pair with a score above the minimum, (S,) each, ascending.

    With `levels`, of each image's pairs on each level the `num_candidates` best.
    """
    if not levels:
        row_S, label_S = (scores_RC > suppression.min_score).nonzero(as_tuple=True)
        return row_S, label_S
    num_classes, num_places = scores_RC.shape[1], sum(levels)
    images_NAC, parts, start = scores_RC.view(-1, num_places, num_classes), list[Tensor](), 0
    first_N1 = torch.arange(len(images_NAC), device=scores_RC.device)[:, None] * num_places * num_classes
    for num in levels:
        best_NL = images_NAC[:, start : start + num].flatten(1).topk(
            min(suppression.num_candidates, num * num_classes)
        )  # fmt: skip
        pair_NL = best_NL.indices + start * num_classes + first_N1
        parts.append(torch.where(best_NL.values > suppression.min_score, pair_NL, -1).flatten())
        start += num
    pairs = torch.cat(parts)
    pair_S = pairs[pairs >= 0].sort().values
    return pair_S // num_classes, pair_S % num_classes


def suppress_in_groups(
    corners_S4: Tensor, score_S: Tensor, group_S: Tensor, longest_side: int, iou_threshold: float
) -> Tensor:
    """The boxes that remain after suppression within each group, by falling score.

    Groups are moved apart, as in torchvision's `batched_nms`. That takes double precision here, because in float32 the
    boxes of the last of 7 x 80 groups would lie on a grid of a sixteenth of a pixel.
    """
    from torchvision.ops import nms  # importing torchvision takes a second

    apart_S4 = corners_S4.double() + (group_S * (longest_side + 1))[:, None]
    remaining: Tensor = nms(apart_S4, score_S.double(), iou_threshold)
    return remaining


def first_of_each(positions: Tensor, image_S: Tensor, num_images: int, limit: int) -> list[Tensor]:
    """Splits positions by the image that `image_S` gives for each, and keeps the first `limit` of each image."""
    image = image_S[positions]
    counts_N = (image == torch.arange(num_images, device=image.device)[:, None]).sum(1)
    by_image = positions[image.argsort(stable=True)].split(counts_N.tolist())
    return [part[:limit] for part in by_image]
