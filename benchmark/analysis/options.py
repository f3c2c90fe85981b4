"""The settings of the commands that read records. Imports neither torch nor hydra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.analysis.curves import Experiment
from benchmark.analysis.reading import chosen, read, sizes
from benchmark.analysis.savings import Price, Rule, Saving, generator, own_rule, pairs_of, savings
from benchmark.analysis.settings import AnalysisSettings, taken_by
from benchmark.plugins.places import expanded, folders, grids, nameable
from benchmark.plugins.settings import read_settings
from benchmark.records.anonymous import redacted
from benchmark.text import quoted
from benchmark.text.words import unknown

PUBLISHED = next(  # beside the installed package, or in a checkout
    folder
    for home in (Path(__file__).parents[1], Path(__file__).parents[2] / "results")
    if (folder := home / "published").is_dir()
)
MANY_CELLS = 2_000


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions(AnalysisSettings):
    """The settings of a command that reads records, and what they choose."""

    @property
    def places(self) -> list[str]:
        """Where the records are: `out` is one folder, `records` any number of paths."""
        out = self.out or f"results/{self.grid}"
        if not (self.records or self.out or os.path.exists(out) or self.grid in grids()):
            raise ValueError(f"no grid is called {unknown(self.grid, grids())}")
        return (
            located(self.records, "records") if self.records else [nameable(expanded(out, f"out={out}"), f"out={out}")]
        )

    @property
    def compared_with(self) -> list[str]:
        """Where the curves of `against` are; none where there are none."""
        return located(self.against, "against") if self.against else []

    @property
    def folder(self) -> Path | None:
        """Where what is made of them goes: `to`, or the results folder that `out` or `grid` names. None: nowhere, since
        what lies beside `records` may be somebody else's."""
        if self.to:
            return Path(expanded(self.to, f"to={self.to}"))
        return None if self.records else Path(self.places[0])

    def rule(self, experiment: Experiment) -> Rule:
        """The rule of `at`, or the experiment's own."""
        return Rule.read(self.at) if self.at else own_rule(experiment)

    def experiments(self, only: str = "") -> list[Experiment]:
        """What is asked about; only: the experiment of that name. ValueError where there is nothing."""
        experiments = chosen(read(self.places, only), self.task)
        return nameless(experiments) if self.anonymous else experiments

    def parts(self) -> list[str]:
        """Names of experiments that are worth a process each: where they have thousands of cells. [""]: all in one."""
        found = {} if self.task else sizes(self.places)
        return list(found) if sum(found.values()) > MANY_CELLS else [""]

    def savings(self) -> tuple[list[Saving], list[str]]:
        """What `strategy` saves against `against`, and which pairs are refused and why."""
        return self.savings_of(self.experiments())

    def savings_of(self, experiments: Sequence[Experiment]) -> tuple[list[Saving], list[str]]:
        """The same, of these experiments."""
        made, refused = list[Saving](), list[str]()
        if self.at:
            Rule.read(self.at)
        for one, a, b in pairs_of(experiments, labels(self.strategy), labels(self.against)):
            try:
                rng = generator(one, a, b, self.seed)
                made += savings(one, a, b, self.rule(one), self.price(one), rng, self.level)
            except ValueError as error:
                refused.append(f"{one.title}: {error}")
        if not made:
            raise ValueError(refused[0] if refused else "these records hold no pair of strategies to compare")
        return made, refused

    def price(self, experiment: Experiment) -> Price:
        """The cost asked for, or the experiment's own."""
        kind = self.cost or ("boxes" if experiment.counts_boxes else "images")
        return Price(kind, self.seconds_per_image, self.seconds_per_box)


def nameless(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Experiments under titles, and strategies under labels, that tell no folder. ValueError: two are alike then."""
    renamed = [
        replace(
            one, title=redacted(one.title), source=redacted(one.source),
            curves={redacted(name): replace(curve, strategy=redacted(name)) for name, curve in one.curves.items()},
            runs=tuple(replace(run, strategy=redacted(run.strategy)) for run in one.runs),
            variants=tuple(replace(run, strategy=redacted(run.strategy)) for run in one.variants),
        )
        for one in experiments
    ]  # fmt: skip
    titles = [one.title for one in renamed]
    labels = [len(one.curves) for one in renamed]
    if len({*titles}) < len(titles) or labels != [len(one.curves) for one in experiments]:
        raise ValueError("anonymous=true: two names differ by their folders alone: write one at a time, with task=NAME")
    return renamed


def parse_options(words: Sequence[str], verb: str) -> AnalysisOptions:
    """Settings from the words of a command. ValueError, in one line, for what does not fit."""
    return AnalysisOptions(**read_settings(words, taken_by(verb)))


def located(records: str, key: str) -> list[str]:
    """The paths of a setting, with `published` as the folder of published curves, unless there is such a path."""
    parts = folders(records, f"{key}={records}")
    return [str(PUBLISHED) if part == "published" and not Path(part).exists() else part for part in parts]


def labels(text: str) -> list[str]:
    """Strategy labels separated by commas outside brackets."""
    return [part.strip() for part in quoted.split(text) if part.strip()]
