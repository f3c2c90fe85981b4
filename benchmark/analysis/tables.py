"""Tables of a results folder: mean score per round, methods x rounds, as the ISAL supplement lays them out.

Reads records only, so that a table can be rebuilt where torch is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.store import Store, replace, slug

DAGGER_NOTE = "† selection saw evaluation labels."


@dataclass(frozen=True)
class Entry:
    """One cell of a table: mean and sample standard deviation over `n` of `wanted` seeds."""

    mean: float | None
    std: float | None
    n: int
    wanted: int
    failed: int

    @property
    def text(self) -> str:
        """`84.10 ± 0.32`; seeds that lack are counted: `84.10 ± 0.32 (2/3)`, `failed (0/3)`, `missing (0/3)`."""
        count = "" if self.n == self.wanted else f" ({self.n}/{self.wanted})"
        if self.mean is None:
            return ("failed" if self.failed else "missing") + count
        spread = "" if self.std is None else f" ± {self.std:.2f}"
        return f"{self.mean:.2f}{spread}{count}"


@dataclass(frozen=True)
class Table:
    """One experiment: a row a strategy, a column a round."""

    title: str
    task: str
    metric: str
    num_labelled: list[int]
    rows: dict[str, list[Entry]]  # by strategy, a dagger behind those that saw evaluation labels
    costs: dict[str, list[dict[str, float]]]  # mean labels paid so far: images, boxes where the task counts them
    devices: list[str]  # what the cells ran on

    @property
    def note(self) -> str:
        """What a reader must know below the table."""
        wanted = max((entry.wanted for row in self.rows.values() for entry in row), default=0)
        notes = [f"Mean ± sample standard deviation over {wanted} seeds; columns: labelled images."]
        extra = {name: cost[0]["images"] - self.num_labelled[0] for name, cost in self.costs.items() if cost[0]}
        if paid := [f"{name} ({images:.0f})" for name, images in extra.items() if images > 0]:
            notes.append(f"Paid for held-out labels besides: {', '.join(paid)}.")
        if any(name.endswith("†") for name in self.rows):
            notes.append(DAGGER_NOTE)
        if len(self.devices) > 1:
            notes.append(f"Ran on {' and on '.join(self.devices)}: numbers differ by rounding between them.")
        return " ".join(notes)


def tables(store: Store) -> list[Table]:
    """One table an experiment, in the order in which they were asked for."""
    frame = store.frame()
    return [table(e, frame[frame.experiment == e["name"]], store) for e in store.manifest()["experiments"]]


def table(experiment: Mapping[str, Any], frame: pd.DataFrame, store: Store) -> Table:
    """The table of one experiment from its rows of `Store.frame`."""
    schedule = experiment["schedule"]
    sizes = [schedule["initial"] + schedule["budget"] * number for number in range(schedule["rounds"])]
    rows, costs, devices = {}, {}, set()
    for strategy in dict.fromkeys(cell["strategy"] for cell in experiment["cells"]):
        cells = [cell for cell in experiment["cells"] if cell["strategy"] == strategy]
        failed = sum(store.failed(cell["path"], schedule["rounds"]) for cell in cells)
        devices |= {one.device for cell in cells for one in store.measured(cell["path"])}
        name = strategy + ("†" if cells[0]["dagger"] else "")
        part = frame[frame.strategy == strategy]
        by_round = [part[part["round"] == number] for number in range(schedule["rounds"])]
        rows[name] = [entry(found["value"], len(cells), failed) for found in by_round]
        costs[name] = [mean_cost(found) for found in by_round]
    metric = str(frame["metric"].iloc[0]) if len(frame) else "score"
    return Table(experiment["name"], experiment["task"], metric, sizes, rows, costs, sorted(devices))


def mean_cost(frame: pd.DataFrame) -> dict[str, float]:
    """Mean labels paid, by kind; empty where there are no records."""
    kinds = [str(name) for name in frame.columns if str(name).startswith("cost_")]
    return {name.removeprefix("cost_"): float(frame[name].mean()) for name in kinds if frame[name].notna().any()}


def entry(values: pd.Series[float], wanted: int, failed: int) -> Entry:
    """Mean and spread of one strategy at one round."""
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    return Entry(float(values.mean()) if len(values) else None, std, len(values), wanted, failed)


def grid_of(made: Table) -> list[list[str]]:
    """Header and rows as text."""
    head = ["strategy", *(f"{size:,}" for size in made.num_labelled)]
    return [head, *([name, *(entry.text for entry in row)] for name, row in made.rows.items())]


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
        rf"\begin{{tabular}}{{l{'r' * len(made.num_labelled)}}}",
        r"\toprule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text for LaTeX."""
    marks = {
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        "†": r"$^\dagger$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    marks |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    marks |= {mark: f"\\{mark}" for mark in "&%$#_{}"}
    return "".join(marks.get(character, character) for character in text)


def tidy(made: Table, source: str) -> pd.DataFrame:
    """One row a strategy and round, in the columns of the published curves."""
    rows = [
        {
            "source": source, "task": made.title, "strategy": name.removesuffix("†"), "num_runs": entry.n,
            "round": number, "num_labelled": made.num_labelled[number],
            "boxes": made.costs[name][number].get("boxes"), "metric": made.metric, "value": entry.mean,
            "std": entry.std, "num_wanted": entry.wanted, "num_failed": entry.failed,
            "cost_images": made.costs[name][number].get("images"), "saw_evaluation_labels": name.endswith("†"),
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
