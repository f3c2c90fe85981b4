"""Renders docs/selection_times.md: what each strategy needs before it selects, and the seconds that this takes.

    python -m tools.selection_times

What is needed comes from the strategies' declarations, our seconds from `results/reference/all`, and published seconds
from `results/published/sources.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmark.analysis.curves import Experiment
from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.published import read_sources
from benchmark.analysis.seconds import MeanSeconds, mean_seconds
from benchmark.analysis.tables import format_markdown
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.plugins.capability_names import MODEL_FREE
from benchmark.system import files
from benchmark.text.words import plural

HOME = Path(__file__).resolve().parents[1]
PAGE, RECORDS, SOURCES = "docs/selection_times.md", "results/reference/all", "results/published/sources.yaml"
EXPERIMENT = "scenes_fcos"  # of RECORDS: every strategy of detection on small scenes
OPENING = """\
# What a selection needs, and how long it takes

Rendered by `python -m tools.selection_times` from committed records. A strategy that asks the task's model waits before
each batch for the labels of the batch before and for a training on them. One that needs neither can select everything
in one pass, before there is a label (`one_pass=true`). `vaal` reads no label, but which images are labelled: it trains
its own networks for each batch.
"""
NEEDS = ["strategy", "task's model", "labels", "one pass"]
SECONDS = ["training", "selecting", "encoding", "total"]
LEARNS_FROM_LABELLED_SET = ("vaal",)  # needs images alone, but of a labelled and an unlabelled set


def render_page(home: Path) -> str:
    """Returns the page.

    Args:
        home: the root of the repository.
    """
    [experiment] = [each for each in read_experiments(str(home / RECORDS)) if each.title == EXPERIMENT]
    published = [
        (source, task, seconds, str(info.get("cite", source)))
        for source, info in read_sources(home / SOURCES).items()
        for task, seconds in info.get("seconds", {}).items()
    ]
    parts = [OPENING, measured_table(experiment)]
    parts += [published_table(source, task, seconds, cite) for source, task, seconds, cite in published]
    return "\n".join(parts)


def measured_table(experiment: Experiment) -> str:
    """The table of our own seconds until the last image is selected: means over the seeds."""
    schedule = experiment.schedule
    assert schedule is not None
    rows = [measured_row(mean, experiment) for mean in mean_seconds(experiment)]
    batches = plural(schedule.num_acquisitions, "batch", "batches")
    note = (
        f"Seconds until the last of {batches} is selected, mean over the seeds, on a CPU: {schedule.description}. "
        "training: of the models that the selections ask, the last round's not among them; encoding: a frozen "
        "encoder's features, once for all strategies that use it."
    )
    return format_markdown(f"{experiment.title}, from {RECORDS}", [[*NEEDS, *SECONDS], *rows], note)


def measured_row(mean: MeanSeconds, experiment: Experiment) -> list[str]:
    """The row of a strategy. The model of the last round selects nothing."""
    runs = [run.measurements for run in experiment.runs if run.strategy == mean.strategy and run.measurements]
    fits = [sum(row.seconds.get("fit", 0.0) for row in sorted(rows, key=lambda row: row.round)[:-1]) for rows in runs]
    parts = (sum(fits) / len(runs) if needs_model(mean.strategy) else 0.0, mean.select, mean.encode)
    return [*need_cells(mean.strategy), *(f"{value:,.2f}" if value else "0" for value in (*parts, sum(parts)))]


def published_table(source: str, task: str, seconds: Mapping[str, float], cite: str) -> str:
    """The table of the seconds that a paper prints."""
    rows = [[*need_cells(strategy), format_duration(value)] for strategy, value in seconds.items()]
    return format_markdown(f"{task}, as published by {source}", [[*NEEDS, "published"], *rows], f"{cite}.")


def need_cells(label: str) -> list[str]:
    """The name of a strategy; whether it needs the task's model and labels, and whether one pass is enough."""
    uses_model, strategy = needs_model(label), Spec.read("strategy", label)
    reads_labels = uses_model or bool(strategy.needs - MODEL_FREE)
    in_one_pass = not reads_labels and strategy.name not in LEARNS_FROM_LABELLED_SET
    return [label, *("yes" if answer else "no" for answer in (uses_model, reads_labels, in_one_pass))]


def needs_model(label: str) -> bool:
    """Whether a strategy asks the task's model, or changes its training."""
    strategy = Spec.read("strategy", label)
    has_companion = strategy.plugin.resolve_declaration("companion", strategy.values) is not None
    return has_companion or bool(strategy.needs - MODEL_FREE - {"labels"})


def format_duration(seconds: float) -> str:
    """Seconds, or hours from one hour on."""
    return f"{seconds:g} seconds" if seconds < 3600 else f"{seconds / 3600:g} hours"


if __name__ == "__main__":
    discovery.discover()
    files.write_atomically(HOME / PAGE, render_page(HOME))
