"""The command `variance` on existing records: tables and figures of the components of the variance between runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.analysis import variance
from benchmark.analysis.curves import Experiment
from benchmark.analysis.options import AnalysisOptions
from benchmark.analysis.variance import MEASURES, VarianceComponents
from benchmark.cli.terminal import print_paragraphs, print_rows, say
from benchmark.text.words import did_you_mean, slug

NO_COMPONENTS = "no initial set has the three runs with varied training and selection: add sets=30, which runs them"


def show_variance(options: AnalysisOptions) -> None:
    """Prints the variance components of each experiment, and writes tables and figures into the output folder.

    Raises:
        ValueError: no experiment has the runs that the components are estimated from.
    """
    experiments = [experiment for experiment in options.read_experiments() if experiment.variant_runs]
    all_components = {experiment.title: compute_components(experiment, options) for experiment in experiments}
    all_components = {title: components for title, components in all_components.items() if components}
    if not all_components:
        raise ValueError(f"{', '.join(options.record_paths)}: {NO_COMPONENTS}")
    if options.output_folder is not None:
        if options.to:
            options.output_folder.mkdir(parents=True, exist_ok=True)
        for components in all_components.values():
            variance.write_tables(components, options.output_folder / "tables")
            draw_components(components, options.output_folder)
    flat = [component for components in all_components.values() for component in components]
    if options.format == "json":
        print_rows("", [replace_nan(row) for row in variance.tidy_rows(flat)], "json")
    else:
        rows = [
            {"table": title, **row} for title, components in all_components.items() for row in variance.rows(components)
        ]
        titled = [{**row, "table": f"{row['table']}: variance of the {row['of']}"} for row in rows]
        shown_rows = [{name: value for name, value in row.items() if name != "of"} for row in titled]
        print_rows("", shown_rows, group_by=["table"], note=variance.note(flat))
        print_paragraphs(list(filter(None, map(variance.advice, all_components.values()))))
    for experiment in experiments:
        if experiment.title in all_components:
            for line in variance.remarks(experiment, all_components[experiment.title]):
                say(line)
    hint = "no files are written: add to=FOLDER to write tables and figures"
    say(hint if options.output_folder is None else f"tables written to {options.output_folder / 'tables' / 'variance'}")


def compute_components(experiment: Experiment, options: AnalysisOptions) -> list[VarianceComponents]:
    """Estimates the variance components of an experiment. ValueError where the reference has no records."""
    against = options.reference or experiment.reference or ""
    if options.reference and against not in experiment.curves:
        raise ValueError(f"{experiment.title} has no strategy {did_you_mean(against, experiment.curves)}")
    return variance.strategy_components(experiment, against, options.price(experiment), options.level, options.seed)


def draw_components(components: Sequence[VarianceComponents], folder: Path) -> None:
    """Writes the figures of one experiment: figures/NAME-variance-MEASURE.png, .svg and .pdf."""
    from benchmark.analysis.figures import style  # matplotlib takes a second to import
    from benchmark.analysis.figures.variance import variance_components

    styles = style.strategy_styles(component.strategy for component in components)
    for measure in MEASURES:
        figure = variance_components([component for component in components if component.measure == measure], styles)
        if figure is not None:
            style.save_figure(figure, folder / "figures" / f"{slug(components[0].experiment)}-variance-{measure}")


def replace_nan(row: dict[str, object]) -> dict[str, object]:
    """A row of the JSON output, with null in the place of NaN."""
    return {name: None if value != value else value for name, value in row.items()}
