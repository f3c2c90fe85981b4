"""What a task's scores are: its metric, and the scores of single classes. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from benchmark.system.typed import Amount, Name

PERCENT, SHARE = "percent", "share"  # units: of 0 to 100, and of 0 to 1


@dataclass(frozen=True)
class Metric:
    """The score that a task is judged by: tables, verdicts and figures ask it how to treat its values.

    Args:
        name: the key of the value in what `Task.score` returns.
        unit: of the values: `percent` (0 to 100), `share` (0 to 1), or a word of your own.
        higher_is_better: False for losses and errors.
        digits: decimals that tables print.
        margin: how far apart two values may be and still agree; None: that is not defined.
    """

    name: Name
    unit: str = ""
    higher_is_better: bool = True
    digits: Annotated[int, Meta(ge=0, le=9)] = 2
    margin: Amount | None = None

    def __str__(self) -> str:
        """Its name."""
        return self.name

    @property
    def is_share(self) -> bool:
        """Whether values are of 0 to 1, so that people read hundredths of them."""
        return self.unit == SHARE

    @property
    def sign(self) -> int:
        """1 where higher values are better, else -1."""
        return 1 if self.higher_is_better else -1


ACCURACY = Metric("accuracy", PERCENT, margin=1.0)
MEAN_AP = Metric("map", SHARE, digits=3, margin=0.01)
MEAN_IOU = Metric("miou", PERCENT)
KNOWN_METRICS = {
    metric.name: metric for metric in (ACCURACY, MEAN_AP, MEAN_IOU, Metric("ap", SHARE, digits=3, margin=0.01))
}  # by which records and published curves that only name their metric are read


def resolve_metric(metric: Metric | str) -> Metric:
    """A metric, or the one that is known by this name: of others nothing is known but that higher is better."""
    return metric if isinstance(metric, Metric) else KNOWN_METRICS.get(metric, Metric(metric))


def shorten_metric(metric: Metric) -> Metric | str:
    """The metric as records tell it: its name where that says everything."""
    return metric.name if resolve_metric(metric.name) == metric else metric


class Scores(dict[str, float]):
    """Scores by name, as any dict of them, with those of single classes in `by_class`.

    Args:
        scores: of the whole test set.
        by_class: the name of a score -> class -> its value; without classes of which the test set has nothing.
    """

    def __init__(self, scores: Mapping[str, float], by_class: Mapping[str, Mapping[str, float]]) -> None:
        super().__init__(scores)
        self.by_class = {name: dict(values) for name, values in by_class.items()}


def class_scores(scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The scores of single classes, by score and class; {} where a task tells none."""
    return scores.by_class if isinstance(scores, Scores) else {}


def scores_by_class(classes: Sequence[str], values: Iterable[float | None]) -> dict[str, float]:
    """Values of classes by their names; classes of one name are told apart by their numbers, `cat (3)`.

    Args:
        classes: C names.
        values: C values; None for a class without any.
    """
    count = Counter(classes)
    names = [name if count[name] == 1 else f"{name} ({number})" for number, name in enumerate(classes)]
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}
