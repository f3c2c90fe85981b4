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
from benchmark.analysis.rounds import Row, rounds
from benchmark.analysis.savings import pairs_of
from benchmark.records.anonymous import redacted
from benchmark.system import files


@dataclass(frozen=True)
class Answered:
    """What there is to show of one experiment."""

    table: tables.Table
    compared: list[Comparison]
    words: list[str]  # what else is to be said
    num_variants: int = 0  # runs that only `variance` counts
    rounds: list[Row] = field(default_factory=list)  # see `rounds.rounds`


def answered(asked: AnalysisOptions, only: str = "") -> list[Answered]:
    """The tables and comparisons of all experiments, or of one."""
    papers = verify.papers(asked.compared_with)
    return [answer(one, asked, papers) for one in asked.experiments(only)]


def answer(experiment: Experiment, asked: AnalysisOptions, papers: Sequence[Experiment]) -> Answered:
    """The table and the comparisons of an experiment, papers' numbers beside its own."""
    table = tables.table(experiment, verify.beside(experiment, papers))
    compared, refused = to_first(experiment, asked)
    scales = {verify.other_scale(experiment, one) for one in verify.counterparts(experiment, papers)} - {""}
    words = [f"{experiment.title}: {scale}" for scale in sorted(scales)]
    if papers and not table.beside:
        words.append(f"{experiment.title}: none of the published curves is of this experiment")
    if asked.anonymous:
        faults = [replace(one, where=redacted(one.where), words=redacted(one.words)) for one in table.faults]
        table = replace(table, faults=faults)
    task = redacted(experiment.task) if asked.anonymous else experiment.task
    rows = [{**row, "task": task} for row in rounds(experiment)]
    return Answered(table, compared, words + refused, len(experiment.variants), rows)


def to_first(experiment: Experiment, asked: AnalysisOptions) -> tuple[list[Comparison], list[str]]:
    """Every strategy against the reference, where runs are told apart; and who does not pair."""
    first = experiment.reference
    if first is None or not experiment.curves[first].seeds:
        return [], []
    compared, refused = comparisons.against(experiment, first, asked.price(experiment), asked.level, asked.seed)
    return compared, [f"{experiment.title}: not compared: {words}" for words in refused]


def write(answers: Sequence[Answered], asked: AnalysisOptions) -> None:
    """Writes tables, comparisons and, where these are all that there is of runs, rounds.csv into the folder of the
    question, if it has one. Equal runs have equal tables; rounds.csv holds seconds, so it lies beside them."""
    if asked.folder is None:
        return
    if asked.to:
        asked.folder.mkdir(parents=True, exist_ok=True)
    folder = asked.folder / "tables"
    tables.write([one.table for one in answers], folder, together=not asked.task)
    comparison_tables.write({one.table.title: one.compared for one in answers}, folder)
    if not asked.task:  # a part never takes the place of the whole
        rows = [row for one in answers for row in one.rounds]
        if any(row["seed"] is not None for row in rows):  # what papers tell is all in their tables
            files.replace(asked.folder / "rounds.csv", tables.csv_of(rows), asked.folder)
        else:
            files.remove(asked.folder / "rounds.csv", asked.folder)


def compared(
    experiments: Sequence[Experiment], first: str, second: str, asked: AnalysisOptions
) -> tuple[list[Comparison], list[str]]:
    """Two strategies with each other in every experiment that has both, and what is not compared and why.

    Raises:
        ValueError: nothing can be compared.
    """
    found, refused = list[Comparison](), list[str]()
    for one, a, b in pairs_of(experiments, [first], [second]):
        try:
            comparison = comparisons.compare(one, a, b, asked.price(one), asked.level, asked.seed)
            found.append(replace(comparison, state=comparisons.looks(one, b).get(a)))
        except ValueError as error:
            refused.append(str(error))
    if not found:
        why = f"no experiment of these records has rounds of both {first} and {second}"
        raise ValueError(refused[0] if refused else why)
    return comparisons.corrected(found), refused


def report(
    experiments: Sequence[Experiment], asked: AnalysisOptions, folder: Path, words: Sequence[str]
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

    papers = verify.papers(asked.compared_with)
    verdicts = verify.verify(experiments, papers, asked.level) if papers else []
    found = {one.title: to_first(one, asked) for one in experiments}
    remarks = [line for _, refused in found.values() for line in refused]
    told = page.told(experiments, words, asked.anonymous) | {"level": asked.level}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compared = {title: rows for title, (rows, _) in found.items()}
        path = page.write(experiments, folder, compared, verdicts, told, asked.task)
    texts = {str(one.message) for one in caught}
    return path, remarks + sorted({page.BOXES if "missing from font" in text else text for text in texts})
