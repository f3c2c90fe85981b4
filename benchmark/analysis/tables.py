"""Tables of a results folder: mean score per round, methods x rounds, as the ISAL supplement lays them out.

Reads records only, so that a table can be rebuilt where torch is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.schedule import Schedule
from benchmark.store import SAW_EVALUATION, Store, replace, slug

PLACES = {"map": 3, "ap": 3}  # decimals of the metrics that are a share in 0..1; 2 for those in per cent
INDENT = "  "  # of the lines below a strategy's own


@dataclass(frozen=True)
class Entry:
    """One cell of a table: mean and sample standard deviation over `n` of `wanted` seeds."""

    mean: float | None
    std: float | None
    n: int
    wanted: int
    failed: int
    num_labelled: float | None  # images trained on; the mean of `n` seeds where they differ
    cost: dict[str, float]  # mean labels paid so far: images, boxes where the task counts them
    ended: int = 0  # seeds whose last round was before this one

    def text(self, places: int = 2) -> str:
        """`84.10 ± 0.32`; seeds that lack are counted: `84.10 ± 0.32 (2/3)`, `failed (0/3)`, `missing (0/3)`.

        `–` where all seeds ended before.
        """
        count = "" if self.n == self.wanted else f" ({self.n}/{self.wanted})"
        if self.mean is None:
            return "–" if self.ended == self.wanted else ("failed" if self.failed else "missing") + count
        spread = "" if self.std is None else f" ± {self.std:.{places}f}"
        return f"{self.mean:.{places}f}{spread}{count}"

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
    task: str
    metric: str
    schedule: Schedule
    rows: dict[str, list[Entry]]  # by strategy
    daggers: dict[str, list[str]]  # by strategy: why its row carries a dagger, a sentence each
    devices: list[str]  # what the cells ran on

    @property
    def counts_boxes(self) -> bool:
        """Whether the task charges for boxes."""
        return any(entry.boxes is not None for row in self.rows.values() for entry in row)

    @property
    def note(self) -> str:
        """What a reader must know below the table."""
        wanted = max((entry.wanted for row in self.rows.values() for entry in row), default=0)
        columns = "labelled images"
        if self.schedule.budget_in == "boxes":
            columns += ", then boxes bought on top (the images they are on differ)"
        notes = [f"Mean ± sample standard deviation over {wanted} seeds; columns: {columns}."]
        if self.schedule.until:
            notes.append(f"A seed ends with its first round in or past {self.schedule.until} (–: all have ended).")
        first = {name: row[0] for name, row in self.rows.items() if row[0].cost}
        extra = {name: entry.cost["images"] - (entry.num_labelled or 0) for name, entry in first.items()}
        if paid := [f"{name} ({images:.0f})" for name, images in extra.items() if images > 0]:
            notes.append(f"Paid for held-out labels besides: {', '.join(paid)}.")
        if told := dict.fromkeys(sentence for row in self.daggers.values() for sentence in row):
            notes.append(f"† {'; '.join(told)}.")
        if len(self.devices) > 1:
            notes.append(f"Ran on {' and on '.join(self.devices)}: numbers differ by rounding between them.")
        return " ".join(notes)


def tables(store: Store) -> list[Table]:
    """One table an experiment, in the order in which they were asked for."""
    frame = store.frame()
    return [table(e, frame[frame.experiment == e["name"]], store) for e in store.manifest()["experiments"]]


def table(experiment: Mapping[str, Any], frame: pd.DataFrame, store: Store) -> Table:
    """The table of one experiment from its rows of `Store.frame`."""
    schedule = Schedule(**experiment["schedule"])
    rows, daggers, devices = {}, {}, set()
    for strategy in dict.fromkeys(cell["strategy"] for cell in experiment["cells"]):
        cells = [cell for cell in experiment["cells"] if cell["strategy"] == strategy]
        devices |= {one.device for cell in cells for one in store.measured(cell["path"])}
        rows[strategy] = entries([cell["path"] for cell in cells], frame[frame.strategy == strategy], schedule, store)
        daggers[strategy] = cells[0]["dagger"]
    metric = str(frame["metric"].iloc[0]) if len(frame) else "score"
    return Table(experiment["name"], experiment["task"], metric, schedule, rows, daggers, sorted(devices))


def entries(cells: Sequence[str], frame: pd.DataFrame, schedule: Schedule, store: Store) -> list[Entry]:
    """A strategy's row: one entry a round, from its cells' paths and its rows of `Store.frame`."""
    failed = sum(store.failed(cell, schedule) for cell in cells)
    records = [store.records(cell)[1] for cell in cells]
    lengths = [len(one) for one in records if schedule.finished(one)]
    row = []
    for number in range(schedule.rounds):
        found = frame[frame["round"] == number]
        values = found["value"]
        mean = float(values.mean()) if len(values) else None
        std = float(values.std(ddof=1)) if len(values) > 1 else None
        ended = sum(length <= number for length in lengths)
        num_labelled = labelled(found, schedule, number)
        row.append(Entry(mean, std, len(values), len(cells), failed, num_labelled, mean_cost(found), ended))
    return row


def labelled(frame: pd.DataFrame, schedule: Schedule, number: int) -> float | None:
    """Images that a round is trained on: the schedule's, or the mean of those found where it counts boxes."""
    if schedule.budget_in == "boxes":
        return float(frame["num_labelled"].mean()) if len(frame) else None
    return schedule.initial + schedule.budget * number


def mean_cost(frame: pd.DataFrame) -> dict[str, float]:
    """Mean labels paid, by kind; empty where there are no records."""
    kinds = [str(name) for name in frame.columns if str(name).startswith("cost_")]
    return {name.removeprefix("cost_"): float(frame[name].mean()) for name in kinds if frame[name].notna().any()}


def heads(schedule: Schedule) -> list[str]:
    """What rounds are called: `1,000`, `2,000` for labelled images; `500`, `+1,000 boxes` under a budget of boxes."""
    bought = [schedule.budget * number for number in range(schedule.rounds)]
    if schedule.budget_in == "boxes":
        return [f"{schedule.initial:,}", *(f"+{boxes:,} boxes" for boxes in bought[1:])]
    return [f"{schedule.initial + images:,}" for images in bought]


def grid_of(made: Table) -> list[list[str]]:
    """Header and rows as text; where boxes are counted, two indented lines more a strategy: boxes, score per box."""
    places = PLACES.get(made.metric, 2)
    lines = [["strategy", *heads(made.schedule)]]
    for name, row in made.rows.items():
        lines.append([name + "†" * bool(made.daggers[name]), *(entry.text(places) for entry in row)])
        if made.counts_boxes:
            per_box = f"{INDENT}10k x {made.metric} / boxes"
            lines.append([f"{INDENT}boxes", *(shown(entry.boxes, 0) for entry in row)])
            lines.append([per_box, *(shown(entry.per_10k_boxes, 3) for entry in row)])
    return lines


def shown(value: float | None, places: int) -> str:
    """`12,345.6`; nothing where there is none."""
    return "" if value is None else f"{value:,.{places}f}"


def markdown(made: Table) -> str:
    """The table as GitHub markdown."""
    head, *rows = grid_of(made)
    rule = ["---", *("---:" for _ in head[1:])]
    lines = ["| " + " | ".join(text.replace("|", r"\|") for text in row) + " |" for row in (head, rule, *rows)]
    return f"### {made.title}: {made.metric}\n\n" + "\n".join(lines) + f"\n\n{made.note}\n"


def latex(made: Table) -> str:
    """The table as LaTeX (booktabs)."""
    head, *rows = [[escaped(text) for text in row] for row in grid_of(made)]
    body = [" & ".join(head) + r" \\", r"\midrule", *(" & ".join(row) + r" \\" for row in rows)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(f'{made.title}: {made.metric}. {made.note}')}}}",
        rf"\begin{{tabular}}{{l{'r' * made.schedule.rounds}}}",
        r"\toprule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text for LaTeX, an indent of ours as a \\quad."""
    marks = {
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        "–": "--",
        "†": r"$^\dagger$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    marks |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    marks |= {mark: f"\\{mark}" for mark in "&%$#_{}"}
    indent = r"\quad " if text.startswith(INDENT) else ""
    return indent + "".join(marks.get(character, character) for character in text.removeprefix(INDENT))


def tidy(made: Table, source: str) -> pd.DataFrame:
    """One row a strategy and round, in the columns of the published curves; `per_10k_boxes` where boxes are counted."""
    rows = [
        {
            "source": source, "task": made.title, "strategy": name, "num_runs": entry.n,
            "round": number, "num_labelled": entry.num_labelled,
            "boxes": entry.boxes, "metric": made.metric, "value": entry.mean,
            "std": entry.std, "num_wanted": entry.wanted, "num_failed": entry.failed,
            "cost_images": entry.cost.get("images"), "saw_evaluation_labels": SAW_EVALUATION in made.daggers[name],
            **({"per_10k_boxes": entry.per_10k_boxes} if made.counts_boxes else {}),
        }
        for name, row in made.rows.items()
        for number, entry in enumerate(row)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def write(made: Sequence[Table], folder: Path, source: str) -> list[Path]:
    """tables/NAME.csv, .md and .tex for each table, and all of them in tables/tables.md."""
    paths = []
    for one in made:
        texts = {"csv": tidy(one, source).to_csv(index=False), "md": markdown(one), "tex": latex(one)}
        for ending, text in texts.items():
            paths.append(folder / "tables" / f"{slug(one.title)}.{ending}")
            replace(paths[-1], text)
    replace(folder / "tables" / "tables.md", "\n".join(markdown(one) for one in made))
    return paths


def as_json(made: Sequence[Table], source: str) -> str:
    """Every entry of every table as one JSON list."""
    rows = pd.concat([tidy(one, source) for one in made])
    return str(rows.to_json(orient="records", indent=1))
