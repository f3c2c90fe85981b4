"""`seeds=auto`: seeds are run until every comparison with a reference is decided, or is not likely to be.

Imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LOOKS = (8, 10, 12, 15, 20, 25, 30)  # numbers of seeds at which one looks; every five from there on


@dataclass(frozen=True)
class AutoSeeds:
    """How an experiment of `seeds=auto` decides; see `analysis.sequential`.

    Attributes:
        reference: The label of the strategy that all others are compared with.
        level: 0.95: a false verdict in one experiment of twenty at most, over all looks and strategies.
        max_seeds: The most that are run.
    """

    reference: str
    level: float
    max_seeds: int

    def __post_init__(self) -> None:
        if not 0.5 <= self.level < 1:
            raise ValueError(f"level={self.level:g}: at least 0.5 and below 1; 0.95 keeps the error at 0.05")
        if not LOOKS[0] <= self.max_seeds <= 200:
            raise ValueError(f"max_seeds={self.max_seeds}: from {LOOKS[0]} (fewer decide nothing) to 200")

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds at which one looks, `max_seeds` the last."""
        later = range(LOOKS[-1] + 5, self.max_seeds, 5)
        return (*(number for number in (*LOOKS, *later) if number < self.max_seeds), self.max_seeds)

    def identity(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        return asdict(self)

    @classmethod
    def read(cls, fields: Mapping[str, Any] | None) -> AutoSeeds | None:
        """From a manifest; None where seeds were told. ValueError where it is none."""
        return None if fields is None else cls(**fields)
