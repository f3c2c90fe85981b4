"""Defaults for a task that the grid does not have: strategies, and a schedule according to the size of its pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

SIZES = ("initial", "budget", "rounds", "validation")  # settings that are chosen according to the size of the pool


@dataclass(frozen=True)
class OwnDataDefaults:
    """The content of configs/own_data.yaml, which explains the fields."""

    strategies: dict[str, str | None]  # by label: a further capability that the task must have, or None
    seeds: int
    rounds: int
    share: float
    least: int
    most: int

    @classmethod
    def read(cls, path: Path) -> OwnDataDefaults:
        """Reads the defaults from a file. ValueError, naming the file, where a field is missing or wrong."""
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
                raise ValueError(f"{path}: {name} must be a number greater than 0")
        pairs = values["strategies"].items() if isinstance(values["strategies"], dict) else [()]
        if not all(pair and isinstance(pair[0], str) and isinstance(pair[1], str | None) for pair in pairs):
            raise ValueError(f"{path}: strategies must be labels, each with the name of a capability or nothing")
        return cls(**values)

    def strategies_for(self, capabilities: frozenset[str]) -> list[str]:
        """The labels of the default strategies for a task with these capabilities; needs are not checked here."""
        return [
            label for label, capability in self.strategies.items() if capability is None or capability in capabilities
        ]

    def step_size(self, num_pool: int) -> int:
        """The number of images labelled at the start and per budget: rounded to one significant digit, at least 1."""
        size = int(min(max(self.share * num_pool, min(self.least, num_pool // 10)), self.most))
        return max(1, round(size, 1 - len(str(size))))

    def schedule_sizes(self, num_pool: int, overrides: Mapping[str, Any], num_validation: int) -> dict[str, int]:
        """Chooses the sizes of a schedule for a pool; sizes in `overrides` stay.

        Args:
            num_pool: number of images in the pool.
            overrides: settings of the schedule that were set.
            num_validation: number of held-out labels where `overrides` does not set it.

        Returns:
            Values of SIZES.
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
