"""Reads published curves: CSV files in the form of papers' tables, and sources.yaml, which describes the papers.

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
from benchmark.system.files import read_file
from benchmark.system.validation import MAX_NUMBER, convert
from benchmark.text.escaping import unescape_csv

if TYPE_CHECKING:
    import pandas as pd

REQUIRED_COLUMNS = ("source", "task", "strategy", "num_runs", "round", "num_labelled", "metric", "value")
SOURCES_FILE = "sources.yaml"  # beside the CSV files; describes each source


def read_curve_file(path: Path) -> list[Experiment]:
    """Reads a CSV file of curves: one experiment for each source and task.

    Raises:
        ValueError: the file is no valid file of curves; the message is one line.
    """
    import pandas as pd  # takes a quarter of a second: only where it is used

    content = io.BytesIO(read_file(path))
    try:
        frame = pd.read_csv(content, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    frame = frame.map(unescape_csv)
    if missing := [name for name in REQUIRED_COLUMNS if name not in frame]:
        raise ValueError(f"{path} is no file of curves: it lacks the columns {', '.join(missing)}")
    frame = frame[frame["value"] != ""]
    if frame.empty:
        raise ValueError(f"{path} holds no curves")
    frame = frame.assign(has_known_runs=frame["num_runs"] != "")
    texts = {"num_runs": frame["num_runs"].mask(~frame["has_known_runs"], "1"), "round": frame["round"]}
    minimums = {"num_runs": 1, "round": 0}
    counts = {name: parse_counts(texts[name], f"{path}: {name}", minimum) for name, minimum in minimums.items()}
    frame = frame.assign(**counts)
    duplicates = frame[frame.duplicated(["source", "task", "strategy", "round"])]
    if len(duplicates):
        raise ValueError(f"{path}: {' '.join(duplicates.iloc[0][list(REQUIRED_COLUMNS[:3])])} has a round twice")
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
    """Reads what sources.yaml says of each source; empty where there is no such file.

    Raises:
        ValueError: the file is no mapping of sources.
    """
    import yaml

    try:
        content = yaml.safe_load(read_file(path).decode("utf-8-sig")) if path.exists() else {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a mapping of sources, each of them a mapping")
    try:
        return dict(convert(content, dict[str, SourceInfo]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def build_paper_experiment(
    source: str, task: str, rows: pd.DataFrame, source_info: SourceInfo, path: Path
) -> Experiment:
    """Builds one experiment of a paper from its rows of a CSV file."""
    rounds = tuple(sorted(set(rows["round"])))
    not_blind, our_labels = source_info.get("saw_evaluation_labels", []), source_info.get("strategies", {})
    curves = {}
    for strategy, strategy_rows in rows.groupby("strategy", sort=False):
        name = str(strategy)
        dagger = SAW_EVALUATION_LABELS if name in not_blind else ""
        curve = build_paper_curve(name, strategy_rows.set_index("round"), rounds, dagger, path)
        curves[name] = replace(curve, has_companion=declares_companion(our_labels.get(name, name)))
    title = f"{source}_{task}".replace("-", "_")
    metric = resolve_metric(str(rows["metric"].iloc[0]))
    return Experiment(title, source, task, metric, rounds, curves, source_info=source_info)


def build_paper_curve(name: str, rows: pd.DataFrame, rounds: Sequence[int], dagger: str, path: Path) -> Curve:
    """Builds the curve of a published strategy: one row of means.

    Args:
        name: the label of the strategy.
        rows: its rows of the CSV file, by round.
        rounds: the rounds of the experiment.
        dagger: why the strategy carries a dagger; empty for none.
        path: the CSV file, for error messages.

    Raises:
        ValueError: a number is not valid, or a value has no number of labels.
    """
    has_known_runs, rows = bool(rows["has_known_runs"].all()), rows.reindex(list(rounds))
    images = rows["cost_images"] if "cost_images" in rows else rows["num_labelled"]
    texts = {"images": images, "boxes": rows.get("boxes"), "std": rows.get("std")}
    numbers = {kind: parse_numbers(text, f"{path}: {name}: {kind}") for kind, text in texts.items() if text is not None}
    cost = {kind: numbers[kind][None] for kind in ("images", "boxes") if np.isfinite(numbers.get(kind, np.nan)).any()}
    std_R = numbers.get("std", np.full(len(rounds), np.nan))
    has_value = rows["value"].notna()
    num_labelled_R = parse_numbers(rows["num_labelled"], f"{path}: {name}: num_labelled")
    if np.isnan(num_labelled_R[has_value]).any() or "images" not in cost:
        raise ValueError(f"{path}: {name}: a value lacks its num_labelled")
    is_our_table = "num_wanted" in rows  # our own tables hold full floats, not the digits that a paper prints
    printed = [kind for kind in ("value", "std", "boxes") if kind in rows and not is_our_table]
    num_runs = int(rows["num_runs"].max())
    return Curve(
        name, num_runs, num_runs, parse_numbers(rows["value"], f"{path}: {name}: value")[None], num_labelled_R[None],
        cost, daggers=(dagger,) if dagger else (), std_R=std_R if np.isfinite(std_R).any() else None,
        num_ended_R=tuple(0 if is_there else num_runs for is_there in has_value),
        printed_digits={kind: tuple(rows[kind].fillna("")) for kind in printed}, has_known_runs=has_known_runs,
    )  # fmt: skip


def parse_numbers(texts: Iterable[Any], label: str) -> Floats:
    """Parses texts as numbers; NaN for an empty one.

    Args:
        texts: the texts.
        label: names the numbers in error messages.

    Raises:
        ValueError: a text is no finite number.
    """
    numbers = []
    for text in texts:
        try:
            number = float(text) if isinstance(text, str) and text else None
        except ValueError as error:
            raise ValueError(f"{label} {text!r} is no number") from error
        if number is not None and not abs(number) <= MAX_NUMBER:
            raise ValueError(f"{label} {text} is {'too large' if np.isfinite(number) else 'not finite'}")
        numbers.append(np.nan if number is None else number)
    return np.array(numbers, np.float64)


def parse_counts(texts: Iterable[str], label: str, minimum: int) -> list[int]:
    """Parses texts as whole numbers.

    Args:
        texts: the texts.
        label: names the numbers in error messages.
        minimum: the smallest number that is valid.

    Raises:
        ValueError: a text is no whole number, or is too small or too large.
    """
    numbers = []
    for text in texts:
        try:
            number = int(text)
        except ValueError as error:
            raise ValueError(f"{label} {text[:40]!r} is no whole number") from error
        if not minimum <= number <= 2**53:
            raise ValueError(f"{label} must be at least {minimum}" + f" and at most {2**53}" * (number > minimum))
        numbers.append(number)
    return numbers
