"""TCM: TypiClust first, then margin sampling (Doucet, Estermann, Aczel and Wattenhofer, 2024)."""

from __future__ import annotations

import numpy as np

from benchmark.api import EncoderName, How, Indices, Need, View, register

from .shared import features
from .shared.features import SIMCLR, count_classes
from .shared.typicality import select_typical
from .shared.uncertainty import one_minus_gap


def needs(*, encoder: EncoderName | None, **_: object) -> frozenset[Need]:
    """Returns what the features need, and `predict` for the margin."""
    return features.needs(encoder=encoder) | {"predict"}


@register(needs=needs, needs_without_labels=features.needs, version=1)
def tcm(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    encoder: EncoderName | None = SIMCLR,
    switch_at: int | None = None,
    max_clusters: int = 500,
    num_neighbours: int = 20,
    how: How = "mean",
) -> Indices:
    """Selects typical images of clusters while labels are few, and the smallest margins afterwards.

    While fewer than `switch_at` images are labelled, it selects as `typiclust`, then as `margin`.

    Args:
        encoder: the frozen encoder whose features are used. The paper's are self-supervised. `null` takes the model's
            own features.
        switch_at: the number of labelled images from which the margin decides. `null` takes ten per class, which is
            this project's choice (see Deviations).
        max_clusters: the largest number of clusters, as in `typiclust`.
        num_neighbours: the largest number of neighbours that decide how typical an image is, as in `typiclust`.
        how: how the margins of a detector's boxes, or of a segmenter's sampled pixels, become one value per image, as
            in `margin`.

    Logs:
        by_margin: 1 if the margin decided, otherwise 0.

    References:
        Doucet, Estermann, Aczel and Wattenhofer, Bridging Diversity and Uncertainty in Active Learning with
            Self-Supervised Pre-Training, ICLR 2024 workshop on practical machine learning for low-resource settings.

    Deviations:
        The paper fixes the number of TypiClust steps before the switch by the size of the budget; here the switch is a
        number of labels, whatever the size of a step.

    Cost:
        As `typiclust` before the switch and as `margin` after it.
    """
    if switch_at is not None and switch_at < 0:
        raise ValueError(f"tcm[switch_at={switch_at}]: must be 0 or more")
    num_labelled = len(view.labelled)
    by_margin = num_labelled > 0 and num_labelled >= (10 * count_classes(view) if switch_at is None else switch_at)
    view.log(by_margin=float(by_margin))
    if not by_margin:
        return select_typical(
            view, budget, rng, encoder=encoder, max_clusters=max_clusters, num_neighbours=num_neighbours
        )
    predictions = view.predict(view.unlabelled)
    return view.highest(predictions.per_image(one_minus_gap(predictions.scores_PC), how), budget)
