"""The schedule: when labels are bought, and when a cell ends. Imports no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Protocol

from benchmark.system.validation import convert
from benchmark.text.words import plural, slug

MAX_ROUNDS, MAX_IMAGES = 10_000, 10**9  # limits, since a typing error could otherwise fill the memory
MAX_BAND_LENGTH = 80  # characters of `until`, which is part of a folder's name
BAND = re.compile(r"([A-Za-z_]\w*) +(\d+(?:\.\d+)?) +\+- +(\d+(?:\.\d+)?)", re.ASCII)


class HasScores(Protocol):
    """The part of a record that a schedule reads: the scores of its round."""

    @property
    def scores(self) -> Mapping[str, float]:
        """Scores by metric."""


class IncompatibleScheduleError(ValueError):
    """A schedule that does not fit a task."""


@dataclass(frozen=True)
class Schedule:
    """How many labels are bought, and when.

    Attributes:
        initial: number of images labelled before round 0. 0: the strategy selects the images of round 0 too, for which
            it must need no model.
        budget: number of labels bought between two trainings.
        rounds: greatest number of trainings.
        validation: number of held-out images, drawn at random before round 0.
        budget_in: the unit of `budget`: images, or the boxes on them.
        until: `METRIC VALUE +- WIDTH`: the first round that scores at least VALUE - WIDTH is the last one. "": run all
            rounds.
        one_pass: all images are selected at once, with the model of round 0, and bought in that order, `budget` per
            round.
        first_budget: number of images that a schedule without an initial set buys first; 0: `budget`.
        initial_by: the strategy that selects the initial images, as a label; it must need no model. "": random images.
    """

    initial: int
    budget: int
    rounds: int
    validation: int = 0
    budget_in: Literal["images", "boxes"] = "images"
    until: str = ""
    one_pass: bool = False
    first_budget: int = 0
    initial_by: str = ""

    def __post_init__(self) -> None:
        minimums = {"initial": 0, "budget": 1, "rounds": 1, "validation": 0, "first_budget": 0}
        for name, minimum in minimums.items():
            value, maximum = getattr(self, name), MAX_ROUNDS if name == "rounds" else MAX_IMAGES
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                raise ValueError(f"{name}={value}: must be at least {minimum}")
            if value > maximum:
                raise ValueError(f"{name}={value}: must be at most {maximum:,}")
        if self.budget_in not in ("images", "boxes"):
            raise ValueError(f"budget_in={self.budget_in}: must be images or boxes")
        if self.one_pass and self.budget_in == "boxes":
            raise ValueError("one_pass=true: all images are chosen before their boxes are known: set budget_in=images")
        if self.first_budget and self.initial:
            raise ValueError(f"first_budget={self.first_budget} has no effect with initial={self.initial}")
        if not self.initial and self.budget_in == "boxes":
            raise ValueError("initial=0: the boxes of an image are not known before the first labels: set initial=N")
        if self.initial_by and not self.initial:
            raise ValueError(f"initial_by={self.initial_by} has no effect with initial=0: set initial=N")
        if self.until:
            metric, value, width = parse_band(self.until)
            object.__setattr__(self, "until", f"{metric} {value:f} +- {width:f}")  # equal bands have equal keys

    @classmethod
    def read(cls, fields: Mapping[str, Any], context: str = "schedule") -> Schedule:
        """Reads a schedule from the fields of a manifest.

        Args:
            fields: the fields.
            context: the name of the entry, for the message.

        Raises:
            ValueError: a field is unknown or does not fit.
        """
        if unknown := sorted(fields.keys() - {field.name for field in dataclasses.fields(cls)}):
            raise ValueError(f"{context}: no setting of a schedule is called {unknown[0]}")
        try:
            return convert(fields, cls)
        except ValueError as error:
            raise ValueError(f"{context}: {error}") from error

    @property
    def label(self) -> str:
        """A short name that is part of paths: `1000+1000x9`, or `1000+1000x9v500` with 500 held-out labels.

        The longest forms are `500+1000boxesx9v500_until_map_0.22+-0.003` and `0+3000+2000x2v500_one_pass`.
        """
        unit = "boxes" if self.budget_in == "boxes" else ""
        held_out = f"v{self.validation}" if self.validation else ""
        ending = f"_until_{self.until.replace(' +- ', '+-').replace(' ', '_')}" if self.until else ""
        one_pass = "_one_pass" if self.one_pass else ""
        first = f"+{self.first_budget}" if self.first_budget else ""
        num_equal = self.num_acquisitions - (self.first_budget > 0)
        initial_by = f"_initial_by_{slug(self.initial_by)}" if self.initial_by else ""
        return f"{self.initial}{first}+{self.budget}{unit}x{num_equal}{held_out}{ending}{one_pass}{initial_by}"

    @property
    def description(self) -> str:
        """The schedule in words."""
        each = f"{self.budget:,} {self.budget_in}"
        if self.one_pass:
            first = f"{plural(self.first_budget, 'image')} bought first, " if self.first_budget else ""
            num_equal = self.num_acquisitions - (self.first_budget > 0)
            purchases = f"all chosen at once, {first}then {each} a round, {num_equal} times"
        else:
            purchases = f"then {each} more, {self.num_acquisitions} times"
        chosen_by = f" by {self.initial_by}" * bool(self.initial_by)
        parts = [f"{plural(self.initial, 'image')} at first{chosen_by}", purchases]
        parts += [f"{plural(self.validation, 'image')} set aside"] * bool(self.validation)
        parts += [f"until {self.until}"] * bool(self.until)
        return ", ".join(parts)

    @property
    def num_acquisitions(self) -> int:
        """The number of times that `budget` labels are bought."""
        return self.rounds - (self.initial > 0)

    def num_images(self, round_number: int) -> int:
        """The number of images that a round is trained on, for a budget in images."""
        return (self.initial or self.budgets[0]) + self.budget * round_number

    @property
    def budgets(self) -> list[int]:
        """The size of each purchase after the initial set."""
        sizes = [self.budget] * self.num_acquisitions
        return [self.first_budget, *sizes[1:]] if self.first_budget else sizes

    def identity(self) -> dict[str, Any]:
        """The fields for keys and manifests, without fields of later releases at their default: so old keys stay."""
        later = ("budget_in", "until", "one_pass", "first_budget", "initial_by")
        values = [(field, getattr(self, field.name)) for field in dataclasses.fields(self)]
        return {field.name: value for field, value in values if field.name not in later or value != field.default}

    def check_pool_size(self, num_pool: int) -> None:
        """IncompatibleScheduleError where the pool is too small. A budget in boxes is not counted."""
        in_boxes = self.budget_in == "boxes"
        num_labels = self.initial + self.validation + (0 if in_boxes else sum(self.budgets))
        settings_to_lower = "initial= or validation=" if in_boxes else "rounds=, budget=, initial= or validation="
        if num_labels > num_pool:
            raise IncompatibleScheduleError(
                f"the schedule {self.label} buys {num_labels} labels of a pool of {num_pool}: lower {settings_to_lower}"
            )

    def reaches_target(self, scores: Mapping[str, float]) -> bool:
        """Whether these scores reach the band of `until`. ValueError where they lack the metric of the band."""
        if not self.until:
            return False
        metric, value, width = parse_band(self.until)
        if metric not in scores:
            raise ValueError(f"until={self.until}: there is no score {metric}, there are: {', '.join(sorted(scores))}")
        return scores[metric] >= float(value - width)

    def is_finished(self, records: Sequence[HasScores]) -> bool:
        """Whether a cell with these records has run all its rounds."""
        return len(records) >= self.rounds or (bool(records) and self.reaches_target(records[-1].scores))


def parse_band(until: str) -> tuple[str, Decimal, Decimal]:
    """Parses `map 0.22 +- 0.003` into metric, value and width. ValueError, with the form, for other texts."""
    match = BAND.fullmatch(until) if len(until) <= MAX_BAND_LENGTH else None
    if match is None:
        raise ValueError(f'until={until!r}: must be METRIC VALUE +- WIDTH, as in until="map 0.22 +- 0.003"')
    return match[1], Decimal(match[2]).normalize(), Decimal(match[3]).normalize()
