"""Reads published curves: CSV files as papers' tables have them, and what is known of their sources.

Shapes: R rounds.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.analysis.curves import Curve, Experiment, Floats, SourceInfo
from benchmark.contract.metrics import resolve_metric
from benchmark.experiment.cell import SAW_EVALUATION_LABELS
from benchmark.plugins.discovery import declares_companion
from benchmark.system.files import read_file as read_file
from benchmark.system.typed import MAX_NUMBER, convert
from benchmark.text.escaping import unescape_csv

if TYPE_CHECKING:
    import pandas as pd

REQUIRED_COLUMNS = (
    "source",
    "task",
    "strategy",
    "num_runs",
    "round",
    "num_labelled",
    "metric",
    "value",
)  # of a CSV, at least
SOURCES_FILE = "sources.yaml"  # beside CSV files: what is known of each source


def read_curve_file(path: Path) -> list[Experiment]:
    """The experiments of a CSV file: one a source and task. ValueError, in one line, for what does not fit."""
    import pandas as pd  # takes a quarter of a second: only where it is used

    content = io.BytesIO(read_file(path))
    try:
        frame = pd.read_csv(content, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    frame = frame.map(unescape_csv)
    if lacking := [name for name in REQUIRED_COLUMNS if name not in frame]:
        raise ValueError(f"{path} is no file of curves: it lacks the columns {', '.join(lacking)}")
    frame = frame[frame["value"] != ""]
    if frame.empty:
        raise ValueError(f"{path} holds no curves")
    whole = {
        name: parse_counts(frame[name], f"{path}: {name}", least) for name, least in (("num_runs", 1), ("round", 0))
    }
    frame = frame.assign(**whole)
    twice = frame.duplicated(["source", "task", "strategy", "round"])
    if twice.any():
        raise ValueError(f"{path}: {' '.join(frame[twice].iloc[0][list(REQUIRED_COLUMNS[:3])])} has a round twice")
    metrics = frame.groupby(["source", "task"])["metric"].nunique()
    if (metrics > 1).any():
        raise ValueError(f"{path}: {' '.join(metrics[metrics > 1].index[0])} has more than one metric")
    sources = read_sources(path.parent / SOURCES_FILE)
    groups = frame.groupby(["source", "task"], sort=False)
    return [
        build_paper_experiment(str(source), str(task), rows, sources.get(str(source), SourceInfo()), path)
        for (source, task), rows in groups
    ]


def read_sources(path: Path) -> dict[str, SourceInfo]:
    """What SOURCES tells by source; nothing where the file is not there."""
    import yaml

    try:
        found = yaml.safe_load(read_file(path).decode("utf-8-sig")) if path.exists() else {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must be a mapping of sources, each of them a mapping")
    try:
        return dict(convert(found, dict[str, SourceInfo]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def build_paper_experiment(
    source: str, task: str, rows: pd.DataFrame, source_info: SourceInfo, path: Path
) -> Experiment:
    """One experiment of a paper from its rows."""
    rounds = tuple(sorted(set(rows["round"])))
    saw, ours = source_info.get("saw_evaluation_labels", []), source_info.get("strategies", {})
    curves = {
        str(name): build_paper_curve(
            str(name), found.set_index("round"), rounds, SAW_EVALUATION_LABELS if name in saw else "", path
        )
        for name, found in rows.groupby("strategy", sort=False)
    }
    curves = {
        name: replace(one, has_companion=declares_companion(ours.get(name, name))) for name, one in curves.items()
    }
    title = f"{source}_{task}".replace("-", "_")
    return Experiment(
        title, source, task, resolve_metric(str(rows["metric"].iloc[0])), rounds, curves, source_info=source_info
    )


def build_paper_curve(name: str, rows: pd.DataFrame, rounds: Sequence[int], dagger: str, path: Path) -> Curve:
    """A curve as a paper tells it: one mean."""
    rows = rows.reindex(list(rounds))
    paid = rows["cost_images"] if "cost_images" in rows else rows["num_labelled"]
    texts = {"images": paid, "boxes": rows.get("boxes"), "std": rows.get("std")}
    numbers = {kind: parse_numbers(text, f"{path}: {name}: {kind}") for kind, text in texts.items() if text is not None}
    cost = {kind: numbers[kind][None] for kind in ("images", "boxes") if np.isfinite(numbers.get(kind, np.nan)).any()}
    std = numbers.get("std", np.full(len(rounds), np.nan))
    there = rows["value"].notna()
    labelled = parse_numbers(rows["num_labelled"], f"{path}: {name}: num_labelled")
    if np.isnan(labelled[there]).any() or "images" not in cost:
        raise ValueError(f"{path}: {name}: a value lacks its num_labelled")
    own = "num_wanted" in rows  # a table of ours, whose digits are all that a float has
    return Curve(
        name, int(rows["num_runs"].max()), int(rows["num_runs"].max()),
        parse_numbers(rows["value"], f"{path}: {name}: value")[None], labelled[None], cost,
        daggers=(dagger,) if dagger else (), std_R=std if np.isfinite(std).any() else None,
        num_ended_R=tuple(0 if one else int(rows["num_runs"].max()) for one in there),
        printed_digits={kind: tuple(rows[kind].fillna("")) for kind in ("value", "std", "boxes") if kind in rows and not own},
    )  # fmt: skip


def parse_numbers(texts: Iterable[Any], label: str) -> Floats:
    """Texts as numbers, NaN where there is none. ValueError where one is no finite number."""
    found = []
    for text in texts:
        try:
            number = float(text) if isinstance(text, str) and text else None
        except ValueError as error:
            raise ValueError(f"{label} {text!r} is no number") from error
        if number is not None and not abs(number) <= MAX_NUMBER:
            raise ValueError(f"{label} {text} is {'too large' if np.isfinite(number) else 'not finite'}")
        found.append(np.nan if number is None else number)
    return np.array(found, np.float64)


def parse_counts(texts: Iterable[str], label: str, minimum: int) -> list[int]:
    """Texts as whole numbers. ValueError where one is none, or smaller or larger than it can be."""
    found = []
    for text in texts:
        try:
            number = int(text)
        except ValueError as error:
            raise ValueError(f"{label} {text[:40]!r} is no whole number") from error
        if not minimum <= number <= 2**53:
            raise ValueError(f"{label} must be at least {minimum}" + f" and at most {2**53}" * (number > minimum))
        found.append(number)
    return found
