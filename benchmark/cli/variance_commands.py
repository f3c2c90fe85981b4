"""The answers of `variance`: tables and figures of what makes runs differ, from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.analysis import variance
from benchmark.analysis.curves import Experiment
from benchmark.analysis.options import AnalysisOptions
from benchmark.analysis.variance import MEASURES, VarianceComponents
from benchmark.cli.terminal import print_paragraphs, print_rows, say
from benchmark.text.words import did_you_mean, slug

NO_COMPONENTS = "no set has its three runs, which vary training and selection alone: add sets=30, which runs them"


def show_variance(options: AnalysisOptions) -> None:
    """Prints the components of each experiment, and writes tables and figures where tables go. ValueError where no
    experiment has them."""
    experiments = [one for one in options.read_experiments() if one.variant_runs]
    found = {one.title: compute_components(one, options) for one in experiments}
    found = {title: made for title, made in found.items() if made}
    if not found:
        raise ValueError(f"{', '.join(options.record_paths)}: {NO_COMPONENTS}")
    if options.output_folder is not None:
        if options.to:
            options.output_folder.mkdir(parents=True, exist_ok=True)
        for made in found.values():
            variance.write_tables(made, options.output_folder / "tables")
            draw_components(made, options.output_folder)
    everything = [one for made in found.values() for one in made]
    if options.format == "json":
        print_rows("", [replace_nan(row) for row in variance.tidy_rows(everything)], "json")
    else:
        rows = [{"table": title, **row} for title, made in found.items() for row in variance.rows(made)]
        titled = [{**row, "table": f"{row['table']}: variance of the {row['of']}"} for row in rows]
        bare = [{name: value for name, value in row.items() if name != "of"} for row in titled]
        print_rows("", bare, group_by=["table"], note=variance.note(everything))
        print_paragraphs(list(filter(None, map(variance.advice, found.values()))))
    for one in experiments:
        for line in variance.remarks(one, found[one.title]) if one.title in found else ():
            say(line)
    told = "nothing is written: to=FOLDER writes tables and figures"
    say(told if options.output_folder is None else f"tables written to {options.output_folder / 'tables' / 'variance'}")


def compute_components(experiment: Experiment, options: AnalysisOptions) -> list[VarianceComponents]:
    """The components of an experiment. ValueError where it lacks the reference."""
    against = options.reference or experiment.reference or ""
    if options.reference and against not in experiment.curves:
        raise ValueError(f"{experiment.title} has no strategy {did_you_mean(against, experiment.curves)}")
    return variance.strategy_components(experiment, against, options.price(experiment), options.level, options.seed)


def draw_components(components: Sequence[VarianceComponents], folder: Path) -> None:
    """figures/NAME-variance-MEASURE.png, .svg and .pdf of one experiment."""
    from benchmark.analysis.figures import style  # matplotlib takes a second to import
    from benchmark.analysis.figures.variance import variance_components

    looks = style.strategy_styles(one.strategy for one in components)
    for measure in MEASURES:
        figure = variance_components([one for one in components if one.measure == measure], looks)
        if figure is not None:
            style.save_figure(figure, folder / "figures" / f"{slug(components[0].experiment)}-variance-{measure}")


def replace_nan(row: dict[str, object]) -> dict[str, object]:
    """A row for JSON: null where an interval has no ends."""
    return {name: None if value != value else value for name, value in row.items()}
