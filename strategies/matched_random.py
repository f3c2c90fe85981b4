"""Random sampling that matches the numbers of predicted boxes of another strategy's selection: a control."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.api import Companion, Indices, Need, StrategyName, View, find_strategy, register

from .shared.boxes import count_boxes


def matched_strategy(like: str) -> tuple[Any, dict[str, Any]]:
    """Returns the strategy to match, with its parameters; raises ValueError if it is `matched_random` itself."""
    plugin, values = find_strategy(like)
    if plugin.name == matched_random.__name__:
        raise ValueError(f"matched_random[like={like}]: must name another strategy than matched_random")
    return plugin, values


def needs(*, like: str, **_: object) -> frozenset[Need]:
    """Returns the needs of the matched strategy, and `predict` to count boxes."""
    plugin, values = matched_strategy(like)
    return frozenset(plugin.resolve_needs(values) | {"predict"})


def companion(*, like: str, **_: object) -> Companion | None:
    """Returns the companion of the matched strategy, so that it selects with the model that it would have trained."""
    plugin, values = matched_strategy(like)
    built: Companion | None = plugin.companion(**values) if plugin.companion else None
    return built


@register(needs=needs, version=2, companion=companion)
def matched_random(
    view: View, budget: int, rng: np.random.Generator, *, like: StrategyName = "isal", min_score: float = 0.3
) -> Indices:
    """Selects random images with the same numbers of predicted boxes as another strategy's selection.

    This is a stratified random control and from no paper: what the other strategy gains over it does not come from how
    many boxes its images hold. The other strategy selects first. For each number of boxes in its selection, equally
    many images are drawn uniformly and without replacement from all unlabelled images with that number of boxes; images
    of the other selection may be among them. The order is random. Each image of a classifier counts as one box, so the
    selection is uniformly random there.

    Args:
        like: the strategy to match, with its parameters as on the command line; `isal` is this project's choice. It
            selects anew in each round, from this run's model and labelled set. What it logs is logged, and the labels
            that it reads are charged for.
        min_score: the smallest confidence (0 to 1) of a box that counts; 0.3 is this project's choice.

    Logs:
        overlap: the share of the selected images that the matched strategy selects too.

    Deviations:
        None, because there is no paper to deviate from.

    Cost:
        The cost of the matched strategy, and one forward pass per unlabelled image.
    """
    matched = view.choice_of(like, budget, rng)
    count_N = count_boxes(view.predict(view.unlabelled), min_score)
    counts = np.unique(count_N[np.searchsorted(view.unlabelled, matched)], return_counts=True)
    parts = [rng.choice(view.unlabelled[count_N == c], size, replace=False) for c, size in zip(*counts, strict=True)]
    picks: Indices = rng.permutation(np.concatenate(parts))
    view.log(overlap=float(np.isin(picks, matched).mean()))
    return picks
