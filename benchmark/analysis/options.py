"""The options of the commands that read records, and what they select. Imports neither torch nor Hydra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.analysis.class_scores import ClassScore, compare_by_metric
from benchmark.analysis.curves import Experiment
from benchmark.analysis.load_experiments import count_cells, read_experiments, select_experiments
from benchmark.analysis.savings import (
    Price,
    Saving,
    TargetRule,
    bootstrap_generator,
    compute_savings,
    default_rule,
    strategy_pairs,
)
from benchmark.analysis.settings import AnalysisSettings, setting_types
from benchmark.plugins.key_value import read_settings
from benchmark.plugins.paths import check_name_length, expand_home, grid_names, parse_paths
from benchmark.records.anonymous import redact
from benchmark.text import notation
from benchmark.text.words import did_you_mean

PUBLISHED_FOLDER = next(  # in the installed package, or in a checkout
    folder
    for home in (Path(__file__).parents[1], Path(__file__).parents[2] / "results")
    if (folder := home / "published").is_dir()
)
PARALLEL_MIN_CELLS = 2_000  # cells above which each experiment is read in a process of its own


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions(AnalysisSettings):
    """The settings of a command that reads records, with the paths, experiments and prices that they select."""

    @property
    def record_paths(self) -> list[str]:
        """The paths of the records: one folder for `out` and `grid`, any number of paths for `records`."""
        if self.records:
            return resolve_paths(self.records, "records")
        out = self.out or f"results/{self.grid}"
        if not (self.out or os.path.exists(out) or self.grid in grid_names()):
            raise ValueError(f"no grid is called {did_you_mean(self.grid, grid_names())}")
        return [check_name_length(expand_home(out, f"out={out}"), f"out={out}")]

    @property
    def published_paths(self) -> list[str]:
        """The paths of published curves that `against` names; empty where it is not set."""
        return resolve_paths(self.against, "against") if self.against else []

    @property
    def output_folder(self) -> Path | None:
        """The folder that output is written to: `to`, or the results folder of `out` or `grid`.

        It is None where only `records` is given: nothing is written beside records that may belong to somebody else.
        """
        if self.to:
            return Path(expand_home(self.to, f"to={self.to}"))
        return None if self.records else Path(self.record_paths[0])

    def saving_rule(self, experiment: Experiment) -> TargetRule:
        """Returns the rule that `at` names, or the default rule of the experiment."""
        return TargetRule.read(self.at) if self.at else default_rule(experiment)

    def read_experiments(self, title: str = "") -> list[Experiment]:
        """Reads the experiments that the settings select; only that of this title where one is given.

        Raises:
            ValueError: nothing is selected.
        """
        experiments = select_experiments(read_experiments(self.record_paths, title), self.task)
        return anonymize(experiments) if self.anonymous else experiments

    def parallel_titles(self) -> list[str]:
        """Returns the titles of experiments to read in a process each; [""], for all in one, if they have few cells."""
        num_cells = {} if self.task else count_cells(self.record_paths)
        return list(num_cells) if sum(num_cells.values()) > PARALLEL_MIN_CELLS else [""]

    def compute_savings(self) -> tuple[list[Saving], list[str]]:
        """Computes what `strategy` saves compared with `against` in the experiments that the settings select.

        Returns:
            The savings, and a line for each pair of strategies that cannot be compared.

        Raises:
            ValueError: no pair can be compared.
        """
        return self.compute_savings_of(self.read_experiments())

    def compute_savings_of(self, experiments: Sequence[Experiment]) -> tuple[list[Saving], list[str]]:
        """Computes the same as `compute_savings` for these experiments."""
        all_savings, refusals = list[Saving](), list[str]()
        if self.at:
            TargetRule.read(self.at)
        pairs = strategy_pairs(experiments, split_labels(self.strategy), split_labels(self.against))
        for experiment, a, b in pairs:
            try:
                rng = bootstrap_generator(experiment, a, b, self.seed)
                rule, price = self.saving_rule(experiment), self.price(experiment)
                all_savings += compute_savings(experiment, a, b, rule, price, rng, self.level)
            except ValueError as error:
                refusals.append(f"{experiment.title}: {error}")
        if not all_savings:
            raise ValueError(refusals[0] if refusals else "these records hold no pair of strategies to compare")
        return all_savings, refusals

    def compare_classes(self, experiments: Sequence[Experiment]) -> list[tuple[Experiment, list[ClassScore]]]:
        """Compares the scores of single classes of `strategy` with those of `against`; of all with the reference.

        Returns:
            The experiments that have such scores, each with its own.

        Raises:
            ValueError: no experiment has the strategies, the round, or scores of single classes.
        """
        self.check_round(experiments)
        labels = split_labels(self.strategy)
        known = list(dict.fromkeys(name for experiment in experiments for name in experiment.curves))
        if unknown := [name for name in (*labels, *split_labels(self.against)) if name not in known]:
            raise ValueError(f"these records have no strategy {did_you_mean(unknown[0], known)}")
        compared = []
        for experiment in (member for member in experiments if self.against in ("", *member.curves)):
            rows = compare_by_metric(experiment, self.round, self.level, self.against)
            compared.append((experiment, [row for row in rows if not labels or row.strategy in (row.against, *labels)]))
        if not any(rows for _, rows in compared):
            raise ValueError(
                "no scores of single classes are recorded there: not all tasks and older releases have them"
            )
        return [(experiment, rows) for experiment, rows in compared if rows]

    def check_round(self, experiments: Sequence[Experiment]) -> None:
        """Raises ValueError where `round` is a round of none of these experiments."""
        last = max(experiment.rounds[-1] for experiment in experiments)
        if self.round is not None and self.round > last:
            raise ValueError(f"round={self.round}: the last round of these records is {last}")

    def price(self, experiment: Experiment) -> Price:
        """Returns the price that `cost` names; else boxes where the experiment counts them, and images where not."""
        kind = self.cost or ("boxes" if experiment.counts_boxes else "images")
        return Price(kind, self.seconds_per_image, self.seconds_per_box)


def anonymize(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Removes folders from the titles of experiments and the labels of strategies.

    Raises:
        ValueError: two names become equal.
    """
    renamed = [
        replace(
            experiment, title=redact(experiment.title), source=redact(experiment.source),
            curves={redact(name): replace(curve, strategy=redact(name)) for name, curve in experiment.curves.items()},
            runs=tuple(replace(run, strategy=redact(run.strategy)) for run in experiment.runs),
            variant_runs=tuple(replace(run, strategy=redact(run.strategy)) for run in experiment.variant_runs),
        )
        for experiment in experiments
    ]  # fmt: skip
    titles = [experiment.title for experiment in renamed]
    num_labels = [len(experiment.curves) for experiment in renamed]
    if len({*titles}) < len(titles) or num_labels != [len(experiment.curves) for experiment in experiments]:
        raise ValueError("anonymous=true: two names differ by their folders alone: write one at a time, with task=NAME")
    return renamed


def parse_options(arguments: Sequence[str], verb: str) -> AnalysisOptions:
    """Parses the `key=value` arguments of a command.

    Args:
        arguments: the arguments as they were typed.
        verb: the command.

    Raises:
        ValueError: an argument is no setting of the command, or has no valid value; the message is one line.
    """
    return AnalysisOptions(**read_settings(arguments, setting_types(verb)))


def resolve_paths(paths: str, setting: str) -> list[str]:
    """Returns the paths of a setting; `published` is the folder of published curves where no such path exists."""
    parts = parse_paths(paths, f"{setting}={paths}")
    return [str(PUBLISHED_FOLDER) if part == "published" and not Path(part).exists() else part for part in parts]


def split_labels(text: str) -> list[str]:
    """Splits strategy labels at the commas outside brackets."""
    return [part.strip() for part in notation.split_commas(text) if part.strip()]
