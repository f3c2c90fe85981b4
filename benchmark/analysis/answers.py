"""What the command line and Python answer alike, from the same experiments and options."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmark.analysis import comparison_tables, comparisons, tables, verify
from benchmark.analysis.comparisons import Comparison
from benchmark.analysis.curves import Experiment
from benchmark.analysis.options import AnalysisOptions
from benchmark.analysis.rounds import Row, round_rows
from benchmark.analysis.savings import strategy_pairs
from benchmark.records.anonymous import redact
from benchmark.system import files


@dataclass(frozen=True)
class Answer:
    """What there is to show of one experiment."""

    table: tables.Table
    comparisons: list[Comparison]
    remarks: list[str]  # what else is to be said
    num_variant_runs: int = 0  # runs that only `variance` counts
    round_rows: list[Row] = field(default_factory=list)  # see `rounds.rounds`


def build_answers(options: AnalysisOptions, title: str = "") -> list[Answer]:
    """The tables and comparisons of all experiments, or of one."""
    papers = verify.read_published(options.published_paths)
    return [build_answer(one, options, papers) for one in options.read_experiments(title)]


def build_answer(experiment: Experiment, options: AnalysisOptions, published: Sequence[Experiment]) -> Answer:
    """The table and the comparisons of an experiment, papers' numbers beside its own."""
    table = tables.build_table(experiment, verify.published_entries(experiment, published))
    compared, refused = compare_with_reference(experiment, options)
    scales = {verify.scale_mismatch(experiment, one) for one in verify.counterparts(experiment, published)} - {""}
    words = [f"{experiment.title}: {scale}" for scale in sorted(scales)]
    if published and not table.published_rows:
        words.append(f"{experiment.title}: none of the published curves is of this experiment")
    if options.anonymous:
        faults = [replace(one, where=redact(one.where), message=redact(one.message)) for one in table.faults]
        table = replace(table, faults=faults)
    task = redact(experiment.task) if options.anonymous else experiment.task
    rows = [{**row, "task": task} for row in round_rows(experiment)]
    return Answer(table, compared, words + refused, len(experiment.variant_runs), rows)


def compare_with_reference(experiment: Experiment, options: AnalysisOptions) -> tuple[list[Comparison], list[str]]:
    """Every strategy against the reference, where runs are told apart; and who does not pair."""
    first = experiment.reference
    if first is None or not experiment.curves[first].seeds:
        return [], []
    compared, refused = comparisons.compare_all(
        experiment, first, options.price(experiment), options.level, options.seed
    )
    return compared, [f"{experiment.title}: not compared: {words}" for words in refused]


def write_answers(answers: Sequence[Answer], options: AnalysisOptions) -> None:
    """Writes tables, comparisons and, where these are all that there is of runs, rounds.csv into the folder of the
    question, if it has one. Equal runs have equal tables; rounds.csv holds seconds, so it lies beside them."""
    if options.output_folder is None:
        return
    if options.to:
        options.output_folder.mkdir(parents=True, exist_ok=True)
    folder = options.output_folder / "tables"
    tables.write_tables([one.table for one in answers], folder, combine=not options.task)
    comparison_tables.write_comparisons({one.table.title: one.comparisons for one in answers}, folder)
    if not options.task:  # a part never takes the place of the whole
        rows = [row for one in answers for row in one.round_rows]
        if any(row["seed"] is not None for row in rows):  # what papers tell is all in their tables
            files.write_atomically(options.output_folder / "rounds.csv", tables.to_csv(rows), options.output_folder)
        else:
            files.remove(options.output_folder / "rounds.csv", options.output_folder)


def compare_strategies(
    experiments: Sequence[Experiment], first: str, second: str, options: AnalysisOptions
) -> tuple[list[Comparison], list[str]]:
    """Two strategies with each other in every experiment that has both, and what is not compared and why.

    Raises:
        ValueError: nothing can be compared.
    """
    found, refused = list[Comparison](), list[str]()
    for one, a, b in strategy_pairs(experiments, [first], [second]):
        try:
            comparison = comparisons.compare(one, a, b, options.price(one), options.level, options.seed)
            found.append(replace(comparison, sequential_state=comparisons.compare_sequentially(one, b).get(a)))
        except ValueError as error:
            refused.append(str(error))
    if not found:
        why = f"no experiment of these records has rounds of both {first} and {second}"
        raise ValueError(refused[0] if refused else why)
    return comparisons.apply_holm(found), refused


def write_report(
    experiments: Sequence[Experiment], options: AnalysisOptions, folder: Path, arguments: Sequence[str]
) -> tuple[Path, list[str]]:
    """Writes the page and its figures into a folder.

    Args:
        experiments: what it shows.
        asked: level, seed, papers, and whether it is anonymous.
        folder: where it goes.
        words: of the command that writes it again; the page shows it.

    Returns:
        The path of the page, and what is to be said of it.
    """
    from benchmark.analysis import report as page  # matplotlib takes a second to import

    papers = verify.read_published(options.published_paths)
    verdicts = verify.verify(experiments, papers, options.level) if papers else []
    found = {one.title: compare_with_reference(one, options) for one in experiments}
    remarks = [line for _, refused in found.values() for line in refused]
    told = page.collect_provenance(experiments, arguments, options.anonymous) | {"level": options.level}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compared = {title: rows for title, (rows, _) in found.items()}
        path = page.write_report(experiments, folder, compared, verdicts, told, options.task)
    texts = {str(one.message) for one in caught}
    return path, remarks + sorted({page.MISSING_GLYPHS_NOTE if "missing from font" in text else text for text in texts})
