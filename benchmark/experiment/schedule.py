"""When labels are bought, and when a cell ends. Imports no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Protocol

from benchmark.system.typed import convert
from benchmark.text.words import plural

MAX_ROUNDS, MAX_IMAGES = 10_000, 10**9  # a slip of the keyboard would otherwise fill the memory
MAX_BAND_LENGTH = 80  # characters of `until`, which is part of a folder's name
BAND = re.compile(r"([A-Za-z_]\w*) +(\d+(?:\.\d+)?) +\+- +(\d+(?:\.\d+)?)", re.ASCII)


class HasScores(Protocol):
    """What a schedule asks of a record: the scores of its round."""

    @property
    def scores(self) -> Mapping[str, float]:
        """By metric."""


class IncompatibleScheduleError(ValueError):
    """A schedule that a task cannot serve."""


@dataclass(frozen=True)
class Schedule:
    """How many labels when. `rounds` counts the fits, at most; between two of them `budget` labels are bought.

    initial, validation: images, drawn at random before round 0.
        initial: 0 starts from no label at all, which takes one_pass and a strategy that asks the model for nothing.
    budget_in: what `budget` counts, images or the boxes on them.
    one_pass: everything is chosen at once, by the model of round 0, and bought in that order, `budget` a round.
    until: `METRIC VALUE +- WIDTH`: the first round that scores VALUE - WIDTH or more is the last. "": run all rounds.
    """

    initial: int
    budget: int
    rounds: int
    validation: int = 0
    budget_in: Literal["images", "boxes"] = "images"
    until: str = ""
    one_pass: bool = False

    def __post_init__(self) -> None:
        for name, least in (("initial", 0 if self.one_pass else 1), ("budget", 1), ("rounds", 1), ("validation", 0)):
            value, most = getattr(self, name), MAX_ROUNDS if name == "rounds" else MAX_IMAGES
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value}: must be at least {least}")
            if value > most:
                raise ValueError(f"{name}={value}: must be at most {most:,}")
        if self.budget_in not in ("images", "boxes"):
            raise ValueError(f"budget_in={self.budget_in}: must be images or boxes")
        if self.one_pass and self.budget_in == "boxes":
            raise ValueError("one_pass=true: all is chosen before boxes can be counted: set budget_in=images")
        if self.until:
            metric, value, width = parse_band(self.until)
            object.__setattr__(self, "until", f"{metric} {value:f} +- {width:f}")  # one spelling a meaning

    @classmethod
    def read(cls, fields: Mapping[str, Any], context: str = "schedule") -> Schedule:
        """The schedule of a manifest; ValueError, naming the field, where it is none."""
        if unknown := sorted(fields.keys() - {one.name for one in dataclasses.fields(cls)}):
            raise ValueError(f"{context}: no setting of a schedule is called {unknown[0]}")
        try:
            return convert(fields, cls)
        except ValueError as error:
            raise ValueError(f"{context}: {error}") from error

    @property
    def label(self) -> str:
        """`1000+1000x9`, and `v500` behind it where 500 labels are set aside; the longest forms are
        `500+1000boxesx9v500_until_map_0.22+-0.003` and `0+1000x10v500_one_pass`. A path on disk.
        """
        counted = "boxes" if self.budget_in == "boxes" else ""
        aside = f"v{self.validation}" if self.validation else ""
        ending = f"_until_{self.until.replace(' +- ', '+-').replace(' ', '_')}" if self.until else ""
        once = "_one_pass" if self.one_pass else ""
        return f"{self.initial}+{self.budget}{counted}x{self.num_acquisitions}{aside}{ending}{once}"

    @property
    def description(self) -> str:
        """The same in words."""
        each = f"{self.budget:,} {self.budget_in}"
        if self.one_pass:
            bought = f"all chosen at once, then {each} a round, {self.num_acquisitions} times"
        else:
            bought = f"then {each} more, {self.num_acquisitions} times"
        parts = [f"{plural(self.initial, 'image')} at first", bought]
        parts += [f"{plural(self.validation, 'image')} set aside"] * bool(self.validation)
        parts += [f"until {self.until}"] * bool(self.until)
        return ", ".join(parts)

    @property
    def num_acquisitions(self) -> int:
        """How often `budget` labels are bought."""
        return self.rounds - (self.initial > 0)

    def num_images(self, round_number: int) -> int:
        """Images that round `number` is trained on, of a budget in images."""
        return self.initial + self.budget * (round_number + self.num_acquisitions - self.rounds + 1)

    def identity(self) -> dict[str, Any]:
        """Its fields; those that came later only where they are set: older records keep their key."""
        later = ("budget_in", "until", "one_pass")
        values = [(one, getattr(self, one.name)) for one in dataclasses.fields(self)]
        return {one.name: value for one, value in values if one.name not in later or value != one.default}

    def check_pool_size(self, num_pool: int) -> None:
        """Misfit where the pool is smaller than what the schedule buys; of boxes, only the start is known."""
        boxes = self.budget_in == "boxes"
        wanted = self.initial + self.validation + (0 if boxes else self.budget * self.num_acquisitions)
        lower = "initial= or validation=" if boxes else "rounds=, budget=, initial= or validation="
        if wanted > num_pool:
            raise IncompatibleScheduleError(
                f"the schedule {self.label} buys {wanted} labels of a pool of {num_pool}: lower {lower}"
            )

    def reaches_target(self, scores: Mapping[str, float]) -> bool:
        """Whether a round with these scores is in the band of `until`, or past it. ValueError without that score."""
        if not self.until:
            return False
        metric, value, width = parse_band(self.until)
        if metric not in scores:
            raise ValueError(f"until={self.until}: there is no score {metric}, there are: {', '.join(sorted(scores))}")
        return scores[metric] >= float(value - width)

    def is_finished(self, records: Sequence[HasScores]) -> bool:
        """Whether a cell with these records has run all of its rounds."""
        return len(records) >= self.rounds or (bool(records) and self.reaches_target(records[-1].scores))


def parse_band(until: str) -> tuple[str, Decimal, Decimal]:
    """Metric, value and width of `map 0.22 +- 0.003`; ValueError shows the form where the text has another."""
    match = BAND.fullmatch(until) if len(until) <= MAX_BAND_LENGTH else None
    if match is None:
        raise ValueError(f'until={until!r}: must be METRIC VALUE +- WIDTH, as in until="map 0.22 +- 0.003"')
    return match[1], Decimal(match[2]).normalize(), Decimal(match[3]).normalize()
