"""The scores of a task: its metric, and scores of single classes. Imports no torch.

A metric is declared here. Its values are computed in `Task.score`, for the kinds of task of this project by
`scores.py` in `vision/classification/`, `vision/detection/`, `vision/segmentation/` and `vision/keypoints/`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from benchmark.system.validation import Amount, Name

PERCENT, SHARE = "percent", "share"  # units of values in 0 to 100, and in 0 to 1


@dataclass(frozen=True)
class Metric:
    """The score that a task is judged by, and how tables, verdicts and figures treat its values.

    Args:
        name: the key of the value in what `Task.score` returns.
        unit: the unit of values: `percent` (0 to 100), `share` (0 to 1), or a word of your own.
        higher_is_better: False for losses and errors.
        digits: number of decimals in tables.
        margin: the largest difference between two values that still agree; None if that is not defined.
    """

    name: Name
    unit: str = ""
    higher_is_better: bool = True
    digits: Annotated[int, Meta(ge=0, le=9)] = 2
    margin: Amount | None = None

    def __str__(self) -> str:
        """The name."""
        return self.name

    @property
    def is_share(self) -> bool:
        """Whether values lie in 0 to 1, so that their differences are read in hundredths."""
        return self.unit == SHARE

    @property
    def sign(self) -> int:
        """1 where higher values are better, otherwise -1."""
        return 1 if self.higher_is_better else -1


ACCURACY = Metric("accuracy", PERCENT, margin=1.0)
MEAN_AP = Metric("map", SHARE, digits=3, margin=0.01)
MEAN_AP_VOC07 = Metric("voc07_map", PERCENT, margin=1.0)  # PASCAL's of 2007, which papers print in per cent
MEAN_IOU = Metric("miou", PERCENT)
OKS_AP = Metric("oks_ap", SHARE, digits=3, margin=0.01)
KNOWN_METRICS = {
    metric.name: metric
    for metric in (ACCURACY, MEAN_AP, MEAN_AP_VOC07, MEAN_IOU, OKS_AP, Metric("ap", SHARE, digits=3, margin=0.01))
}  # the metrics that records and published curves name


def resolve_metric(metric: Metric | str) -> Metric:
    """Returns the metric itself, or the metric of this name; for an unknown name, higher values are better."""
    return metric if isinstance(metric, Metric) else KNOWN_METRICS.get(metric, Metric(metric))


def shorten_metric(metric: Metric) -> Metric | str:
    """Returns the metric as records hold it: its name alone where the name identifies it."""
    return metric.name if resolve_metric(metric.name) == metric else metric


class Scores(dict[str, float]):
    """Scores by name, like a dict, with scores of single classes in `by_class`.

    Args:
        scores: the scores on the whole test set.
        by_class: for each score by name, its values by class, without classes that do not occur in the test set.
    """

    def __init__(self, scores: Mapping[str, float], by_class: Mapping[str, Mapping[str, float]]) -> None:
        super().__init__(scores)
        self.by_class = {name: dict(values) for name, values in by_class.items()}


def class_scores(scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Returns the scores of single classes, by score and class; {} where a task gives none."""
    return scores.by_class if isinstance(scores, Scores) else {}


def scores_by_class(classes: Sequence[str], values: Iterable[float | None]) -> dict[str, float]:
    """Returns the values of classes by their names; classes of equal names are numbered, `cat (3)`.

    Args:
        classes: the names of the C classes.
        values: C values; None for a class without a value.
    """
    count = Counter(classes)
    names = [name if count[name] == 1 else f"{name} ({number})" for number, name in enumerate(classes)]
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}
