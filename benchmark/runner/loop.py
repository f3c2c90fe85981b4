"""The active-learning loop of one cell: select, fit, score, record, again.

`acquisition` chooses what is labelled and enforces the budget, `fit_cache` trains, `measuring` takes time and memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from benchmark.api import Machine, ReportsBatchSizes, Task, hash_weight_files
from benchmark.contract.metrics import class_scores, resolve_metric, shorten_metric
from benchmark.experiment.cell import Cell
from benchmark.records.record import Header, Measured, Record
from benchmark.runner.acquisition import Acquisition, draw_initial, paid_images, selection_stage
from benchmark.runner.fit_cache import FitCache, fit_round
from benchmark.runner.measuring import Clock, device_name, library_versions, peak_memory_mb, reset_peak_memory
from benchmark.runner.time_limit import time_limit
from benchmark.seeds import seed
from benchmark.system import activity
from benchmark.system.process_state import isolate_plugin


def run(
    cell: Cell, task: Task, fits: FitCache, machine: Machine, past: Sequence[Record] = ()
) -> Iterator[tuple[Record, Measured]]:
    """Yields the rounds of a cell that `past` lacks; recorded rounds are replayed from the indices they bought.

    The model of round n - 1 selects what the model of round n is trained on; a one-pass schedule selects once.
    """
    if cell.schedule.is_finished(past):
        return
    purchases = [np.array(record.bought, np.int64) for record in past]
    initial_draw = draw_initial(cell, task, purchases[0] if past else None)
    file_hashes, code = encoder_file_hashes(cell, machine), cell.strategy.code_hash
    labelled = np.concatenate([np.empty(0, np.int64), *purchases])
    acquisition = Acquisition(cell, task, fits, initial_draw, labelled[len(initial_draw.initial) :])
    fit = fit_round(cell, task, fits, labelled, len(past) - 1) if past else None
    for round_number in range(len(past), cell.schedule.rounds):
        clock = Clock()
        reset_peak_memory(machine)
        bought, diagnostics = initial_draw.initial, dict(initial_draw.diagnostics)
        clock.seconds.update(initial_draw.seconds if not round_number else {})
        if round_number or not cell.schedule.initial:
            view = acquisition.current_view(fit, purchases)
            limit = time_limit(machine.select_timeout, cell.strategy.label)
            with selection_stage(cell, round_number), clock("select"), limit:
                bought, diagnostics = acquisition.select(view, round_number)
            clock.separate_encoding(view.encoding_time)
        purchases.append(bought)
        labelled = np.concatenate(purchases)
        fit = fit_round(cell, task, fits, labelled, round_number)
        with scoring_stage(cell, round_number), clock("score"):
            scores = task.score(fit.model)
        is_last = cell.schedule.reaches_target(scores)
        cost = task.cost(paid_images(cell, initial_draw, labelled))
        seconds = {"fit": fit.seconds, **clock.seconds}
        if encoder_file_hashes(cell, machine) != file_hashes:
            raise ValueError("an encoder's weight file was replaced during the round: the round is not recorded")
        record = Record(
            round_number, len(labelled), bought.tolist(), cost, dict(scores), diagnostics,
            **batch_size_fields(task, len(labelled)), class_scores=class_scores(scores),
        )  # fmt: skip
        if missing := record.describe_missing(resolve_metric(task.metric).name):
            raise ValueError(f"{cell.task.label}: {missing}")
        device, versions = device_name(machine), library_versions()
        yield record, Measured(round_number, seconds, fit.from_cache, peak_memory_mb(machine), device, versions, code)
        if is_last:
            return


def build_header(cell: Cell, task: Task, machine: Machine) -> Header:
    """Returns the first line of a cell's records."""
    held_out = draw_initial(cell, task, np.empty(0, np.int64)).held_out.tolist()
    file_hashes = encoder_file_hashes(cell, machine)
    metric = shorten_metric(resolve_metric(task.metric))
    return Header(cell.key, cell.identity(), task.fingerprint, task.num_pool, metric, held_out, weights=file_hashes)


def encoder_file_hashes(cell: Cell, machine: Machine) -> dict[str, dict[str, str]]:
    """Returns encoder -> parameter -> SHA-256 of the weight file, for the encoders that the cell's strategies use."""
    strategies = [cell.strategy] + ([cell.initial_strategy] if cell.initial_strategy else [])
    nested = [pair for strategy in strategies for pair in strategy.nested_plugins()]
    labels = [label for plugin, label in nested if plugin.kind == "encoder"]
    return {label: hashes for label in labels if (hashes := hash_weight_files(label, machine))}


@contextmanager
def scoring_stage(cell: Cell, round_number: int) -> Iterator[None]:
    """Wraps the scoring of a round: reports the stage, and restores what the task changes in the process."""
    own_seed = seed("global score", cell.task.name, cell.seed, round_number, *cell.variant.training_seed_names)
    with isolate_plugin(cell.task.label, own_seed), activity.stage("scoring"):
        yield


def batch_size_fields(task: Task, num_images: int) -> dict[str, int]:
    """Returns the record's fields on batch sizes of a fit on `num_images` images; {} where the task reports none."""
    sizes = task.batch_sizes(num_images) if isinstance(task, ReportsBatchSizes) else None
    return {} if sizes is None else {"smallest_batch": sizes.smallest, "batch_size": sizes.intended}
