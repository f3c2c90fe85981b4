"""The settings of the commands that read records. Imports neither torch nor hydra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.analysis.curves import Experiment
from benchmark.analysis.reading import count_cells, read_experiments, select_experiments
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
from benchmark.plugins.paths import check_name_length, expand_home, grid_names, parse_paths
from benchmark.plugins.settings import read_settings
from benchmark.records.anonymous import redact
from benchmark.text import notation
from benchmark.text.words import did_you_mean

PUBLISHED_FOLDER = next(  # beside the installed package, or in a checkout
    folder
    for home in (Path(__file__).parents[1], Path(__file__).parents[2] / "results")
    if (folder := home / "published").is_dir()
)
PARALLEL_MIN_CELLS = 2_000


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions(AnalysisSettings):
    """The settings of a command that reads records, and what they choose."""

    @property
    def record_paths(self) -> list[str]:
        """Where the records are: `out` is one folder, `records` any number of paths."""
        out = self.out or f"results/{self.grid}"
        if not (self.records or self.out or os.path.exists(out) or self.grid in grid_names()):
            raise ValueError(f"no grid is called {did_you_mean(self.grid, grid_names())}")
        return (
            resolve_paths(self.records, "records")
            if self.records
            else [check_name_length(expand_home(out, f"out={out}"), f"out={out}")]
        )

    @property
    def published_paths(self) -> list[str]:
        """Where the curves of `against` are; none where there are none."""
        return resolve_paths(self.against, "against") if self.against else []

    @property
    def output_folder(self) -> Path | None:
        """Where what is made of them goes: `to`, or the results folder that `out` or `grid` names. None: nowhere, since
        what lies beside `records` may be somebody else's."""
        if self.to:
            return Path(expand_home(self.to, f"to={self.to}"))
        return None if self.records else Path(self.record_paths[0])

    def saving_rule(self, experiment: Experiment) -> TargetRule:
        """The rule of `at`, or the experiment's own."""
        return TargetRule.read(self.at) if self.at else default_rule(experiment)

    def read_experiments(self, title: str = "") -> list[Experiment]:
        """What is asked about; only: the experiment of that name. ValueError where there is nothing."""
        experiments = select_experiments(read_experiments(self.record_paths, title), self.task)
        return anonymize(experiments) if self.anonymous else experiments

    def parallel_titles(self) -> list[str]:
        """Names of experiments that are worth a process each: where they have thousands of cells. [""]: all in one."""
        found = {} if self.task else count_cells(self.record_paths)
        return list(found) if sum(found.values()) > PARALLEL_MIN_CELLS else [""]

    def compute_savings(self) -> tuple[list[Saving], list[str]]:
        """What `strategy` saves against `against`, and which pairs are refused and why."""
        return self.compute_savings_of(self.read_experiments())

    def compute_savings_of(self, experiments: Sequence[Experiment]) -> tuple[list[Saving], list[str]]:
        """The same, of these experiments."""
        made, refused = list[Saving](), list[str]()
        if self.at:
            TargetRule.read(self.at)
        for one, a, b in strategy_pairs(experiments, split_labels(self.strategy), split_labels(self.against)):
            try:
                rng = bootstrap_generator(one, a, b, self.seed)
                made += compute_savings(one, a, b, self.saving_rule(one), self.price(one), rng, self.level)
            except ValueError as error:
                refused.append(f"{one.title}: {error}")
        if not made:
            raise ValueError(refused[0] if refused else "these records hold no pair of strategies to compare")
        return made, refused

    def price(self, experiment: Experiment) -> Price:
        """The cost asked for, or the experiment's own."""
        kind = self.cost or ("boxes" if experiment.counts_boxes else "images")
        return Price(kind, self.seconds_per_image, self.seconds_per_box)


def anonymize(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Experiments under titles, and strategies under labels, that tell no folder. ValueError: two are alike then."""
    renamed = [
        replace(
            one, title=redact(one.title), source=redact(one.source),
            curves={redact(name): replace(curve, strategy=redact(name)) for name, curve in one.curves.items()},
            runs=tuple(replace(run, strategy=redact(run.strategy)) for run in one.runs),
            variant_runs=tuple(replace(run, strategy=redact(run.strategy)) for run in one.variant_runs),
        )
        for one in experiments
    ]  # fmt: skip
    titles = [one.title for one in renamed]
    labels = [len(one.curves) for one in renamed]
    if len({*titles}) < len(titles) or labels != [len(one.curves) for one in experiments]:
        raise ValueError("anonymous=true: two names differ by their folders alone: write one at a time, with task=NAME")
    return renamed


def parse_options(arguments: Sequence[str], verb: str) -> AnalysisOptions:
    """Settings from the words of a command. ValueError, in one line, for what does not fit."""
    return AnalysisOptions(**read_settings(arguments, setting_types(verb)))


def resolve_paths(paths: str, setting: str) -> list[str]:
    """The paths of a setting, with `published` as the folder of published curves, unless there is such a path."""
    parts = parse_paths(paths, f"{setting}={paths}")
    return [str(PUBLISHED_FOLDER) if part == "published" and not Path(part).exists() else part for part in parts]


def split_labels(text: str) -> list[str]:
    """Strategy labels separated by commas outside brackets."""
    return [part.strip() for part in notation.split_commas(text) if part.strip()]
