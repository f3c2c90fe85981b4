"""The answers of `verify devices`: whether records of two devices may stand in one table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.analysis.comparison_tables import format_interval
from benchmark.analysis.curves import Experiment
from benchmark.analysis.devices import DeviceGap, DeviceVerdict, compare_devices, equivalence_interval, judge_gaps
from benchmark.analysis.options import AnalysisOptions, parse_options
from benchmark.analysis.reading import read_experiments, select_experiments
from benchmark.cli.terminal import print_paragraphs, print_rows
from benchmark.text.words import did_you_mean

DEVICES_NOTE = """\
area: what the second device changes in the mean score on the way; final: in the last score
[ ]: interval of twice the tail (90 % at level=0.95): what lies within the margin of the metric may be mixed
sets: initial sets that were run on both; lines with `minus`: what it changes in a difference between strategies"""


def show_devices(arguments: Sequence[str]) -> None:
    """Prints what the device changes, and a sentence for each experiment that two folders share. ValueError where
    there are not two folders, or they share none."""
    asked = parse_options(arguments, "verify devices")
    if len(asked.record_paths) != 2:
        raise ValueError("verify devices compares two folders, one for each device: records=A,B")
    first, second = (
        {one.title: one for one in select_experiments(read_experiments([place]), asked.task)}
        for place in asked.record_paths
    )
    shared = [(first[title], second[title]) for title in first if title in second]
    if not shared:
        raise ValueError(f"{' and '.join(asked.record_paths)} have no experiment in common")
    found = [
        compare_devices(*both, reference_label(both[0], asked), asked.price(both[0]), asked.level) for both in shared
    ]
    if asked.format == "json":
        print_rows("", [json_row(one, row) for one in found for row in one.rows], "json")
        return
    for one in found:
        title = f"{one.experiment}: {one.devices[1]} minus {one.devices[0]}"
        print_rows(title, [text_row(one, row) for row in one.rows], note=DEVICES_NOTE if one is found[-1] else "")
    print_paragraphs([one.sentence for one in found])


def reference_label(experiment: Experiment, options: AnalysisOptions) -> str:
    """What others are compared with. ValueError where it is not there."""
    if options.reference and options.reference not in experiment.curves:
        raise ValueError(f"{experiment.title} has no strategy {did_you_mean(options.reference, experiment.curves)}")
    return options.reference or experiment.reference or ""


def text_row(result: DeviceVerdict, row: DeviceGap) -> dict[str, object]:
    """A row for people; columns: see NOTE."""
    digits = result.metric.digits
    told = {
        name: format_interval(equivalence_interval(gap, result.level), digits, "+")
        for name, gap in (("area", row.area_gap), ("final", row.final_gap))
    }
    return {
        "strategy": row.name,
        "sets": row.area_gap.num_runs,
        **told,
        "verdict": judge_gaps(row.gaps, result.metric, result.level),
    }


def json_row(result: DeviceVerdict, row: DeviceGap) -> dict[str, object]:
    """A row for JSON."""
    told: dict[str, object] = {}
    for name, gap in (("area", row.area_gap), ("final", row.final_gap)):
        ends = equivalence_interval(gap, result.level)
        told |= {name: gap.value, f"{name}_low": finite_or_none(ends.low), f"{name}_high": finite_or_none(ends.high)}
    return {
        "experiment": result.experiment, "devices": list(result.devices), "strategy": row.strategy, "against": row.against,
        "sets": row.area_gap.num_runs, **told, "verdict": judge_gaps(row.gaps, result.metric, result.level),
        "experiment_verdict": result.verdict, "level": result.level,
    }  # fmt: skip


def finite_or_none(end: float) -> float | None:
    """An end of an interval; None where there is none."""
    return None if end != end else end
