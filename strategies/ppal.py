"""PPAL: plug and play active learning for object detection (Yang, Huang and Crowley, 2024).

Shapes: N images, P predictions, A predictions and M true boxes of one image, C classes, D features. Of one class: B
boxes, R of them at a time, in J images.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Indices, Predictions, View, register

from .shared.boxes import box_classes, box_corners, iou
from .shared.kcenter import farthest_first
from .shared.ties import ranks_as_tensor

CHUNK = 2**24  # pairs of boxes in memory at once
MAX_DISTANCE = 2.0  # the largest cosine distance
MAX_ITERATIONS = 100  # of k-medoids, at most


@register(needs={"predict", "box_features", "labels"}, version=2)
def ppal(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    delta: float = 4.0,
    alpha: float = 0.3,
    beta: float = 0.2,
    xi: float = 0.6,
    min_score: float = 0.05,
) -> Indices:
    """Selects uncertain images with difficult classes, and from those a diverse set.

    Step 1 (DCUS) keeps the images with the largest sum of `w_c H(s)` over their boxes. H is the binary entropy of a
    box's confidence s. `w_c = 1 + alpha beta log(1 + (e^(1/alpha) - 1) d_c)`, in 1..1+beta, is the weight of its class
    c, which grows with the difficulty d_c of the class (see `class_difficulty`). Step 2 (CCMS) runs k-medoids with k =
    budget on the distances between those images (see `image_distances`). The first medoids are chosen greedily,
    starting from a random image.

    Args:
        delta: how many images step 1 keeps, as a multiple of the budget, at least 1 (4: the authors').
        alpha: how fast the class weight rises with the difficulty, above 0; the smaller, the sooner (0.3: the
            authors').
        beta: by how much the class weight rises from no difficulty to full difficulty (0.2: the authors').
        xi: the exponent in the quality p^xi IoU^(1 - xi) of a labelled box, in [0, 1); the difficulty of a class is 1
            minus the mean quality of its boxes (0.6: the authors').
        min_score: boxes with this confidence or less play no part (0.05: the authors').

    Logs:
        difficulty: the mean difficulty over classes.

    References:
        Yang, Huang and Crowley, Plug and Play Active Learning for Object Detection, CVPR 2024.

    Deviations:
        Compared with the published code: the difficulty is measured after training, whereas that code keeps a moving
        average during training. No box is left out for its size or shape. The feature of a box is the input of the
        classification layer where the box was predicted (`View.box_features`), whereas that code reads the map at the
        centre of the box and takes the k-th boxes of two images to be equal. An image without boxes is at the largest
        distance from images with boxes, whereas that code puts it at distance 0.

    Cost:
        One forward pass per image, labelled images included, and two more for each of the n = delta * budget images
        that step 1 keeps. O(B^2 D) time for B boxes of one class in those. O(n^2) memory, and O(n^2) time for each of
        at most 100 iterations of k-medoids.
    """
    for name, value, is_valid in (("delta", delta, delta >= 1), ("alpha", alpha, alpha > 0), ("xi", xi, 0 <= xi < 1)):
        if not is_valid:
            valid = {"delta": "at least 1", "alpha": "above 0", "xi": "in [0, 1)"}[name]
            raise ValueError(f"ppal[{name}={value:g}]: must be {valid}")
    difficulty_C = class_difficulty(view, xi)
    view.log(difficulty=difficulty_C.mean().item())
    weight_C = 1 + alpha * beta * torch.logaddexp((1 - difficulty_C).log(), difficulty_C.log() + 1 / alpha)
    predictions = view.predict(view.unlabelled)
    entropy_P = binary_entropy(predictions.confidence_P) * (predictions.confidence_P > min_score)
    uncertainty_N = predictions.per_image(weight_C[box_classes(predictions)] * entropy_P, "sum")
    candidates = np.sort(view.highest(uncertainty_N, int(delta * budget)))
    del predictions
    distance_NN = image_distances(view.predict(candidates), view.box_features(candidates), min_score)
    return candidates[k_medoids(distance_NN, budget, rng, view.tie_ranks(candidates))]


def binary_entropy(p: Tensor) -> Tensor:
    """Returns the entropy, in nats, of an event with probability p."""
    entropy: Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
    return entropy


def class_difficulty(view: View, xi: float) -> Tensor:
    """Returns the difficulty of each class, (C,): one minus the mean quality of its labelled boxes.

    The quality of a labelled box is the largest p^xi IoU^(1 - xi) over the predicted boxes of its image, where p is the
    predicted probability of its class. A class without labelled boxes has difficulty 1.
    """
    labels = view.labels(view.labelled)
    assert isinstance(labels, list), "a detector's labels are boxes"
    predictions = view.predict(view.labelled)
    counts = predictions.image_P.bincount(minlength=predictions.num_images).tolist()
    boxes, scores = box_corners(predictions), predictions.scores_PC
    best_quality = [boxes.new_zeros(0)]
    for true_boxes, row_A in zip(labels, predictions.image_P.argsort(stable=True).split(counts), strict=True):
        overlap_MA = iou(true_boxes.corners_M4.to(boxes)[:, None], boxes[row_A])
        quality_MA = scores[row_A][:, true_boxes.labels_M.to(row_A)].T ** xi * overlap_MA ** (1 - xi)
        best_quality.append(F.pad(quality_MA, (0, 1)).amax(1))
    label_B = torch.cat([torch.zeros(0, dtype=torch.int64), *(true_boxes.labels_M.cpu() for true_boxes in labels)])
    num_classes = scores.shape[1] - 1
    sum_C = label_B.bincount(torch.cat(best_quality).cpu().double(), minlength=num_classes)
    return (1 - sum_C / label_B.bincount(minlength=num_classes).clamp(min=1)).to(scores)


def image_distances(predictions: Predictions, features_PD: Tensor, min_score: float) -> Tensor:
    """Returns the distance of each pair of images, (N, N), in 0..2 and symmetric.

    From one image to another: the mean over its boxes, weighted by confidence, of the cosine distance to the nearest
    box of the same class in the other image, or 2 where there is none. An image without boxes is at distance 2, and at
    distance 0 from another one without boxes. The result is the mean of both directions. Classes are treated one by one
    and boxes in chunks: time grows with the squared number of boxes of a class, memory with N^2.
    """
    if not features_PD.isfinite().all():
        raise ValueError("ppal: the features of boxes hold NaN or infinity")
    num, is_counted_P = predictions.num_images, predictions.confidence_P > min_score
    order_P = predictions.image_P.argsort(stable=True)
    order_P = order_P[is_counted_P[order_P]]
    label_P, image_P = box_classes(predictions)[order_P], predictions.image_P[order_P]
    score_P, unit_PD = predictions.confidence_P[order_P], F.normalize(features_PD[order_P], dim=1)
    similarity_NN = score_P.new_zeros(num, num)
    for label in label_P.unique():
        rows = (label_P == label).nonzero()[:, 0]
        add_similarity(similarity_NN, image_P[rows], score_P[rows], unit_PD[rows])
    total_N = predictions.per_image(predictions.confidence_P * is_counted_P, "sum")
    one_way_NN = MAX_DISTANCE - similarity_NN / total_N.clamp(min=torch.finfo().tiny)[:, None]
    one_way_NN[(total_N[:, None] + total_N) == 0] = 0
    return ((one_way_NN + one_way_NN.T) / 2).clamp(min=0).fill_diagonal_(0)


def add_similarity(similarity_NN: Tensor, image_B: Tensor, score_B: Tensor, unit_BD: Tensor) -> None:
    """Adds the similarity that the boxes of one class, sorted by image, contribute to each pair of images.

    A box of the first image contributes its score times 2 minus its distance to the nearest box of the second.
    """
    images_J, group_B = image_B.unique_consecutive(return_inverse=True)
    for row_R in torch.arange(len(image_B), device=image_B.device).split(max(1, CHUNK // len(image_B))):
        cosine_BR = unit_BD @ unit_BD[row_R].T
        empty_JR = cosine_BR.new_full((len(images_J), len(row_R)), -torch.inf)
        best_JR = empty_JR.scatter_reduce(0, group_B[:, None].expand_as(cosine_BR), cosine_BR, "amax")
        gain_RJ = (score_B[row_R] * (MAX_DISTANCE - 1 + best_JR)).T
        images, counts = image_B[row_R].unique_consecutive(return_counts=True)
        similarity_NN[images[:, None], images_J] += torch.segment_reduce(gain_RJ, "sum", lengths=counts, axis=0)


def k_medoids(distance_NN: Tensor, num: int, rng: np.random.Generator, rank_N: Indices) -> Indices:
    """Returns `num` distinct positions, each with the smallest sum of distances to the members of its cluster.

    Lloyd's alternation starts from `initial_medoids` and runs until nothing moves. A medoid stays in its own cluster,
    so no cluster is empty. Of equally good positions the one with the lowest rank is taken.
    """
    first, numbers = int(rng.integers(len(distance_NN))), np.arange(num)
    medoids = initial_medoids(distance_NN, num, first, ranks_as_tensor(rank_N, distance_NN))
    for _ in range(MAX_ITERATIONS):
        nearest_N = distance_NN[:, medoids].argmin(1).cpu().numpy()
        nearest_N[medoids] = numbers
        cluster_N = torch.from_numpy(nearest_N).to(distance_NN.device)
        within_N = (distance_NN * (cluster_N[:, None] == cluster_N)).sum(1).cpu().numpy()
        order_N = np.lexsort((rank_N, within_N, nearest_N))
        new_medoids = order_N[np.searchsorted(nearest_N[order_N], numbers)]
        if np.array_equal(new_medoids, medoids):
            break
        medoids = new_medoids
    return medoids


def initial_medoids(distance_NN: Tensor, num: int, first: int, rank_N: Tensor) -> Indices:
    """Returns `num` distinct positions: `first`, then always the one farthest from those so far."""
    distance_N = distance_NN[first].clone()
    distance_N[first] = -torch.inf
    others = farthest_first(distance_N, num - 1, rank_N, lambda pick_1: distance_NN[pick_1][0])
    return np.array([first, *others.tolist()])
