"""The command `verify devices`: may records of two devices be mixed in one table?"""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.analysis.comparison_tables import format_interval
from benchmark.analysis.curves import Experiment
from benchmark.analysis.devices import DeviceGap, DeviceVerdict, compare_devices, equivalence_interval, judge_gaps
from benchmark.analysis.load_experiments import read_experiments, select_experiments
from benchmark.analysis.options import AnalysisOptions, parse_options
from benchmark.analysis.savings import finite_or_none
from benchmark.cli.terminal import print_paragraphs, print_rows
from benchmark.text.words import did_you_mean

DEVICES_NOTE = """\
area: second device minus first, in the mean score over all rounds; final: in the score of the last round
[ ]: interval of the equivalence test (90 % at level=0.95); records may be mixed if it lies within the metric's margin
sets: initial sets that were run on both devices; lines with `minus`: the change of a difference between strategies"""


def show_devices(arguments: Sequence[str]) -> None:
    """Prints the differences between two devices, and a verdict for each experiment that two folders share.

    Raises:
        ValueError: there are not two folders, or they share no experiment.
    """
    options = parse_options(arguments, "verify devices")
    if len(options.record_paths) != 2:
        raise ValueError("verify devices compares two folders, one for each device: records=A,B")
    first, second = (
        {experiment.title: experiment for experiment in select_experiments(read_experiments([place]), options.task)}
        for place in options.record_paths
    )
    shared = [(first[title], second[title]) for title in first if title in second]
    if not shared:
        raise ValueError(f"{' and '.join(options.record_paths)} have no experiment in common")
    results = [
        compare_devices(*both, reference_label(both[0], options), options.price(both[0]), options.level)
        for both in shared
    ]
    if options.format == "json":
        print_rows("", [json_row(result, row) for result in results for row in result.rows], "json")
        return
    for result in results:
        title = f"{result.experiment}: {result.devices[1]} minus {result.devices[0]}"
        print_rows(
            title, [text_row(result, row) for row in result.rows], note=DEVICES_NOTE if result is results[-1] else ""
        )
    print_paragraphs([result.sentence for result in results])


def reference_label(experiment: Experiment, options: AnalysisOptions) -> str:
    """The label of the strategy that others are compared with. ValueError where it has no records."""
    if options.reference and options.reference not in experiment.curves:
        raise ValueError(f"{experiment.title} has no strategy {did_you_mean(options.reference, experiment.curves)}")
    return options.reference or experiment.reference or ""


def text_row(result: DeviceVerdict, row: DeviceGap) -> dict[str, object]:
    """A row of the text table; DEVICES_NOTE explains the columns."""
    digits = result.metric.digits
    intervals = {
        name: format_interval(equivalence_interval(gap, result.level), digits, "+")
        for name, gap in (("area", row.area_gap), ("final", row.final_gap))
    }
    return {
        "strategy": row.name,
        "sets": row.area_gap.num_runs,
        **intervals,
        "verdict": judge_gaps(row.gaps, result.metric, result.level),
    }


def json_row(result: DeviceVerdict, row: DeviceGap) -> dict[str, object]:
    """A row of the JSON output."""
    intervals: dict[str, object] = {}
    for name, gap in (("area", row.area_gap), ("final", row.final_gap)):
        ends = equivalence_interval(gap, result.level)
        intervals |= {
            name: gap.value,
            f"{name}_low": finite_or_none(ends.low),
            f"{name}_high": finite_or_none(ends.high),
        }
    return {
        "experiment": result.experiment, "devices": list(result.devices), "strategy": row.strategy,
        "against": row.against, "sets": row.area_gap.num_runs, **intervals,
        "verdict": judge_gaps(row.gaps, result.metric, result.level),
        "experiment_verdict": result.verdict, "level": result.level,
    }  # fmt: skip
