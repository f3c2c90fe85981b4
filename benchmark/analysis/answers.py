"""Builds and writes the answers that the command line and the Python API share: tables, comparisons and the report."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.analysis import bought_boxes, class_scores, comparison_tables, comparisons, tables, verify
from benchmark.analysis.comparisons import Comparison
from benchmark.analysis.curves import Experiment
from benchmark.analysis.figures.gallery import read_gallery
from benchmark.analysis.figures.pool_features import describe_missing
from benchmark.analysis.mean_comparisons import MeanComparison, compare_means, mean_rows
from benchmark.analysis.options import AnalysisOptions
from benchmark.analysis.rounds_csv import Row, round_rows
from benchmark.analysis.savings import strategy_pairs
from benchmark.records.anonymous import redact
from benchmark.system import files
from benchmark.text.frames import build_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Answer:
    """Everything that the command `tables` shows and writes for one experiment."""

    table: tables.Table
    comparisons: list[Comparison]
    remarks: list[str]  # lines printed beside the table
    num_variant_runs: int = 0  # runs that only the command `variance` uses
    round_rows: list[Row] = field(default_factory=list)  # rows of rounds.csv
    class_rows: list[Row] = field(default_factory=list)  # rows of class_scores/NAME.csv
    box_rows: list[Row] = field(default_factory=list)  # rows of bought_boxes/NAME.csv


def build_answers(options: AnalysisOptions, title: str = "") -> list[Answer]:
    """Builds the answers for the experiments that the options select.

    Args:
        options: the options of the command.
        title: builds the answer for the experiment of this title only; for all where it is empty.
    """
    published = verify.read_published(options.published_paths)
    return [build_answer(experiment, options, published) for experiment in options.read_experiments(title)]


def build_answer(experiment: Experiment, options: AnalysisOptions, published: Sequence[Experiment]) -> Answer:
    """Builds the table, with published numbers beside ours, and the comparisons of one experiment."""
    table = tables.build_table(experiment, verify.published_entries(experiment, published))
    against_reference, refusals = compare_with_reference(experiment, options)
    papers = verify.counterparts(experiment, published)
    differences = {
        check(experiment, paper) for paper in papers for check in (verify.task_mismatch, verify.scale_mismatch)
    }
    remarks = [f"{experiment.title}: {difference}" for difference in sorted(differences - {""})]
    if published and not table.published_rows:
        remarks.append(f"{experiment.title}: none of the published curves is of this experiment")
    remarks += verify.describe_all_labels(experiment, published)
    if options.anonymous:
        faults = [replace(fault, where=redact(fault.where), message=redact(fault.message)) for fault in table.faults]
        table = replace(table, faults=faults)
    task = redact(experiment.task) if options.anonymous else experiment.task
    rows = [{**row, "task": task} for row in round_rows(experiment)]
    class_rows = class_scores.tidy_rows(experiment, options.level)
    try:
        gallery = read_gallery(experiment)
        boxes = bought_boxes.bought_boxes(experiment, gallery, options.level) if gallery else []
    except ValueError as error:
        boxes, remarks = [], [*remarks, str(error)]
    box_rows = bought_boxes.tidy_rows(experiment, boxes, options.level)
    return Answer(
        table, against_reference, remarks + refusals, len(experiment.variant_runs), rows, class_rows, box_rows
    )


def compare_with_reference(experiment: Experiment, options: AnalysisOptions) -> tuple[list[Comparison], list[str]]:
    """Compares every strategy with the reference strategy.

    Returns:
        The comparisons, and a line for each strategy that cannot be paired with the reference. Both are empty where
        the reference has no single runs, as in a paper that reports means only.
    """
    reference = experiment.reference
    if reference is None or not experiment.curves[reference].seeds:
        return [], []
    against_reference, refusals = comparisons.compare_all(
        experiment, reference, options.price(experiment), options.level, options.seed
    )
    return against_reference, [f"{experiment.title}: not compared: {reason}" for reason in refusals]


def write_answers(answers: Sequence[Answer], options: AnalysisOptions) -> None:
    """Writes tables, comparisons and rounds.csv into the output folder; writes nothing where there is none.

    rounds.csv lies beside the folder `tables`: it holds seconds, which differ between equal runs, while their tables
    are equal to the byte.
    """
    output_folder = options.output_folder
    if output_folder is None:
        return
    if options.to:
        output_folder.mkdir(parents=True, exist_ok=True)
    folder = output_folder / "tables"
    tables.write_tables([answer.table for answer in answers], folder, combine=not options.task)
    comparison_tables.write_comparisons({answer.table.title: answer.comparisons for answer in answers}, folder)
    bought_boxes.write_bought_boxes({answer.table.title: answer.box_rows for answer in answers}, folder)
    class_scores.write_class_scores({answer.table.title: answer.class_rows for answer in answers}, folder)
    if not options.task:  # an answer on one task must not replace the file of all tasks
        rows = [row for answer in answers for row in answer.round_rows]
        if any(row["seed"] is not None for row in rows):  # published means are in the tables already
            files.write_atomically(output_folder / "rounds.csv", tables.to_csv(rows), output_folder)
        else:
            files.remove(output_folder / "rounds.csv", output_folder)


@dataclass(frozen=True)
class StrategyComparisons:
    """Two strategies, compared in every experiment that has both.

    Args:
        paired: comparisons of runs, paired by seed, with Holm's correction over the experiments.
        published: comparisons of papers' means, where single runs are not published.
        refusals: a line for each experiment that is left out.
    """

    paired: list[Comparison]
    published: list[MeanComparison]
    refusals: list[str]

    def to_data_frame(self) -> pd.DataFrame:
        """Returns one row for each comparison. Papers' means have no p-values and the verdict "means only"."""
        return build_frame([*comparison_tables.tidy_rows(self.paired), *mean_rows(self.published)])


def compare_strategies(
    experiments: Sequence[Experiment], first: str, second: str, options: AnalysisOptions
) -> StrategyComparisons:
    """Compares two strategies in every experiment that has both.

    Args:
        experiments: the experiments.
        first: the label of the first strategy.
        second: the label of the strategy that it is compared with.
        options: cost, confidence level and seed.

    Raises:
        ValueError: no experiment can be compared.
    """
    pairwise, published, refusals = list[Comparison](), list[MeanComparison](), list[str]()
    for experiment, a, b in strategy_pairs(experiments, [first], [second]):
        try:
            if not experiment.curves[a].seeds and not experiment.curves[b].seeds:
                published.append(compare_means(experiment, a, b, options.level))
                continue
            comparison = comparisons.compare(experiment, a, b, options.price(experiment), options.level, options.seed)
            state = comparisons.compare_sequentially(experiment, b).get(a)
            pairwise.append(replace(comparison, sequential_state=state))
        except ValueError as error:
            refusals.append(str(error))
    if not pairwise and not published:
        message = f"no experiment of these records has rounds of both {first} and {second}"
        raise ValueError(refusals[0] if refusals else message)
    return StrategyComparisons(comparisons.apply_holm(pairwise), published, refusals)


def write_report(
    experiments: Sequence[Experiment], options: AnalysisOptions, folder: Path, arguments: Sequence[str]
) -> tuple[Path, list[str]]:
    """Writes the HTML report and its figures into a folder.

    Args:
        experiments: the experiments to report.
        options: confidence level, seed, published records, and whether the report is anonymous.
        folder: the folder of the report.
        arguments: the `key=value` arguments of the command that writes the report again; the report shows them.

    Returns:
        The path of the report, and lines to print.
    """
    from benchmark.analysis import report  # matplotlib takes a second to import

    options.check_round(experiments)
    published = verify.read_published(options.published_paths)
    verdicts = verify.verify(experiments, published, options.level) if published else []
    by_title = {experiment.title: compare_with_reference(experiment, options) for experiment in experiments}
    remarks = [line for _, refusals in by_title.values() for line in refusals]
    remarks += describe_missing(experiments, options.round)
    provenance = report.collect_provenance(experiments, arguments, options.anonymous) | {"level": options.level}
    with warnings.catch_warnings(record=True) as caught_warnings:
        warnings.simplefilter("always")
        comparisons_by_title = {title: rows for title, (rows, _) in by_title.items()}
        path = report.write_report(
            experiments, folder, comparisons_by_title, verdicts, provenance, options.task, options.round
        )
    texts = {str(warning.message) for warning in caught_warnings}
    notes = {report.MISSING_GLYPHS_NOTE if "missing from font" in text else text for text in texts}
    return path, remarks + sorted(notes)
