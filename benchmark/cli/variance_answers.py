"""The answers of `variance`: tables and figures of what makes runs differ, from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.analysis import variance
from benchmark.analysis.curves import Experiment
from benchmark.analysis.options import AnalysisOptions
from benchmark.analysis.variance import MEASURES, Components
from benchmark.cli.terminal import paragraphs, say, show
from benchmark.text.words import slug, unknown

NONE = "no set has its three runs, which vary training and selection alone: add sets=30, which runs them"


def show_variance(asked: AnalysisOptions) -> None:
    """Prints the components of each experiment, and writes tables and figures where tables go. ValueError where no
    experiment has them."""
    experiments = [one for one in asked.experiments() if one.variants]
    found = {one.title: components(one, asked) for one in experiments}
    found = {title: made for title, made in found.items() if made}
    if not found:
        raise ValueError(f"{', '.join(asked.places)}: {NONE}")
    if asked.folder is not None:
        if asked.to:
            asked.folder.mkdir(parents=True, exist_ok=True)
        for made in found.values():
            variance.write(made, asked.folder / "tables")
            draw(made, asked.folder)
    everything = [one for made in found.values() for one in made]
    if asked.format == "json":
        show("", [without_nan(row) for row in variance.tidy_rows(everything)], "json")
    else:
        rows = [{"table": title, **row} for title, made in found.items() for row in variance.rows(made)]
        titled = [{**row, "table": f"{row['table']}: variance of the {row['of']}"} for row in rows]
        bare = [{name: value for name, value in row.items() if name != "of"} for row in titled]
        show("", bare, by=["table"], note=variance.note(everything))
        paragraphs(list(filter(None, map(variance.advice, found.values()))))
    for one in experiments:
        for line in variance.remarks(one, found[one.title]) if one.title in found else ():
            say(line)
    told = "nothing is written: to=FOLDER writes tables and figures"
    say(told if asked.folder is None else f"tables written to {asked.folder / 'tables' / 'variance'}")


def components(experiment: Experiment, asked: AnalysisOptions) -> list[Components]:
    """The components of an experiment. ValueError where it lacks the reference."""
    against = asked.reference or experiment.reference or ""
    if asked.reference and against not in experiment.curves:
        raise ValueError(f"{experiment.title} has no strategy {unknown(against, experiment.curves)}")
    return variance.variances(experiment, against, asked.price(experiment), asked.level, asked.seed)


def draw(made: Sequence[Components], folder: Path) -> None:
    """figures/NAME-variance-MEASURE.png, .svg and .pdf of one experiment."""
    from benchmark.analysis.figures import style  # matplotlib takes a second to import
    from benchmark.analysis.figures.variance import variance_components

    looks = style.colours(one.strategy for one in made)
    for measure in MEASURES:
        figure = variance_components([one for one in made if one.measure == measure], looks)
        if figure is not None:
            style.save(figure, folder / "figures" / f"{slug(made[0].experiment)}-variance-{measure}")


def without_nan(row: dict[str, object]) -> dict[str, object]:
    """A row for JSON: null where an interval has no ends."""
    return {name: None if value != value else value for name, value in row.items()}
