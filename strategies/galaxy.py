"""GALAXY: bisection between classes along graphs of the model's scores, for imbalanced pools (Zhang et al., 2022).

Shapes: N images, the labelled ones first; C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from benchmark.api import Indices, View, register


@register(needs={"predict", "labels"}, version=1)
def galaxy(view: View, budget: int, rng: np.random.Generator) -> Indices:
    """Selects images between labelled images of different classes, in the order of each class's score, by bisection.

    For each class all images are ordered by how far its probability is below the largest one; images that are predicted
    to be of the class come last, by confidence. The classes take turns. In its turn a class takes the shortest run of
    images without labels between one labelled with the class and one labelled with another, and selects the image in
    the middle. Once no such run is left, it selects the image that is nearest to labelled images of both kinds. Around
    the boundary of a rare class the labels are about balanced, however rare it is.

    References:
        Zhang, Katz-Samuels and Nowak, GALAXY: Graph-based Active Learning at the Extreme, ICML 2022.

    Deviations:
        The paper asks for the label of each image before it selects the next one. Here a batch is selected at once, so
        the predicted class stands for the label of an image of the batch; true labels decide between batches. Where no
        run is left, the paper's code connects ever more distant images and takes a shortest path; here the image whose
        larger distance to both kinds is smallest is taken, which such a path of two edges goes through first. A class
        without labelled images has no boundary, and draws at random, as in that code.

    Cost:
        One forward pass per image and a sort for each class; then O(N log N) per selected image at most. For
        classifiers.
    """
    images, num_labelled = np.concatenate([view.labelled, view.unlabelled]), len(view.labelled)
    predictions = view.predict(images)
    if not predictions.one_each:
        raise ValueError("galaxy needs one prediction per image: take a classifier, not a detector or a segmenter")
    if not predictions.scores_PC.isfinite().all():
        raise ValueError("galaxy: the predictions of the model hold NaN or infinity")
    labels = view.labels(view.labelled)
    assert isinstance(labels, Tensor)
    p_NC = predictions.scores_PC.double().cpu().numpy()
    label_N = p_NC.argmax(1)
    label_N[:num_labelled] = labels.cpu().numpy()
    graphs = Graphs(order_positions(p_NC, view.tie_ranks(images)), label_N, np.arange(len(images)) < num_labelled)
    picks = [graphs.select(turn % p_NC.shape[1], rng) for turn in range(budget)]
    selection: Indices = images[picks]
    return selection


def order_positions(p_NC: npt.NDArray[np.float64], rank_N: Indices) -> Indices:
    """Returns the position of each image in the order of each class, (C, N); equal images are ordered by rank."""
    largest_N = p_NC.max(1)
    position_CN = np.empty(p_NC.shape[::-1], np.int64)
    for label, p_N in enumerate(p_NC.T):
        position_CN[label, np.lexsort((rank_N, largest_N, p_N - largest_N))] = np.arange(len(p_N))
    return position_CN


@dataclass
class Graphs:
    """The orders of all images by class, and which images have labels, true or predicted."""

    position_CN: Indices
    label_N: Indices
    has_label_N: npt.NDArray[np.bool_]

    def select(self, label: int, rng: np.random.Generator) -> int:
        """Selects an image in the order of this class; its predicted class is its label from now on."""
        position_N = self.position_CN[label]
        is_class = self.label_N == label
        of_class, of_others = (np.sort(position_N[self.has_label_N & which]) for which in (is_class, ~is_class))
        open_images = np.flatnonzero(~self.has_label_N)
        if not (len(of_class) and len(of_others)):
            pick = int(rng.choice(open_images))
        elif (middle := middle_of_shortest_run(of_class, of_others)) is not None:
            pick = int(np.flatnonzero(position_N == middle)[0])
        else:
            places = position_N[open_images]
            farther_N = np.maximum(distance_to_nearest(places, of_class), distance_to_nearest(places, of_others))
            pick = int(open_images[np.lexsort((places, farther_N))[0]])
        self.has_label_N[pick] = True
        return pick


def middle_of_shortest_run(of_class: Indices, of_others: Indices) -> int | None:
    """Returns the middle of the shortest run of positions between neighbours of different kinds; None without a run."""
    positions = np.concatenate([of_class, of_others])
    order = np.argsort(positions)
    is_class, positions = order < len(of_class), positions[order]
    length = np.where(is_class[1:] != is_class[:-1], np.diff(positions) - 1, 0)
    runs = np.flatnonzero(length)
    if not len(runs):
        return None
    first = runs[length[runs].argmin()]
    return int(positions[first] + positions[first + 1] + 1) // 2


def distance_to_nearest(places: Indices, targets: Indices) -> Indices:
    """Returns the distance of each place to the nearest of these sorted targets."""
    after = np.searchsorted(targets, places)
    nearest = np.minimum(
        np.abs(places - targets[np.maximum(after - 1, 0)]),
        np.abs(places - targets[np.minimum(after, len(targets) - 1)]),
    )
    distance: Indices = nearest
    return distance
