"""What an analysis command is asked, in `key=value` words. Imports neither torch nor hydra."""

from __future__ import annotations

import os
import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmark.analysis.curves import Experiment, chosen, read, sizes
from benchmark.analysis.savings import Price, Rule, Saving, generator, own_rule, pairs_of, savings
from benchmark.plugins.places import check_literal, expanded, folders, grids, nameable
from benchmark.plugins.registry import checked
from benchmark.records.anonymous import redacted
from benchmark.text.quoted import split
from benchmark.text.words import unknown

PUBLISHED = next(  # beside the installed package, or in a checkout
    folder
    for home in (Path(__file__).parents[1], Path(__file__).parents[2] / "results")
    if (folder := home / "published").is_dir()
)
MANY_CELLS = 2_000
RECORDS = ("grid", "out", "records", "task")  # keys of every command: what is asked about
SAVINGS = ("strategy", "against", "at", "cost", "seconds_per_image", "seconds_per_box", "level", "seed")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What may be asked; each command takes RECORDS and the keys that it names."""

    grid: str = "quick"
    out: str = ""  # the results folder; results/GRID
    records: str = ""  # instead of it: results folders, CSV files and folders of them, see places.folders; `published`
    task: str = ""  # one experiment or task; all
    strategy: str = ""  # one or more, separated by commas; all
    against: str = ""  # strategies, or records to compare with: `published`
    reference: str = ""  # what `variance` compares with; the experiment's own
    at: str = ""  # see savings.Rule; the experiment's own
    cost: Literal["", "images", "boxes", "time"] = ""  # boxes where they are counted
    seconds_per_image: float = 7.8  # looking an image through for what is missed (Su et al., 2012, median)
    seconds_per_box: float = 34.5  # drawing a box and checking it (the same: 25.5 + 9.0)
    level: float = 0.95  # of intervals and tests
    seed: int = 0  # of the bootstrap and of drawn sign flips
    to: str = ""  # the folder that is written to; with `records` nothing is written without it
    format: Literal["text", "json"] = "text"
    anonymous: bool = False  # what is written tells no folder, user, host or commit

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level}: must be between 0 and 1")
        for name in ("seconds_per_image", "seconds_per_box"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 0")
        if self.cost == "time" and not self.seconds_per_image + self.seconds_per_box:
            raise ValueError("cost=time: seconds_per_image and seconds_per_box are both 0")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: must be at least 0")
        if self.records and self.out:
            raise ValueError("records= and out= name the same thing: give one of them")

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


def ask(words: Sequence[str], *more: str) -> Question:
    """A question from words; `more`: the keys that the command takes besides RECORDS. ValueError in one line."""
    kinds = typing.get_type_hints(Question)
    keys = (*RECORDS, *more)
    given = {}
    for word in words:
        key, equals, value = check_literal(word).partition("=")
        if not equals:
            raise ValueError(
                f"{word!r} is not key=value; a value with spaces or brackets goes into quotes: 'key=value'"
            )
        if key not in keys:
            raise ValueError(f"no setting of this command is called {unknown(key, keys)}")
        given[key] = checked(word, value, kinds[key])
    return Question(**given)


def located(records: str, key: str) -> list[str]:
    """The paths of a setting, with `published` as the folder of published curves, unless there is such a path."""
    parts = folders(records, f"{key}={records}")
    return [str(PUBLISHED) if part == "published" and not Path(part).exists() else part for part in parts]


def labels(text: str) -> list[str]:
    """Strategy labels separated by commas outside brackets."""
    return [part.strip() for part in split(text) if part.strip()]
