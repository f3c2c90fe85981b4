"""Tables of experiments: mean score per round, methods x rounds, as the ISAL supplement lays them out.

Reads records only, so that a table can be rebuilt where torch is not installed.
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
from benchmark.text.escaping import escape_csv, escape_surrogates, make_visible
from benchmark.text.escaping import escape_latex as escaped_latex
from benchmark.text.escaping import escape_markdown as escaped_markdown
from benchmark.text.words import plural, slug

if TYPE_CHECKING:
    import pandas as pd

MAX_FAULTS_SHOWN = 3  # faults that a caption spells out
INDENT = "  "  # of the lines below a strategy's own


@dataclass(frozen=True)
class Entry:
    """One entry of a table: mean and sample standard deviation over `n` of `wanted` seeds."""

    mean: float | None
    std: float | None
    num_runs: int
    num_planned: int
    num_failed: int
    num_labelled: float | None  # images trained on; the mean of `n` seeds where they differ
    cost: dict[str, float]  # mean labels paid so far: images, boxes where the task counts them
    num_ended: int = 0  # seeds whose last round was before this one
    printed_digits: dict[str, str] = field(default_factory=dict)  # value, std and boxes in a paper's own digits

    def format(self, digits: int = 2) -> str:
        """`84.10 ± 0.32`; seeds that lack are counted: `84.10 ± 0.32 (2/3)`, `failed (0/3)`, `missing (0/3)`.

        `–` where all seeds ended before.
        """
        count = "" if self.num_runs == self.num_planned else f" ({self.num_runs}/{self.num_planned})"
        if self.mean is None:
            return "–" if self.num_ended == self.num_planned else ("failed" if self.num_failed else "missing") + count
        mean = self.printed_digits.get("value") or f"{self.mean:.{digits}f}"
        spread = "" if self.std is None else f" ± {self.printed_digits.get('std') or f'{self.std:.{digits}f}'}"
        return f"{mean}{spread}{count}"

    @property
    def boxes(self) -> float | None:
        """Mean boxes paid so far."""
        return self.cost.get("boxes")

    @property
    def per_10k_boxes(self) -> float | None:
        """10,000 x mean score / mean boxes."""
        return 10_000 * self.mean / self.boxes if self.mean is not None and self.boxes else None


@dataclass(frozen=True)
class Table:
    """One experiment: a row a strategy, a column a round."""

    title: str
    source: str
    task: str
    metric: Metric
    headers: list[str]  # what its rounds are called
    rounds: tuple[int, ...]  # and which they are
    rows: dict[str, list[Entry]]  # by strategy
    daggers: dict[str, list[str]]  # by strategy: why its row carries a dagger, a sentence each
    schedule: Schedule | None = None  # None: a paper's
    devices: list[str] = field(default_factory=list)  # what the cells ran on
    versions_note: str = ""  # what is to be said of the versions of libraries
    faults: list[Fault] = field(default_factory=list)  # what the audit found, daggers aside
    published_rows: Mapping[str, Mapping[str, list[Entry]]] = field(
        default_factory=dict
    )  # by strategy and source: what it tells

    @property
    def counts_boxes(self) -> bool:
        """Whether the task charges for boxes."""
        return any(entry.boxes is not None for row in self.rows.values() for entry in row)

    @property
    def runs_text(self) -> str:
        """`3 seeds`; of a paper `5 runs, as published by SOURCE`."""
        counts = sorted({entry.num_planned for row in self.rows.values() for entry in row}) or [0]
        if self.schedule:
            return f"{counts[0]} to {counts[-1]} seeds" if counts[0] < counts[-1] else format_seeds(counts[0])
        many = f"{counts[0]} to {counts[-1]}" if counts[0] < counts[-1] else f"{counts[0]}"
        return f"{many} run{'s' * (many != '1')}, as published by {self.source}"

    @property
    def note(self) -> str:
        """What a reader must know below the table."""
        columns = "labelled images"
        spread = any(entry.std is not None for row in self.rows.values() for entry in row)
        if self.schedule and self.schedule.budget_in == "boxes":
            columns += ", then boxes bought on top (the images they are on differ)"
        head = "Mean ± sample standard deviation" if spread else "Mean"
        notes = [f"{head} over {self.runs_text}; columns: {columns}."]
        if self.schedule and self.schedule.until:
            notes.append(f"A seed ends with its first round in or past {self.schedule.until} (–: all have ended).")
        first = {name: row[0] for name, row in self.rows.items() if row[0].cost}
        extra = {name: entry.cost["images"] - (entry.num_labelled or 0) for name, entry in first.items()}
        if paid := [f"{name} ({images:.0f})" for name, images in extra.items() if images > 0]:
            notes.append(f"Paid for held-out labels besides: {', '.join(paid)}.")
        if told := dict.fromkeys(sentence for row in self.daggers.values() for sentence in row):
            notes.append(f"† {'; '.join(told)}.")
        if len(self.devices) > 1:
            notes.append(f"Ran on {' and on '.join(self.devices)}: numbers differ by rounding between them.")
        notes += [self.versions_note] * bool(self.versions_note)
        return make_visible(" ".join([*notes, *self.audit_note]))

    @property
    def legend(self) -> list[str]:
        """What the lines and words of the table mean, for those who see them for the first time: screen and page tell
        it, files do not."""
        lines = []
        if self.counts_boxes:
            lines.append("boxes: labels paid so far, the mean over the runs")
            lines.append(f"10k x {self.metric} / boxes: ten thousand times the score, divided by them")
        if self.published_rows:
            lines.append("difference: of the means, ours minus the line above")
        entries = [entry for row in self.rows.values() for entry in row]
        if any(entry.num_runs < entry.num_planned and entry.num_ended < entry.num_planned for entry in entries):
            lines.append(
                "(1/3): seeds that have the round, of those asked for; missing: not run yet; failed: it was tried"
            )
        counts = sorted({entry.num_runs for entry in entries if entry.std is not None and entry.num_runs > 1})
        if self.schedule and counts:
            factors = " and ".join(f"{interval_factor(n):.2f} times that with {plural(n, 'seed')}" for n in counts[-2:])
            lines.append(
                f"±: how far single runs differ; the 95 % interval of their mean, in each round alone, is ± {factors}"
            )
        runs = {name: row[0].num_planned for name, row in self.rows.items() if row}
        if len(set(runs.values())) > 1:
            lines.append(f"runs: {', '.join(f'{name} {number}' for name, number in runs.items())}")
        return list(map(make_visible, lines))

    @property
    def audit_note(self) -> list[str]:
        """What the caption says of a table that fails its audit: its first faults, and how many more there are."""
        shown = [f"{fault.check}: {fault}" for fault in self.faults[:MAX_FAULTS_SHOWN]]
        more = [f"and {len(self.faults) - len(shown)} more (`verify` lists them)"] * (len(self.faults) > len(shown))
        return [f"AUDIT FAILED: {'; '.join([*shown, *more])}."] if self.faults else []


def build_tables(experiments: Sequence[Experiment]) -> list[Table]:
    """One table an experiment."""
    return [build_table(one) for one in experiments]


def build_table(experiment: Experiment, published_rows: Mapping[str, Mapping[str, list[Entry]]] | None = None) -> Table:
    """The table of one experiment, audited; `beside`: see Table."""
    schedule = experiment.schedule
    rows = {name: build_row(curve, experiment) for name, curve in experiment.curves.items()}
    daggers = {name: list(curve.daggers) for name, curve in experiment.curves.items()}
    told = {dagger for row in daggers.values() for dagger in row}
    faults = [fault for fault in find_faults(experiment) if fault.message not in told]
    devices = sorted(set[str]().union(*(run.store.devices(run.path) for run in experiment.runs)))
    head = round_headers(schedule) if schedule else [f"{count:,.0f}" for count in experiment.num_labelled_R]
    return Table(
        experiment.title, experiment.source, experiment.task, experiment.metric, head, experiment.rounds, rows, daggers,
        schedule, devices, versions.mixed_versions_note(experiment.mixed_versions), faults, published_rows or {},
    )  # fmt: skip


def build_row(curve: Curve, experiment: Experiment) -> list[Entry]:
    """A strategy's row: one entry a round."""
    row = []
    for number, last in enumerate(experiment.rounds):
        there = np.isfinite(curve.value_SR[:, number])
        values = curve.value_SR[there, number]
        mean = float(values.mean()) if len(values) else None
        std = float(values.std(ddof=1)) if len(values) > 1 else None
        if curve.std_R is not None and np.isfinite(curve.std_R[number]):
            std = float(curve.std_R[number])
        cost = {kind: mean_or_none(paid[there, number]) for kind, paid in curve.cost.items()}
        labelled = mean_or_none(curve.num_labelled_SR[there, number])
        if experiment.schedule and experiment.schedule.budget_in == "images":
            labelled = experiment.schedule.num_images(last)
        num = len(values) if curve.seeds else curve.num_runs * len(values)
        told = {kind: paid for kind, paid in cost.items() if paid is not None}
        printed = {kind: texts[number] for kind, texts in curve.printed_digits.items()}
        ended = curve.num_ended_R[number]
        row.append(Entry(mean, std, num, curve.num_planned, curve.num_failed, labelled, told, ended, printed))
    return row


def interval_factor(num_runs: int) -> float:
    """Half the 95 % interval of a mean, in standard deviations of the runs: Student's."""
    from benchmark.analysis.stats import student_quantile  # it imports scipy, which takes a tenth of a second

    return student_quantile(num_runs - 1, 0.975) / math.sqrt(num_runs)


def mean_or_none(values: Floats) -> float | None:
    """The mean; None of nothing."""
    return float(values.mean()) if len(values) and np.isfinite(values).all() else None


def format_seeds(number: int) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number} seed" + "s" * (number != 1)


def round_headers(schedule: Schedule) -> list[str]:
    """What rounds are called: `1,000`, `2,000` for labelled images; `500`, `+1,000 boxes` under a budget of boxes."""
    if schedule.budget_in == "boxes":
        bought = [schedule.budget * number for number in range(1, schedule.rounds)]
        return [f"{schedule.initial:,}", *(f"+{boxes:,} boxes" for boxes in bought)]
    return [f"{schedule.num_images(number):,}" for number in range(schedule.rounds)]


def text_rows(table: Table) -> list[list[str]]:
    """Header and rows as text; where boxes are counted, two indented lines more a strategy: boxes, score per box."""
    digits = table.metric.digits
    lines = [["strategy", *table.headers]]
    for name, row in table.rows.items():
        lines.append([name + "†" * bool(table.daggers[name]), *(entry.format(digits) for entry in row)])
        for source, told in table.published_rows.get(name, {}).items():
            pairs = zip(row, told, strict=True)
            gaps = [None if None in (a.mean, b.mean) else (a.mean or 0) - (b.mean or 0) for a, b in pairs]
            lines.append([f"{INDENT}{source}", *(entry.format(digits) for entry in told)])
            lines.append([f"{INDENT}difference", *("" if gap is None else f"{gap:+z.{digits}f}" for gap in gaps)])
        if table.counts_boxes:
            per_box = f"{INDENT}10k x {table.metric} / boxes"
            lines.append(
                [
                    f"{INDENT}boxes",
                    *(entry.printed_digits.get("boxes") or format_number(entry.boxes, 0) for entry in row),
                ]
            )
            lines.append([per_box, *(format_number(entry.per_10k_boxes, 3) for entry in row)])
    return lines


def format_number(value: float | None, digits: int) -> str:
    """`12,345.6`; nothing where there is none."""
    return "" if value is None else f"{value:,.{digits}f}"


def to_markdown(table: Table) -> str:
    """The table as GitHub markdown."""
    return format_markdown(f"{table.title}: {table.metric}", text_rows(table), table.note)


def format_markdown(title: str, grid: Sequence[Sequence[str]], note: str) -> str:
    """A header and rows as GitHub markdown, under a title and above a note."""
    head, *rows = grid
    rule = ["---", *("---:" for _ in head[1:])]
    lines = ["| " + " | ".join(map(escaped_markdown, row)) + " |" for row in (head, rule, *rows)]
    return f"### {escaped_markdown(title)}\n\n" + "\n".join(lines) + f"\n\n{escaped_markdown(note)}\n"


def to_latex(table: Table) -> str:
    """The table as LaTeX (booktabs)."""
    return format_latex(f"{table.title}: {table.metric}", text_rows(table), table.note)


def format_latex(title: str, grid: Sequence[Sequence[str]], note: str) -> str:
    """A header and rows as LaTeX (booktabs), under a title with a note."""
    head, *rows = [[latex_cell(text) for text in row] for row in grid]
    body = [" & ".join(head) + r" \\", r"\midrule", *(" & ".join(row) + r" \\" for row in rows)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped_latex(f'{title}. {note}')}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_cell(text: str) -> str:
    """A cell for LaTeX, an indent of ours as a \\quad."""
    indent = r"\quad " if text.startswith(INDENT) else ""
    return indent + escaped_latex(text.removeprefix(INDENT))


def tidy_rows(table: Table) -> list[dict[str, object]]:
    """One row a strategy and round, in the columns of the published curves; `per_10k_boxes` where boxes are counted.

    Digits that a paper printed stay as they are.
    """
    return [
        {
            "source": table.source, "task": table.title if table.schedule else table.task, "strategy": name,
            "num_runs": entry.num_runs, "round": number, "num_labelled": entry.num_labelled,
            "boxes": entry.printed_digits.get("boxes") or entry.boxes, "metric": table.metric.name,
            "value": entry.printed_digits.get("value") or entry.mean,
            "std": entry.std, "num_wanted": entry.num_planned, "num_failed": entry.num_failed,
            "cost_images": entry.cost.get("images"), "saw_evaluation_labels": SAW_EVALUATION_LABELS in table.daggers[name],
            **({"per_10k_boxes": entry.per_10k_boxes} if table.counts_boxes else {}),
        }
        for name, row in table.rows.items()
        for number, entry in zip(table.rounds, row, strict=True)
    ]  # fmt: skip


def tidy_frame(table: Table) -> pd.DataFrame:
    """The `tidy_rows`."""
    import pandas as pd  # takes a fifth of a second: no run needs it

    return pd.DataFrame(tidy_rows(table))


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows under the names of their columns, as pandas writes them; nothing stands for None and NaN. What a
    spreadsheet would compute is text in it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: escape_csv(one) if one == one else None for name, one in row.items()} for row in rows)
    return text.getvalue()


def write_tables(tables: Sequence[Table], folder: Path, *, combine: bool = True) -> list[Path]:
    """NAME.csv, .md and .tex for each table, and, where these are all there are, `together` in tables.md."""
    paths = []
    for one in tables:
        texts = {"csv": to_csv(tidy_rows(one)), "md": to_markdown(one), "tex": to_latex(one)}
        for ending, text in texts.items():
            paths.append(folder / f"{slug(one.title)}.{ending}")
            files.write_atomically(paths[-1], text, folder.parent)
    if combine:
        files.write_atomically(folder / "tables.md", "\n".join(to_markdown(one) for one in tables), folder.parent)
    return paths


def to_json(tables: Sequence[Table]) -> str:
    """Every entry of every table as one JSON list."""
    import pandas as pd

    rows = pd.concat([tidy_frame(one) for one in tables]).map(escape_surrogates)
    for name in ("value", "boxes"):
        rows[name] = pd.to_numeric(rows[name])
    return str(rows.to_json(orient="records", indent=1))
