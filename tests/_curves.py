"""Made-up curves and records for the tests of the analysis."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.analysis.curves import Curve, Experiment
from benchmark.contract.metrics import resolve_metric
from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store


def curve(name: str, values: Any, cost: Any = None, seeds: Sequence[int] | None = None, **more: Any) -> Curve:
    """A curve of (S, R) values; cost: (R,) or (S, R) images, by default 1000, 2000 ..."""
    value_SR = np.atleast_2d(np.array(values, float))
    paid = np.arange(1, value_SR.shape[1] + 1) * 1000.0 if cost is None else np.array(cost, float)
    cost_SR = np.broadcast_to(paid, value_SR.shape).copy()
    known = tuple(range(len(value_SR))) if seeds is None else tuple(seeds)
    starts = more.pop("starts", tuple(f"start {seed}" for seed in known))
    kind = more.pop("kind", "images")
    num = more.pop("num_runs", len(value_SR))
    costs = {"images": cost_SR} | ({} if kind == "images" else {kind: cost_SR})
    ended = (0,) * value_SR.shape[1]
    return Curve(name, num, num, value_SR, cost_SR, costs, known, starts, num_ended_R=ended, **more)


def experiment(*curves: Curve, **more: Any) -> Experiment:
    """An experiment of these curves."""
    rounds = tuple(range(max(row.value_SR.shape[1] for row in curves)))
    fields = {"title": "made_up", "source": "made", "task": "made_up", "metric": "accuracy", "rounds": rounds} | more
    fields["metric"] = resolve_metric(fields["metric"])
    return Experiment(curves={row.strategy: row for row in curves}, **fields)


SCHEDULE = {"initial": 4, "budget": 2, "rounds": 3, "validation": 2}
HELD_OUT = [98, 99]


def identity(strategy: str, seed: int = 0, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the header of a run records of it; parameters: those of the task."""
    task = {"name": "digits", "version": 1, "parameters": dict(parameters or {})}
    return {"task": task, "strategy": {"name": strategy, "version": 1, "parameters": {}}, "seed": seed}


def recorded(
    folder: Path,
    scores: Mapping[str, Mapping[int, Sequence[float]]],
    *,
    parameters: Mapping[str, Any] | None = None,
    name: str = "made_up",
    companions: Sequence[str] = (),
    daggers: Mapping[str, Sequence[str]] | None = None,
    boxes: Sequence[float] = (),
    class_scores: Callable[[str, int, int], dict[str, dict[str, float]]] | None = None,
    **schedule: Any,
) -> Store:
    """Writes a results folder that passes the audit: 4 + 2 images per round, of a pool of 100 with 2 held out.

    scores: strategy -> seed -> accuracy in each round. class_scores: of a strategy, a seed and a round.
    """
    store = Store(folder)
    cells = [
        {
            "path": f"made/{strategy}/seed-{seed}", "key": f"{strategy} {seed}", "strategy": strategy, "seed": seed,
            "dagger": list((daggers or {}).get(strategy, [])), "companion": strategy in companions,
        }
        for strategy, seeds in scores.items()
        for seed in seeds
    ]  # fmt: skip
    store.update_manifest("made", [{"name": name, "task": "digits", "schedule": SCHEDULE | schedule, "cells": cells}])
    for number, (strategy, seeds) in enumerate(scores.items()):
        for seed, values in seeds.items():
            cell = f"made/{strategy}/seed-{seed}"
            if not values:
                continue
            store.start_cell(
                cell,
                Header(f"{strategy} {seed}", identity(strategy, seed, parameters), "data", 100, "accuracy", HELD_OUT),
            )
            for place, value in enumerate(values):
                first = 10 * seed if place == 0 else 50 + 2 * place + number
                bought = list(range(first, first + (4 if place == 0 else 2)))
                bought = bought if place < 2 else [index + 20 for index in bought]
                labelled = 4 + 2 * place
                cost = {"images": float(labelled)} | ({"boxes": float(boxes[place])} if boxes else {})
                of_class = class_scores(strategy, seed, place) if class_scores else {}
                record = Record(place, labelled, bought, cost, {"accuracy": float(value)}, class_scores=of_class)
                seconds = {"fit": 1.0, "score": 0.1, "select": 0.01 * place}
                store.append(cell, record, Measured(place, seconds, False, 10.0, "cpu", {"numpy": "2"}))
    return store


PLAIN = {
    "random": {0: [50.0, 60.0, 65.0], 1: [52.0, 61.0, 67.0], 2: [51.0, 62.0, 66.0]},
    "mine": {0: [50.0, 64.0, 70.0], 1: [52.0, 63.0, 71.0], 2: [51.0, 66.0, 69.0]},
    "other": {0: [50.0, 59.0, 64.0], 1: [52.0, 60.0, 68.0], 2: [51.0, 61.0, 67.0]},
}
