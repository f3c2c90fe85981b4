"""The answers of `verify devices`: whether records of two devices may stand in one table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.analysis.comparison_tables import shown
from benchmark.analysis.curves import Experiment
from benchmark.analysis.devices import DeviceGap, DeviceVerdict, device_verdict, interval, verdict
from benchmark.analysis.options import AnalysisOptions, parse_options
from benchmark.analysis.reading import chosen, read
from benchmark.cli.terminal import paragraphs, show
from benchmark.text.words import unknown

NOTE = """\
area: what the second device changes in the mean score on the way; final: in the last score
[ ]: interval of twice the tail (90 % at level=0.95): what lies within the margin of the metric may be mixed
sets: initial sets that were run on both; lines with `minus`: what it changes in a difference between strategies"""


def show_devices(words: Sequence[str]) -> None:
    """Prints what the device changes, and a sentence for each experiment that two folders share. ValueError where
    there are not two folders, or they share none."""
    asked = parse_options(words, "verify devices")
    if len(asked.places) != 2:
        raise ValueError("verify devices compares two folders, one for each device: records=A,B")
    first, second = ({one.title: one for one in chosen(read([place]), asked.task)} for place in asked.places)
    shared = [(first[title], second[title]) for title in first if title in second]
    if not shared:
        raise ValueError(f"{' and '.join(asked.places)} have no experiment in common")
    found = [device_verdict(*both, reference(both[0], asked), asked.price(both[0]), asked.level) for both in shared]
    if asked.format == "json":
        show("", [tidy(one, row) for one in found for row in one.rows], "json")
        return
    for one in found:
        title = f"{one.experiment}: {one.devices[1]} minus {one.devices[0]}"
        show(title, [line(one, row) for row in one.rows], note=NOTE if one is found[-1] else "")
    paragraphs([one.sentence for one in found])


def reference(experiment: Experiment, asked: AnalysisOptions) -> str:
    """What others are compared with. ValueError where it is not there."""
    if asked.reference and asked.reference not in experiment.curves:
        raise ValueError(f"{experiment.title} has no strategy {unknown(asked.reference, experiment.curves)}")
    return asked.reference or experiment.reference or ""


def line(one: DeviceVerdict, row: DeviceGap) -> dict[str, object]:
    """A row for people; columns: see NOTE."""
    digits = one.metric.digits
    told = {
        name: shown(interval(gap, one.level), digits, "+") for name, gap in (("area", row.area), ("final", row.final))
    }
    return {
        "strategy": row.name,
        "sets": row.area.num_runs,
        **told,
        "verdict": verdict(row.gaps, one.metric, one.level),
    }


def tidy(one: DeviceVerdict, row: DeviceGap) -> dict[str, object]:
    """A row for JSON."""
    told: dict[str, object] = {}
    for name, gap in (("area", row.area), ("final", row.final)):
        ends = interval(gap, one.level)
        told |= {name: gap.value, f"{name}_low": known(ends.low), f"{name}_high": known(ends.high)}
    return {
        "experiment": one.experiment, "devices": list(one.devices), "strategy": row.strategy, "against": row.against,
        "sets": row.area.num_runs, **told, "verdict": verdict(row.gaps, one.metric, one.level),
        "experiment_verdict": one.verdict, "level": one.level,
    }  # fmt: skip


def known(end: float) -> float | None:
    """An end of an interval; None where there is none."""
    return None if end != end else end
