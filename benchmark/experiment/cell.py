"""A cell: one run of the active-learning loop, with its label, key and path."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.experiment.variants import ORDINARY, Variant
from benchmark.plugins.capability_names import LABEL_NEEDS, MODEL_FREE, describe_needs
from benchmark.text.words import slug


@dataclass(frozen=True)
class Cell:
    """One run of the active-learning loop. It holds everything that can change a number, and nothing else."""

    task: Spec
    strategy: Spec
    schedule: Schedule
    seed: int
    variant: Variant = ORDINARY

    @property
    def label(self) -> str:
        """Its name in output, unique in a grid."""
        return f"{self.task.label} {self.schedule.label} {self.name}"

    @property
    def name(self) -> str:
        """Its name among the cells of its experiment: strategy, seed and variant."""
        return f"{self.strategy.label} seed {self.seed}{self.variant.description}"

    def identity(self, only_non_defaults: bool = False) -> dict[str, Any]:
        """Task, strategy, schedule, seed and variant, with the versions of both plug-ins.

        Args:
            only_non_defaults: leave out parameters at their default value.
        """
        return {
            "task": self.task.identity(only_non_defaults),
            "strategy": self.strategy.identity(only_non_defaults),
            "schedule": self.schedule.identity(),
            "seed": self.seed,
            **self.variant.non_defaults,
            **({"initial_by": by.identity(only_non_defaults)} if (by := self.initial_strategy) else {}),
        }

    @property
    def initial_strategy(self) -> Spec | None:
        """The strategy that selects the initial images; None where they are drawn at random."""
        return Spec.read("strategy", self.schedule.initial_by) if self.schedule.initial_by else None

    @property
    def key(self) -> str:
        """A hash of `identity` without parameters at their default. It depends on no time, host or commit."""
        return hashlib.sha256(json.dumps(self.identity(only_non_defaults=True), sort_keys=True).encode()).hexdigest()[
            :16
        ]

    @property
    def path(self) -> str:
        """The path of its files inside the sub-folders of a results folder, without a suffix."""
        name = f"seed-{self.seed}{self.variant.file_suffix}"
        return "/".join((slug(self.task.label), self.schedule.label, slug(self.strategy.label), name))

    @property
    def has_companion(self) -> bool:
        """Whether the strategy trains a companion beside the model, so that it shares no round, not even round 0."""
        return self.strategy.plugin.resolve_declaration("companion", self.strategy.values) is not None

    @property
    def daggers(self) -> tuple[str, ...]:
        """The reasons for a dagger at its rows, a sentence each: unpaid labels that influenced the selection."""
        reads_test = "test_labels" in self.strategy.needs
        leakage = self.task.plugin.resolve_declaration("label_leakage", self.task.values)
        return tuple(filter(None, (SAW_EVALUATION_LABELS if reads_test else "", leakage)))

    @property
    def is_runnable(self) -> bool:
        """Whether `check_needs` passes. Errors of the plug-ins themselves are raised."""
        _ = self.strategy.needs, self.task.plugin.capabilities(self.task.values)  # raises errors of plug-ins
        try:
            self.check_needs()
        except ValueError:
            return False
        return True

    def check_needs(self) -> None:
        """ValueError where the task or the schedule does not provide what the strategy needs."""
        needs = self.strategy.needs
        missing = needs - LABEL_NEEDS - self.task.plugin.capabilities(self.task.values)
        if missing:
            raise ValueError(
                f"{self.strategy.label} needs {describe_needs(missing)}: {self.task.label} does not provide it"
            )
        if not self.schedule.initial and (model_needs := self.strategy.needs_without_labels - MODEL_FREE):
            uses = "labelled images" if model_needs == {"labels"} else "a trained model"
            reason = f"{self.strategy.label} uses {uses}: {describe_needs(model_needs)}"
            raise ValueError(f"initial=0: {reason}. There is no model before the first labels: set initial=N")
        if self.initial_strategy is not None:
            self.check_initial_strategy(self.initial_strategy)
        if "held_out" in needs and not self.schedule.validation:
            raise ValueError(
                f"{self.strategy.label} reads held-out labels: set validation=N (N images, which it pays for)"
            )

    def check_initial_strategy(self, strategy: Spec) -> None:
        """ValueError where the strategy of `initial_by` cannot select without a model, or not on this task."""
        needs = strategy.needs_without_labels
        if model_needs := needs - MODEL_FREE:
            uses = "labelled images" if model_needs == {"labels"} else "a trained model"
            reason = f"{strategy.label} uses {uses}: {describe_needs(model_needs)}"
            raise ValueError(f"initial_by={strategy.label}: {reason}. There is no model before the first labels")
        if missing := needs - self.task.plugin.capabilities(self.task.values):
            raise ValueError(
                f"initial_by={strategy.label} needs {describe_needs(missing)}: {self.task.label} does not provide it"
            )


SAW_EVALUATION_LABELS = "selection saw evaluation labels"  # the dagger of a strategy that reads labels of the test set
