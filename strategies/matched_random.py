"""Random sampling with another strategy's numbers of predicted boxes: what it gains beyond how full its images are."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.api import Companion, Indices, Need, StrategyName, View, find_strategy, register

from .shared.boxes import count_boxes


def matched_strategy(like: str) -> tuple[Any, dict[str, Any]]:
    """The strategy to match, with its parameters."""
    plugin, values = find_strategy(like)
    if plugin.name == matched_random.__name__:
        raise ValueError(f"matched_random[like={like}]: name a strategy that chooses by itself")
    return plugin, values


def needs(*, like: str, **_: object) -> frozenset[Need]:
    """What the other strategy needs, and predictions to count boxes in."""
    plugin, values = matched_strategy(like)
    return frozenset(plugin.resolve_needs(values) | {"predict"})


def companion(*, like: str, **_: object) -> Companion | None:
    """The other strategy's companion, so that it chooses with the model that it would have trained."""
    plugin, values = matched_strategy(like)
    built: Companion | None = plugin.companion(**values) if plugin.companion else None
    return built


@register(needs=needs, version=2, companion=companion)
def matched_random(
    view: View, budget: int, rng: np.random.Generator, *, like: StrategyName = "isal", min_score: float = 0.3
) -> Indices:
    """As many images of every number of predicted boxes as another strategy chooses, each drawn uniformly.

    A stratified random control, no paper's: of all unlabelled images with c boxes, as many are drawn, without
    replacement and in random order, as `like` would choose here; its own choice may be among them. A classifier's
    images count one each: random sampling there.
    like: a strategy with its parameters, as on the command line (ours: isal). It is asked anew each round, of this
        run's model and labelled set; what it logs is logged, and labels that it reads are charged for as its own.
    min_score: the least confidence of a box that counts (ours).
    Logs `overlap`, the share of its picks that `like` would choose too.
    Deviations: none, as there is no paper to deviate from. Cost: that of `like`, and a forward pass an unlabelled
    image.
    """
    chosen = view.choice_of(like, budget, rng)
    count_N = count_boxes(view.predict(view.unlabelled), min_score)
    wanted = np.unique(count_N[np.searchsorted(view.unlabelled, chosen)], return_counts=True)
    drawn = [rng.choice(view.unlabelled[count_N == c], size, replace=False) for c, size in zip(*wanted, strict=True)]
    picks: Indices = rng.permutation(np.concatenate(drawn))
    view.log(overlap=float(np.isin(picks, chosen).mean()))
    return picks
