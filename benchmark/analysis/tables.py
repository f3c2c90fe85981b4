"""Tables of experiments: the mean score of each strategy (row) in each round (column), with notes and files.

Reads records only: a table can be built where torch is not installed. The columns are those of `tidy_rows` in CSV and
JSON files and of `text_rows` elsewhere, but for the HTML report (`report.table_lines`). The columns of `rounds.csv` are
in `rounds_csv`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.analysis.audit import Fault, find_faults
from benchmark.analysis.curves import Curve, Experiment, Floats
from benchmark.contract.metrics import Metric
from benchmark.experiment.cell import SAW_EVALUATION_LABELS
from benchmark.experiment.schedule import Schedule
from benchmark.records import versions
from benchmark.system import files
from benchmark.text.escaping import escape_csv, escape_latex, escape_markdown, make_visible
from benchmark.text.frames import build_frame
from benchmark.text.words import plural, slug

if TYPE_CHECKING:
    import pandas as pd

MAX_FAULTS_SHOWN = 3  # faults that a caption lists
INDENT = "  "  # of the lines below the line of a strategy


@dataclass(frozen=True)
class Entry:
    """The mean score of a strategy in a round, over `num_runs` of `num_planned` seeds."""

    mean: float | None
    std: float | None  # sample standard deviation
    num_runs: int
    num_planned: int
    num_failed: int
    num_labelled: float | None  # labelled images trained on; the mean over the seeds where they differ
    cost: dict[str, float]  # mean labels paid so far: images, boxes where the task counts them
    num_ended: int = 0  # seeds whose last round was before this one
    printed_digits: dict[str, str] = field(default_factory=dict)  # value, std and boxes as a paper prints them
    has_known_runs: bool = True  # False where a paper does not tell the number of runs

    def format(self, digits: int = 2) -> str:
        """Formats mean and deviation: `84.10 ± 0.32`.

        Missing seeds are counted: `84.10 ± 0.32 (2/3)`, `failed (0/3)`, `missing (0/3)`. `–` means that all seeds ended
        in an earlier round.

        Args:
            digits: decimal places, where no digits of a paper are known.
        """
        count = "" if self.num_runs == self.num_planned else f" ({self.num_runs}/{self.num_planned})"
        if self.mean is None:
            return "–" if self.num_ended == self.num_planned else ("failed" if self.num_failed else "missing") + count
        mean = self.printed_digits.get("value") or f"{self.mean:.{digits}f}"
        spread = "" if self.std is None else f" ± {self.printed_digits.get('std') or f'{self.std:.{digits}f}'}"
        return f"{mean}{spread}{count}"

    @property
    def boxes(self) -> float | None:
        """The mean number of boxes paid for so far."""
        return self.cost.get("boxes")

    @property
    def per_10k_boxes(self) -> float | None:
        """10,000 x mean score / mean boxes."""
        return 10_000 * self.mean / self.boxes if self.mean is not None and self.boxes else None


@dataclass(frozen=True)
class Table:
    """The table of one experiment: a row for each strategy, a column for each round."""

    title: str
    source: str
    task: str
    metric: Metric
    headers: list[str]  # names of the rounds
    rounds: tuple[int, ...]  # numbers of the rounds
    rows: dict[str, list[Entry]]  # by strategy
    daggers: dict[str, list[str]]  # by strategy: why its row carries a dagger, one sentence each
    schedule: Schedule | None = None  # None for a paper
    devices: list[str] = field(default_factory=list)  # devices that the runs used
    versions_note: str = ""  # about several versions of one library; empty where there are none
    faults: list[Fault] = field(default_factory=list)  # faults that the audit found, without those that a dagger tells
    published_rows: Mapping[str, Mapping[str, list[Entry]]] = field(default_factory=dict)  # by strategy and source

    @property
    def counts_boxes(self) -> bool:
        """Whether labels are paid for by boxes."""
        return any(entry.boxes is not None for row in self.rows.values() for entry in row)

    @property
    def runs_text(self) -> str:
        """The number of seeds, `3 seeds`; for a paper `5 runs, as published by SOURCE`."""
        if not all(entry.has_known_runs for row in self.rows.values() for entry in row):
            return f"an unknown number of runs, as published by {self.source}"
        counts = sorted({entry.num_planned for row in self.rows.values() for entry in row}) or [0]
        if self.schedule:
            return f"{counts[0]} to {counts[-1]} seeds" if counts[0] < counts[-1] else format_seeds(counts[0])
        many = f"{counts[0]} to {counts[-1]}" if counts[0] < counts[-1] else f"{counts[0]}"
        return f"{many} run{'s' * (many != '1')}, as published by {self.source}"

    @property
    def note(self) -> str:
        """The note below the table, as files hold it."""
        columns = "labelled images"
        has_std = any(entry.std is not None for row in self.rows.values() for entry in row)
        if self.schedule and self.schedule.budget_in == "boxes":
            columns += ", then boxes bought on top (the images they are on differ)"
        head = "Mean ± sample standard deviation" if has_std else "Mean"
        notes = [f"{head} over {self.runs_text}; columns: {columns}."]
        if self.schedule and self.schedule.until:
            notes.append(f"A seed ends with its first round in or past {self.schedule.until} (–: all have ended).")
        first = {name: row[0] for name, row in self.rows.items() if row[0].cost}
        extra = {name: entry.cost["images"] - (entry.num_labelled or 0) for name, entry in first.items()}
        if paid := [f"{name} ({images:.0f})" for name, images in extra.items() if images > 0]:
            notes.append(f"Paid for held-out labels besides: {', '.join(paid)}.")
        if sentences := dict.fromkeys(sentence for row in self.daggers.values() for sentence in row):
            notes.append(f"† {'; '.join(sentences)}.")
        if len(self.devices) > 1:
            notes.append(f"Ran on {' and on '.join(self.devices)}: numbers differ by rounding between them.")
        notes += [self.versions_note] * bool(self.versions_note)
        return make_visible(" ".join([*notes, *self.audit_note]))

    @property
    def legend(self) -> list[str]:
        """The meaning of words and signs in the table, one line each.

        The terminal and the report show it; files do not.
        """
        lines = []
        if self.counts_boxes:
            lines.append("boxes: labels paid so far, the mean over the runs")
            lines.append(f"10k x {self.metric} / boxes: ten thousand times the score, divided by the boxes")
        if self.published_rows:
            lines.append("difference: of the means, ours minus the line above")
        entries = [entry for row in self.rows.values() for entry in row]
        if any(entry.num_runs < entry.num_planned and entry.num_ended < entry.num_planned for entry in entries):
            lines.append(
                "(1/3): seeds that have the round, of those planned; missing: not run yet; failed: tried and failed"
            )
        counts = sorted({entry.num_runs for entry in entries if entry.std is not None and entry.num_runs > 1})
        if self.schedule and counts:
            factors = " and ".join(f"{interval_factor(n):.2f} times that with {plural(n, 'seed')}" for n in counts[-2:])
            lines.append(
                f"±: how far single runs differ; the 95 % interval of their mean, in each round alone, is ± {factors}"
            )
        runs = {
            name: row[0].num_planned if row[0].has_known_runs else "unknown" for name, row in self.rows.items() if row
        }
        if len(set(runs.values())) > 1:
            lines.append(f"runs: {', '.join(f'{name} {number}' for name, number in runs.items())}")
        return list(map(make_visible, lines))

    @property
    def audit_note(self) -> list[str]:
        """What the caption says where the audit failed: the first faults, and how many more there are."""
        shown = [f"{fault.check}: {fault}" for fault in self.faults[:MAX_FAULTS_SHOWN]]
        more = [f"and {len(self.faults) - len(shown)} more (`verify` lists them)"] * (len(self.faults) > len(shown))
        return [f"AUDIT FAILED: {'; '.join([*shown, *more])}."] if self.faults else []


def build_tables(experiments: Sequence[Experiment]) -> list[Table]:
    """Builds a table for each experiment."""
    return [build_table(experiment) for experiment in experiments]


def build_table(experiment: Experiment, published_rows: Mapping[str, Mapping[str, list[Entry]]] | None = None) -> Table:
    """Builds the table of one experiment and audits its records.

    Args:
        experiment: the experiment.
        published_rows: published numbers to show below ours, by strategy and source.
    """
    schedule = experiment.schedule
    rows = {name: build_row(curve, experiment) for name, curve in experiment.curves.items()}
    daggers = {name: list(curve.daggers) for name, curve in experiment.curves.items()}
    dagger_sentences = {sentence for row in daggers.values() for sentence in row}
    faults = [fault for fault in find_faults(experiment) if fault.message not in dagger_sentences]
    devices = sorted(set[str]().union(*(run.store.devices(run.path) for run in experiment.runs)))
    headers = round_headers(schedule) if schedule else [f"{count:,.0f}" for count in experiment.num_labelled_R]
    return Table(
        experiment.title, experiment.source, experiment.task, experiment.metric, headers, experiment.rounds, rows,
        daggers, schedule, devices, versions.mixed_versions_note(experiment.mixed_versions), faults,
        published_rows or {},
    )  # fmt: skip


def build_row(curve: Curve, experiment: Experiment) -> list[Entry]:
    """Builds the row of a strategy: one entry for each round."""
    row = []
    for column, number in enumerate(experiment.rounds):
        is_there = np.isfinite(curve.value_SR[:, column])
        values = curve.value_SR[is_there, column]
        mean = float(values.mean()) if len(values) else None
        std = float(values.std(ddof=1)) if len(values) > 1 else None
        if curve.std_R is not None and np.isfinite(curve.std_R[column]):
            std = float(curve.std_R[column])
        mean_cost = {kind: mean_or_none(cost_SR[is_there, column]) for kind, cost_SR in curve.cost.items()}
        cost = {kind: labels for kind, labels in mean_cost.items() if labels is not None}
        num_labelled = mean_or_none(curve.num_labelled_SR[is_there, column])
        if experiment.schedule and experiment.schedule.budget_in == "images":
            num_labelled = experiment.schedule.num_images(number)
        num_runs = len(values) if curve.seeds else curve.num_runs * len(values)
        digits = {kind: texts[column] for kind, texts in curve.printed_digits.items()}
        counts = (num_runs, curve.num_planned, curve.num_failed)
        ended = curve.num_ended_R[column]
        row.append(Entry(mean, std, *counts, num_labelled, cost, ended, digits, curve.has_known_runs))
    return row


def interval_factor(num_runs: int) -> float:
    """Returns half the width of the 95 % interval of a mean, in standard deviations of the runs."""
    from benchmark.analysis.stats import student_quantile  # it imports scipy, which takes a tenth of a second

    return student_quantile(num_runs - 1, 0.975) / math.sqrt(num_runs)


def mean_or_none(values: Floats) -> float | None:
    """Returns the mean; None where there are no values, or not all are finite."""
    return float(values.mean()) if len(values) and np.isfinite(values).all() else None


def format_seeds(number: int) -> str:
    """Formats a number of seeds: `1 seed`, `3 seeds`."""
    return f"{number} seed" + "s" * (number != 1)


def round_headers(schedule: Schedule) -> list[str]:
    """Returns the names of the rounds by labelled images: `1,000`, `2,000`.

    Under a budget of boxes they are `500`, `+1,000 boxes`.
    """
    if schedule.budget_in == "boxes":
        bought = [schedule.budget * number for number in range(1, schedule.rounds)]
        return [f"{schedule.initial:,}", *(f"+{boxes:,} boxes" for boxes in bought)]
    return [f"{schedule.num_images(number):,}" for number in range(schedule.rounds)]


def text_rows(table: Table) -> list[list[str]]:
    """Returns header and rows of a table as text.

    Below a strategy stand indented lines: published numbers and their difference; and, where boxes are counted, boxes
    and score per 10,000 boxes.
    """
    digits = table.metric.digits
    lines = [["strategy", *table.headers]]
    for name, row in table.rows.items():
        lines.append([name + "†" * bool(table.daggers[name]), *(entry.format(digits) for entry in row)])
        for source, published in table.published_rows.get(name, {}).items():
            means = [(ours.mean, theirs.mean) for ours, theirs in zip(row, published, strict=True)]
            gaps = [None if None in pair else (pair[0] or 0) - (pair[1] or 0) for pair in means]
            lines.append([f"{INDENT}{source}", *(entry.format(digits) for entry in published)])
            lines.append([f"{INDENT}difference", *("" if gap is None else f"{gap:+z.{digits}f}" for gap in gaps)])
        if table.counts_boxes:
            boxes = [entry.printed_digits.get("boxes") or format_number(entry.boxes, 0) for entry in row]
            lines.append([f"{INDENT}boxes", *boxes])
            ratios = [format_number(entry.per_10k_boxes, 3) for entry in row]
            lines.append([f"{INDENT}10k x {table.metric} / boxes", *ratios])
    return lines


def format_number(value: float | None, digits: int) -> str:
    """Formats a number: `12,345.6`; empty for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def to_markdown(table: Table) -> str:
    """Returns the table as GitHub markdown."""
    return format_markdown(f"{table.title}: {table.metric}", text_rows(table), table.note)


def format_markdown(title: str, grid: Sequence[Sequence[str]], note: str) -> str:
    """Formats rows as GitHub markdown.

    Args:
        title: stands above the table.
        grid: the header and the rows, as text.
        note: stands below the table.
    """
    head, *rows = grid
    rule = ["---", *("---:" for _ in head[1:])]
    lines = ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in (head, rule, *rows)]
    return f"### {escape_markdown(title)}\n\n" + "\n".join(lines) + f"\n\n{escape_markdown(note)}\n"


def to_latex(table: Table) -> str:
    """Returns the table as LaTeX (booktabs)."""
    return format_latex(f"{table.title}: {table.metric}", text_rows(table), table.note)


def format_latex(title: str, grid: Sequence[Sequence[str]], note: str) -> str:
    """Formats rows as LaTeX (booktabs).

    Args:
        title: begins the caption.
        grid: the header and the rows, as text.
        note: ends the caption.
    """
    head, *rows = [[latex_cell(text) for text in row] for row in grid]
    body = [" & ".join(head) + r" \\", r"\midrule", *(" & ".join(row) + r" \\" for row in rows)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(f'{title}. {note}')}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_cell(text: str) -> str:
    """Formats a cell for LaTeX; its indent becomes \\quad."""
    indent = r"\quad " if text.startswith(INDENT) else ""
    return indent + escape_latex(text.removeprefix(INDENT))


def tidy_rows(table: Table) -> list[dict[str, object]]:
    """Returns one row for each strategy and round, in the columns of published curves.

    `per_10k_boxes` is there where boxes are counted. Digits that a paper prints stay as they are.
    """
    return [
        {
            "source": table.source, "task": table.title if table.schedule else table.task, "strategy": name,
            "num_runs": entry.num_runs if entry.has_known_runs else None, "round": number,
            "num_labelled": entry.num_labelled,
            "boxes": entry.printed_digits.get("boxes") or entry.boxes, "metric": table.metric.name,
            "value": entry.printed_digits.get("value") or entry.mean,
            "std": entry.std, "num_wanted": entry.num_planned if entry.has_known_runs else None,
            "num_failed": entry.num_failed,
            "cost_images": entry.cost.get("images"),
            "saw_evaluation_labels": SAW_EVALUATION_LABELS in table.daggers[name],
            **({"per_10k_boxes": entry.per_10k_boxes} if table.counts_boxes else {}),
        }
        for name, row in table.rows.items()
        for number, entry in zip(table.rounds, row, strict=True)
    ]  # fmt: skip


def tidy_frame(table: Table) -> pd.DataFrame:
    """Returns the `tidy_rows` as a DataFrame."""
    return build_frame(tidy_rows(table))


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Formats rows as CSV, as pandas writes it: a header of column names; None and NaN are empty.

    Text that a spreadsheet would compute as a formula is escaped.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: escape_csv(value) if value == value else None for name, value in row.items()})
    return text.getvalue()


def write_tables(tables: Sequence[Table], folder: Path, *, combine: bool = True) -> list[Path]:
    """Writes NAME.csv, NAME.md and NAME.tex for each table.

    Args:
        tables: the tables.
        folder: the folder of the files.
        combine: also write all tables into tables.md; only if these are all tables of the folder.

    Returns:
        The paths of the files, without tables.md.
    """
    paths = []
    for table in tables:
        texts = {"csv": to_csv(tidy_rows(table)), "md": to_markdown(table), "tex": to_latex(table)}
        for ending, text in texts.items():
            paths.append(folder / f"{slug(table.title)}.{ending}")
            files.write_atomically(paths[-1], text, folder.parent)
    if combine:
        files.write_atomically(folder / "tables.md", "\n".join(map(to_markdown, tables)), folder.parent)
    return paths


def to_json(tables: Sequence[Table]) -> str:
    """Formats every entry of every table as one JSON list."""
    import pandas as pd

    rows = pd.concat([tidy_frame(table) for table in tables])
    for name in ("value", "boxes"):
        rows[name] = pd.to_numeric(rows[name])
    return str(rows.to_json(orient="records", indent=1))
