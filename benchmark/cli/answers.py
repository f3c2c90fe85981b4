"""The commands that read records: none of them needs torch or a config."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Annotated, TypeVar

import numpy as np
import typer
from threadpoolctl import threadpool_limits

from benchmark.analysis import (
    answers,
    audit,
    comparison_tables,
    comparisons,
    explain,
    reading,
    savings,
    seconds,
    tables,
    verify,
)  # fmt: skip
from benchmark.analysis.curves import Experiment
from benchmark.analysis.options import MANY_CELLS, PUBLISHED, AnalysisOptions, parse_options
from benchmark.analysis.reading import read
from benchmark.analysis.savings import Saving, known
from benchmark.analysis.sequential import summary
from benchmark.analysis.verify import Verdict
from benchmark.cli.device_answers import show_devices
from benchmark.cli.help import Command
from benchmark.cli.terminal import paragraphs, print_table, say, show
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.variants import ORDINARY
from benchmark.records import versions
from benchmark.records.manifest import variant_of
from benchmark.records.record import Measured
from benchmark.records.store import Store
from benchmark.text.escaping import encodable, visible
from benchmark.text.words import plural, unknown

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value ...]", help="settings, as `grid=quick` or `records=PATH`; see below"),
]
Row = dict[str, object]
Part = TypeVar("Part")
Result = TypeVar("Result")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for name, command in COMMANDS.items():
        app.command(name=name, cls=Command)(command)


def status(words: Words = None) -> None:
    """Show how many cells of a results folder are done, failed or missing, and about how many hours are left."""
    asked = parse_options(words or [], "status")
    known = [(store, one) for store in map(Store, asked.places) for one in store.manifest()["experiments"]]
    wanted = [(store, one) for store, one in known if asked.task in ("", one["name"], one["task"])]
    if not wanted:
        raise ValueError(f"task={asked.task}: there is no {unknown(asked.task, [one['name'] for _, one in known])}")
    many = sum(len(one["cells"]) for _, one in wanted) > MANY_CELLS
    rows = in_parts(experiment_status, wanted) if many else list(map(experiment_status, wanted))
    show(", ".join(asked.places), rows, asked.format, note=STATUS)
    if asked.format == "text":
        for store, one in wanted:
            if "auto" in one:
                say(look_status(store, one))
    say_variants(sum(variant_of(cell) != ORDINARY for _, one in wanted for cell in one["cells"]))


def experiment_status(part: tuple[Store, dict[str, object]]) -> dict[str, object]:
    """Counts of one experiment's cells, and the hours its missing rounds, at most, take at the pace of those done."""
    store, experiment = part
    cells, settings = experiment["cells"], experiment["schedule"]
    assert isinstance(cells, list) and isinstance(settings, dict)
    cells = [cell for cell in cells if variant_of(cell) == ORDINARY]
    schedule = Schedule.read(settings)
    done = failed = rounds = total = anew = 0
    here = versions.installed()
    spent = 0.0
    for cell in cells:
        taken = store.measured(cell["path"])
        spent += sum(own(one) for one in taken)
        records = store.records(cell["path"])[1]
        finished = schedule.finished(records)
        rounds += len(records)
        total += len(records) if finished else schedule.rounds
        done += finished
        known = [one.versions for one in taken if one.round < len(records)]
        anew += not finished and versions.begins_anew(versions.changes(known, here))
        failed += not finished and store.failure(cell["path"]) is not None
    left = None if not rounds else round(spent / rounds * (total - rounds) / 3600, 2)
    counts = {"cells": len(cells), "done": done, "failed": failed, "missing": len(cells) - done - failed}
    note = f"`run` begins {plural(anew, 'cell')} anew: torch has another minor version" if anew else ""
    return {"experiment": experiment["name"], **counts, "rounds": f"{rounds}/{total}", "hours left": left, "note": note}


def say_variants(number: int) -> None:
    """Says that runs which vary training or selection alone are in no answer but that of `variance`."""
    if number:
        words = "varies training or selection alone counts" if number == 1 else "vary training or selection alone count"
        say(f"{plural(number, 'run')} that {words} for `variance` only")


def say_variants_of(experiments: Sequence[Experiment]) -> None:
    """The same of all of these experiments."""
    say_variants(sum(len(one.variants) for one in experiments))


def look_status(store: Store, experiment: dict[str, object]) -> str:
    """Where an experiment of seeds=auto stands, and what its next look takes, in a line."""
    [known] = reading.ours([store], str(experiment["name"]))
    assert known.auto is not None and known.schedule is not None
    found = comparisons.looks(known, known.auto.reference)
    words = summary(known.title, known.auto.reference, found)
    wanted = {name: state.num_seeds for name, state in found.items() if state.word == "open"}
    if not wanted:
        return words
    wanted[known.auto.reference] = max(wanted.values())
    done = [run for run in known.runs if known.schedule.finished(run.records)]
    num_runs = sum(max(0, number - sum(run.strategy == name for run in done)) for name, number in wanted.items())
    spent = sum(own(one) for run in done for one in run.measured)
    hours = f", about {spent / len(done) * num_runs / 3600:.2g} hours" if done else ""
    return f"{words}; it takes {plural(num_runs, 'run')}{hours}"


def own(one: Measured) -> float:
    """Seconds of a round that it took itself: a shared fit and encodings may be from elsewhere."""
    return sum(
        took for kind, took in one.seconds.items() if kind != "encode" and not (kind == "fit" and one.shared_fit)
    )


def tabled(words: Words = None) -> None:
    """Print and write tables and paired comparisons; against=published puts papers' numbers beside ours."""
    show_tables(parse_options(words or [], "tables"))


def show_tables(asked: AnalysisOptions) -> None:
    """Writes the tables into the results folder or where `to` says, and prints them."""
    made = [one for part in in_parts(partial(answers.answered, asked), asked.parts()) for one in part]
    for one in made:
        for words in one.words:
            say(words)
    say_variants(sum(one.num_variants for one in made))
    try:  # written first: whoever reads the screen may be gone, and is shown them where no disk takes them
        answers.write(made, asked)
    finally:
        print_answers(made, asked.format)
    told = "nothing is written: to=FOLDER writes these tables"
    say(told if asked.folder is None else f"tables written to {asked.folder / 'tables'}")


def print_answers(made: Sequence[answers.Answered], style: str) -> None:
    """Prints tables, each with its comparisons below, as text or as JSON."""
    if style == "json":
        typer.echo(tables.as_json([one.table for one in made]))
        return
    for one in made:
        print_table(one.table)
        if rows := one.compared:
            title = f"{one.table.title}: strategies minus {rows[0].against}, seed by seed"
            sentences = "\n".join(visible(row.sentence) for row in rows)
            note = f"{sentences}\n\n{comparison_tables.note(rows)}"
            show(title, comparison_tables.rows(rows, one.table.metric.digits), note=note)


def in_parts(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """What `work` makes of each part, side by side where there are several and this process may be forked."""
    if len(parts) == 1 or "torch" in sys.modules:  # after a run: threads and GPUs do not survive a fork
        return list(map(work, parts))
    num, fork = min(len(parts), os.cpu_count() or 1), multiprocessing.get_context("fork")
    with threadpool_limits(1), ProcessPoolExecutor(num, fork) as pool:  # not threads of numpy's besides
        return list(pool.map(work, parts))


def saved(words: Words = None) -> None:
    """Show what a strategy saves: strategy=A against=B at=final|curve|SCORE|band:LOW,HIGH cost=images|boxes|time."""
    asked = parse_options(words or [], "savings")
    experiments = asked.experiments()
    rows, refused = asked.savings_of(experiments)
    if asked.format == "json":
        show("savings", [savings.tidy(row) for row in rows], "json")
    else:
        price = f"\ncost: {asked.seconds_per_image:g} s an image, {asked.seconds_per_box:g} s a box" * (
            asked.cost == "time"
        )
        note = SAVED.format(level=100 * asked.level) + price
        show("", [saving_line(row) for row in rows], by=["table"], note=note)
    for line in refused:
        say(f"not compared: {line}")
    say_variants_of(experiments)


def saving_line(one: Saving) -> Row:
    """A saving for people; columns: see SAVED."""
    paid, other = (f"{end:,.0f}" if math.isfinite(end) else "–" for end in (one.paid, one.other))
    own_mean, other_mean = (f"{area:.4g}" for area in one.areas)
    ends = (comparison_tables.shown(one.saved, 0), comparison_tables.shown(one.percent, 1))
    saved, percent = ends if one.reached else ("", "")
    return {
        "table": f"{one.experiment}: {one.unit} saved", "strategy": one.strategy, "against": one.against,
        "at": str(one.rule), "score": f"{one.target:.4g}", "paid": paid, "other paid": other, "saved": saved,
        "saved %": percent, "seeds": one.num_pairs or "–", "mean score": own_mean, "other mean": other_mean,
        "note": one.note,
    }  # fmt: skip


STATUS = """\
cell: one strategy with one seed
hours left: at most, at the pace of the rounds that are done"""
SAVED = """\
at, score: where the two are compared: at the smaller of both final scores, at a score, or in a band of scores
paid, other paid: by the strategy, and by the other, until they reach that score
saved, saved %: the difference, and in per cent of what the other paid, with {level:g} % intervals over the seeds
[ ]: intervals, each for itself; along a curve pointwise: not corrected for how many there are
seeds: pairs of runs behind the interval; –: a paper's means, which have none
mean score, other mean: of each over all rounds (the area under its curve)"""


def compared(
    first: Annotated[str, typer.Argument(metavar="A", help="a strategy")],
    second: Annotated[str, typer.Argument(metavar="B", help="the one that it is compared with")],
    words: Words = None,
) -> None:
    """Compare strategy A with strategy B, seed by seed: the answer in five lines for each task."""
    if first == second or "=" in re.sub(r"\[.*\]", "", first + second):
        raise ValueError(f"compare takes two strategies, as in `compare A B`, not {first} and {second}")
    asked = parse_options(words or [], "compare")
    experiments = asked.experiments()
    made, refused = answers.compared(experiments, first, second, asked)
    if asked.format == "json":
        typer.echo(comparison_tables.tidy(made).map(encodable).to_json(orient="records", indent=1))
    for done in made if asked.format == "text" else ():
        paragraphs(comparison_tables.lines(done, done.metric.digits), 2)
    for line in refused:
        say(f"not compared: {line}")
    say_variants_of(experiments)


def timed(words: Words = None) -> None:
    """Show what each strategy took, in seconds: training, choosing, computing encodings, scoring."""
    asked = parse_options(words or [], "seconds")
    experiments = asked.experiments()
    rows = [row for one in experiments for row in seconds.rows(one)]
    if not rows:
        raise ValueError("nothing is measured there: seconds are of runs, not of published curves")
    show("seconds of a run", rows, asked.format, ["experiment"], seconds.NOTE)
    say_variants_of(experiments)


def explained(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="its path, or TASK/STRATEGY/seed-N")], words: Words = None
) -> None:
    """Show what lies behind one cell: its command, seeds, purchases, costs, scores and versions."""
    experiment, run = explain.find(parse_options(words or [], "explain").experiments(), cell)
    for line in explain.lines(experiment, run):
        if line.startswith("command "):  # to be copied as it is
            typer.echo(line)
        else:
            paragraphs([line], 10)


def verified(words: Words = None) -> None:
    """Check the records for faults, and compare them with papers' curves (against=published); exit 1: a fault.
    `verify devices records=A,B` says whether records of two devices may be mixed."""
    if words and words[0] == "devices":
        show_devices(words[1:])
        return
    asked = parse_options(words or [], "verify")
    experiments = asked.experiments()
    faults = [fault for one in experiments for fault in audit.audit(one)]
    papers = verify.papers(asked.compared_with)
    verdicts = verify.verify(experiments, papers, asked.level) if papers else []
    rows: list[Row] = [
        {"experiment": one.experiment, "check": one.check, "where": one.where, "what": one.words} for one in faults
    ]
    if asked.format == "json":
        show("", [{"faults": rows, "verdicts": [verdict_row(one) for one in verdicts]}], "json")
    else:
        for one in experiments:
            say(f"{one.title}: {audited(one, faults)}")
            if note := versions.note(one.mixed_versions):
                say(f"{one.title}: {note}")
        show("faults", rows, by=["experiment"])
        show(
            "ours minus published", [verdict_line(one) for one in verdicts], by=["task", "source"], note=verify.VERDICTS
        )
    say_variants_of(experiments)
    if faults:
        raise typer.Exit(1)


def audited(one: Experiment, faults: Sequence[audit.Fault]) -> str:
    """How the audit of an experiment went, in words."""
    if not any(curve.num_runs for curve in one.curves.values()):
        return "nothing is recorded, so there is nothing to audit"
    passed = len(audit.CHECKS) - len({fault.check for fault in faults if fault.experiment == one.title})
    lacking = sum(curve.wanted - curve.num_runs + len(curve.unfinished) for curve in one.curves.values())
    cells = plural(sum(curve.wanted for curve in one.curves.values()), "cell")
    rest = f"; {lacking} of {cells} {'is' if lacking == 1 else 'are'} not finished" * bool(lacking)
    return f"{passed} of {plural(len(audit.CHECKS), 'check')} passed{rest}"


def reported(words: Words = None) -> None:
    """Write an HTML page with tables, comparisons, audit and figures, which opens offline; figures as files besides."""
    from benchmark.analysis.report import figures_folder  # matplotlib takes a second to import

    asked = parse_options(words or [], "report")
    if asked.folder is None:
        raise ValueError(f"records={asked.records}: add to=FOLDER: the page and its figures are written there")
    experiments = asked.experiments()
    if asked.to:
        asked.folder.mkdir(parents=True, exist_ok=True)
    path, remarks = answers.report(experiments, asked, asked.folder, words or [])
    for line in remarks:
        say(line)
    say_variants_of(experiments)
    typer.echo(visible(str(path)))
    say(f"figures in {path.parent / figures_folder(asked.task)}")


def verdict_row(one: Verdict) -> Row:
    """A verdict as JSON."""
    gaps = [(gap, one.interval(gap)) for gap in one.gaps]
    return {
        "source": one.source, "task": one.task, "strategy": one.strategy, "published": one.published,
        "seeds": one.num_runs, "verdict": one.verdict, "why": one.why, "level": one.level,
        "gaps": [
            {"num_labelled": gap.num_labelled, "value": known(own.value), "low": known(own.low),
             "high": known(own.high), "equal_spread_assumed": gap.their_std is None}
            for gap, own in gaps
        ],
    }  # fmt: skip


def verdict_line(one: Verdict) -> Row:
    """A verdict for people."""
    return {
        "source": one.source, "task": one.task, "strategy": one.strategy, "published": one.published,
        "rounds": len(one.gaps), "seeds": one.num_runs or "–", **verify.shown_gaps(one), "verdict": one.verdict,
        "why": one.why,
    }  # fmt: skip


def published() -> list[Row]:
    """The curves of papers that come with the package, a row each."""
    return [
        {
            "source": one.source, "task": one.task, "strategy": name, "runs": curve.num_runs,
            "rounds": int(np.isfinite(curve.value_SR[0]).sum()), "metric": one.metric.name,
            "first": curve.printed["value"][0], "last": next(filter(None, reversed(curve.printed["value"]))),
            "cite": one.told.get("cite", ""),
        }
        for one in read(str(PUBLISHED))
        for name, curve in one.curves.items()
    ]  # fmt: skip


COMMANDS: dict[str, Callable[..., None]] = {
    "status": status, "tables": tabled, "savings": saved, "compare": compared, "explain": explained, "verify": verified,
    "report": reported, "seconds": timed,
}  # fmt: skip
