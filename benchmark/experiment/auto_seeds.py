"""`seeds=auto`: seeds are added until every comparison with a reference is decided or unlikely to be decided.

Imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LOOKS = (8, 10, 12, 15, 20, 25, 30)  # numbers of seeds at which comparisons are tested (interim looks); then every five


@dataclass(frozen=True)
class AutoSeeds:
    """The rule by which an experiment with `seeds=auto` adds seeds and stops; see `analysis.sequential`.

    Attributes:
        reference: the label of the strategy that all others are compared with.
        level: confidence level; at 0.95 at most one experiment in twenty has a false verdict, over all looks and
            strategies.
        max_seeds: the greatest number of seeds.
    """

    reference: str
    level: float
    max_seeds: int

    def __post_init__(self) -> None:
        if not 0.5 <= self.level < 1:
            raise ValueError(f"level={self.level:g}: must be at least 0.5 and below 1; 0.95 bounds the error at 0.05")
        if not LOOKS[0] <= self.max_seeds <= 200:
            raise ValueError(
                f"max_seeds={self.max_seeds}: must be from {LOOKS[0]} (fewer cannot decide anything) to 200"
            )

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds at which the comparisons are tested; `max_seeds` is the last."""
        later = range(LOOKS[-1] + 5, self.max_seeds, 5)
        return (*(number for number in (*LOOKS, *later) if number < self.max_seeds), self.max_seeds)

    def identity(self) -> dict[str, Any]:
        """The fields as the manifest keeps them."""
        return asdict(self)

    @classmethod
    def read(cls, fields: Mapping[str, Any] | None) -> AutoSeeds | None:
        """Reads the fields of a manifest; None where the seeds were fixed."""
        return None if fields is None else cls(**fields)
