"""Chooses the next images to label: one acquisition of the loop, on a pool whose end has no labels.

Shapes: N images, P predictions, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from torch import nn

from benchmark.api import Indices, Machine, Predicts, View, check_encoder_weights
from benchmark.experiment.cell import Cell
from benchmark.experiment.pick_settings import PickSettings
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins.capability_names import MODEL_FREE, describe_needs
from benchmark.runner.acquisition import InitialDraw, build_view, query_strategy, selection_stage
from benchmark.runner.fit_cache import FitCache, fit_round
from benchmark.runner.measuring import Clock, device_name
from benchmark.runner.picking.formats import FORMATS, WITH_PREDICTIONS, find_format
from benchmark.runner.picking.picks import Pick, Picks, PredictedObject
from benchmark.runner.picking.pool import PickPool, build_pool, unlabelled_spec
from benchmark.runner.picking.sources import list_unlabelled
from benchmark.runner.picking.video_frames import thin_out
from benchmark.runner.time_limit import time_limit
from benchmark.seeds import seed
from benchmark.system.process_state import isolate_plugin
from benchmark.text.words import plural
from benchmark.vision.data.image_files import open_image, orientation

ROUND = 1  # the round of the loop that a pick equals: round 0 trains on the labelled images
TURNED_SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations in which width and height are exchanged


def choose(settings: PickSettings, machine: Machine, cache_gb: float) -> Picks:
    """Trains on the labelled images, and chooses among the unlabelled ones. The plug-ins must have been discovered.

    Args:
        settings: the settings.
        machine: where to train and to choose; its scratch folder keeps encodings and trained models.
        cache_gb: disk space for trained models, in gigabytes.

    Raises:
        ValueError: a setting, a file or a label does not fit.
    """
    strategy = Spec.read("strategy", settings.strategy)
    spec = Spec.read("task", settings.task) if settings.task else None
    writes_predictions = FORMATS[find_format(settings.to, settings.format)] in WITH_PREDICTIONS and spec is not None
    check_settings(settings, strategy, spec, machine)
    pool = build_pool(settings, spec, list_unlabelled(settings, machine.data), machine)
    cell, draw = build_cell(settings, strategy, spec or unlabelled_spec(), pool)
    fit_seconds, model = 0.0, None
    if writes_predictions or strategy.needs - MODEL_FREE:
        fits = FitCache((machine.scratch or Path()) / "fits", cache_gb * bool(machine.scratch), device_name(machine))
        fit = fit_round(cell, pool.task, fits, draw.initial, 0)
        fit_seconds, model = fit.seconds * (not fit.from_cache), fit.model
    purchases, clock = [draw.initial] * bool(len(draw.initial)), Clock()
    view = build_view(cell, pool.task, draw, model or pool.task.model().eval(), purchases, pool.unavailable)
    check_budget(settings, view, pool)
    with selection_stage(cell, ROUND), clock("select"), time_limit(machine.select_timeout, strategy.label):
        ranked, scores = select(settings, cell, view, pool)
    clock.separate_encoding(view.encoding_time)
    seconds = {"fit": fit_seconds, **{name: value for name, value in clock.seconds.items() if name != "score"}}
    objects = predict_objects(cell, pool, model, ranked, settings.min_score)
    picks = [
        build_pick(pool, cell, rank, index, scores.get(index), objects.get(index, []))
        for rank, index in enumerate(ranked.tolist(), 1)
    ]
    return Picks(strategy.label, picks, pool.classes, len(pool.labelled), len(view.unlabelled), seconds, pool.remarks)


def check_settings(settings: PickSettings, strategy: Spec, spec: Spec | None, machine: Machine) -> None:
    """ValueError where the strategy needs what there is not, before images are read."""
    needs_model = strategy.needs - MODEL_FREE
    if spec is None and needs_model:
        raise ValueError(
            f"strategy={strategy.label} uses a trained model ({describe_needs(needs_model)}): set task=, whose pool is "
            "the labelled images, or take a strategy that needs none, such as one with an encoder"
        )
    if spec is not None:
        Cell(spec, strategy, Schedule(1, settings.budget, 2, settings.validation), settings.seed).check_needs()
    if settings.min_seconds_apart and not settings.fps:
        raise ValueError(f"min_seconds_apart={settings.min_seconds_apart:g}: set fps=N, so that frames have times")
    for plugin, label in strategy.nested_plugins():
        if plugin.kind == "encoder":
            check_encoder_weights(label, machine)


def build_cell(settings: PickSettings, strategy: Spec, spec: Spec, pool: PickPool) -> tuple[Cell, InitialDraw]:
    """Builds the cell of the loop of which a pick is round 1, and draws the held-out images from the labelled ones."""
    num_labelled, num_held_out = len(pool.labelled), settings.validation
    if num_held_out and num_held_out >= num_labelled:
        raise ValueError(f"validation={num_held_out}: there are {plural(num_labelled, 'labelled image')} in all")
    schedule = Schedule(num_labelled - num_held_out, settings.budget, 2, num_held_out) if num_labelled else None
    cell = Cell(spec, strategy, schedule or Schedule(0, settings.budget, 1, one_pass=True), settings.seed)
    order = np.random.default_rng(seed("initial", spec.name, settings.seed)).permutation(pool.labelled)
    return cell, InitialDraw(np.sort(order[num_held_out:]), np.sort(order[:num_held_out]))


def check_budget(settings: PickSettings, view: View, pool: PickPool) -> None:
    """ValueError where fewer images than the budget can be picked."""
    num_left = len(view.unlabelled)
    if settings.budget > num_left:
        reasons = "; ".join([plural(len(pool.files), "file"), *pool.remarks])
        raise ValueError(
            f"budget={settings.budget}: only {plural(num_left, 'image')} of unlabelled={settings.unlabelled} can be "
            f"picked ({reasons}): lower the budget"
        )


def select(settings: PickSettings, cell: Cell, view: View, pool: PickPool) -> tuple[Indices, dict[int, float]]:
    """Returns the positions of the picks, the most wanted first, and the score of each where the strategy has scores.

    With min_seconds_apart, the strategy is queried for more images until enough are far enough apart: of two that are
    too close the better one stays.
    """
    num_left, num_images = len(view.unlabelled), settings.budget
    while True:
        ranked = query_strategy(cell, view, ROUND, num_images)
        scores = view.scores if [*view.scores] == ranked.tolist() else {}  # else those of a step before the last
        if not settings.min_seconds_apart:
            return ranked, scores
        is_taken = np.zeros(pool.task.num_pool, bool)
        is_taken[pool.labelled] = is_taken[pool.unavailable] = True
        taken = np.flatnonzero(is_taken[pool.first :]).tolist()
        apart = thin_out(pool.files.times, (ranked - pool.first).tolist(), settings.min_seconds_apart, taken)
        if len(apart) >= settings.budget:
            return pool.first + np.array(apart[: settings.budget], np.int64), scores
        if num_images == num_left:
            raise ValueError(
                f"min_seconds_apart={settings.min_seconds_apart:g}: only {plural(len(apart), 'frame')} can be picked "
                "so far apart: lower it, or the budget"
            )
        num_images = min(num_left, 2 * num_images)


def predict_objects(
    cell: Cell, pool: PickPool, model: nn.Module | None, indices: Indices, min_score: float
) -> dict[int, list[PredictedObject]]:
    """Returns what the model predicts on images, by position: a class, or boxes of at least `min_score`."""
    if model is None or not hasattr(pool.task, "predict"):
        return {}
    task, classes = cast(Predicts, pool.task), pool.classes
    with isolate_plugin(cell.task.label, seed("global predict", cell.task.name, cell.seed)):
        predictions = task.predict(model, indices)
    is_detector = predictions.boxes_P4 is not None
    if not (is_detector or predictions.one_each):
        return {}
    scores_PC = predictions.scores_PC[:, :-1] if is_detector else predictions.scores_PC
    confidence_P = predictions.score_P.tolist()
    boxes = predictions.boxes_P4.tolist() if predictions.boxes_P4 is not None else [None] * len(confidence_P)
    objects: dict[int, list[PredictedObject]] = {index: [] for index in indices.tolist()}
    rows = zip(predictions.image_P.tolist(), scores_PC.argmax(1).tolist(), confidence_P, boxes, strict=True)
    for image, number, confidence, corners in rows:
        if not is_detector or confidence >= min_score:
            box = None if corners is None else tuple(corners)
            objects[int(indices[image])].append(PredictedObject(classes[number], confidence, box))
    return objects


def build_pick(
    pool: PickPool, cell: Cell, rank: int, index: int, score: float | None, objects: Sequence[PredictedObject]
) -> Pick:
    """Builds the pick of one image. ValueError where its file has vanished meanwhile."""
    number = index - pool.first
    path = pool.files.paths[number]
    with open_image(path) as image:
        is_sideways = orientation(image) in TURNED_SIDEWAYS and image.format != "TIFF"
        size = image.size[::-1] if is_sideways and cell.task.values.get("exif") != "ignore" else image.size
    return Pick(rank, path, pool.files.names[number], score, size, objects)
