"""What a task that the grid does not have is run with: a set of strategies, and a schedule by the size of its pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

SIZES = ("initial", "budget", "rounds", "validation")  # what is chosen by the size of the pool


@dataclass(frozen=True)
class OwnDataDefaults:
    """configs/own_data.yaml, which says what its fields mean."""

    strategies: dict[str, str | None]  # label -> a capability of the task that it takes besides
    seeds: int
    rounds: int
    share: float
    least: int
    most: int

    @classmethod
    def read(cls, path: Path) -> OwnDataDefaults:
        """The defaults of a file. ValueError, naming it, where it does not hold each of them."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        fields = get_type_hints(cls)
        if not isinstance(values, dict) or values.keys() != fields.keys():
            raise ValueError(f"{path} must have {', '.join(fields)}, and nothing else")
        for name, value in values.items():
            is_number = type(value) in (fields[name], int) and name != "strategies"
            if name != "strategies" and not (is_number and 0 < value < float("inf")):
                raise ValueError(f"{path}: {name} must be a number over 0")
        pairs = values["strategies"].items() if isinstance(values["strategies"], dict) else [()]
        if not all(pair and isinstance(pair[0], str) and isinstance(pair[1], str | None) for pair in pairs):
            raise ValueError(f"{path}: strategies must be labels, each with the name of a capability or nothing")
        return cls(**values)

    def strategies_for(self, capabilities: frozenset[str]) -> list[str]:
        """The strategies for a task of these capabilities, what they need themselves aside."""
        return [label for label, wanted in self.strategies.items() if wanted is None or wanted in capabilities]

    def step_size(self, num_pool: int) -> int:
        """Images drawn at the start, and bought between two fits: a number of one significant digit, 1 or more."""
        wanted = int(min(max(self.share * num_pool, min(self.least, num_pool // 10)), self.most))
        return max(1, round(wanted, 1 - len(str(wanted))))

    def schedule_sizes(self, num_pool: int, overrides: Mapping[str, Any], num_validation: int) -> dict[str, int]:
        """A schedule for a pool: the sizes that are given, and others beside them.

        Args:
            num_pool: images in the pool.
            given: the settings of a schedule that somebody chose.
            num_aside: labels that are set aside where `given` does not say.
        """
        step, in_boxes = self.step_size(num_pool), overrides.get("budget_in") == "boxes"
        initial = overrides.get("initial", step if in_boxes else overrides.get("budget", step))
        budget = overrides.get("budget") or initial or step
        validation = overrides.get("validation", num_validation)
        affordable = self.rounds if in_boxes else max(0, num_pool - initial - validation) // abs(budget)
        rounds = min(self.rounds, affordable + (initial > 0))
        return {"initial": initial, "budget": budget, "rounds": max(1, rounds), "validation": validation} | {
            name: overrides[name] for name in SIZES if name in overrides
        }
