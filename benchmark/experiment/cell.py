"""One run of the active-learning loop: what is run, under which label, key and path."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.experiment.variants import ORDINARY, Variant
from benchmark.plugins.capabilities import LABEL_NEEDS, MODEL_FREE, describe_needs
from benchmark.text.words import slug


@dataclass(frozen=True)
class Cell:
    """One run of the active-learning loop. Whatever can change a number is in it, nothing else is."""

    task: Spec
    strategy: Spec
    schedule: Schedule
    seed: int
    variant: Variant = ORDINARY

    @property
    def label(self) -> str:
        """How people name it."""
        return f"{self.task.label} {self.schedule.label} {self.name}"

    @property
    def name(self) -> str:
        """How people name it among the cells of its experiment."""
        return f"{self.strategy.label} seed {self.seed}{self.variant.description}"

    def identity(self, only_non_defaults: bool = False) -> dict[str, Any]:
        """Task, strategy, schedule, seed and variant with both versions and every parameter, or with those `told`."""
        return {
            "task": self.task.identity(only_non_defaults),
            "strategy": self.strategy.identity(only_non_defaults),
            "schedule": self.schedule.identity(),
            "seed": self.seed,
            **self.variant.non_defaults,
        }

    @property
    def key(self) -> str:
        """A hash of `identity`: no time, host or commit in it."""
        return hashlib.sha256(json.dumps(self.identity(only_non_defaults=True), sort_keys=True).encode()).hexdigest()[
            :16
        ]

    @property
    def path(self) -> str:
        """Where its files are, relative to the results' sub-folders, without an ending."""
        name = f"seed-{self.seed}{self.variant.file_suffix}"
        return "/".join((slug(self.task.label), self.schedule.label, slug(self.strategy.label), name))

    @property
    def has_companion(self) -> bool:
        """Whether the strategy trains something beside the model, so that its round 0 is its own."""
        return self.strategy.plugin.resolve_declaration("companion", self.strategy.values) is not None

    @property
    def daggers(self) -> tuple[str, ...]:
        """Why its rows carry a dagger, a sentence each: labels that shaped the selection without being paid for."""
        reads_test = "test_labels" in self.strategy.needs
        revealed = self.task.plugin.resolve_declaration("label_leakage", self.task.values)
        return tuple(filter(None, (SAW_EVALUATION_LABELS if reads_test else "", revealed)))

    @property
    def is_runnable(self) -> bool:
        """Whether `check` passes."""
        _ = self.strategy.needs, self.task.plugin.capabilities(self.task.values)  # an error of a plug-in is no answer
        try:
            self.check_needs()
        except ValueError:
            return False
        return True

    def check_needs(self) -> None:
        """ValueError where the task lacks what the strategy needs."""
        needs = self.strategy.needs
        lacking = needs - LABEL_NEEDS - self.task.plugin.capabilities(self.task.values)
        if lacking:
            raise ValueError(
                f"{self.strategy.label} needs {describe_needs(lacking)}: {self.task.label} does not give that"
            )
        if not self.schedule.initial and (asked := needs - MODEL_FREE):
            told = f"{self.strategy.label} asks a model for {describe_needs(asked)}"
            raise ValueError(f"initial=0: {told}, and before the first label there is none: set initial=N")
        if "held_out" in needs and not self.schedule.validation:
            raise ValueError(
                f"{self.strategy.label} reads labels that are set aside: set validation=N (N images, charged to it)"
            )


SAW_EVALUATION_LABELS = "selection saw evaluation labels"  # the dagger of a strategy that reads the test set's labels
