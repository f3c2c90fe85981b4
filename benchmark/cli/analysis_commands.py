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
from benchmark.analysis.options import PARALLEL_MIN_CELLS, PUBLISHED_FOLDER, AnalysisOptions, parse_options
from benchmark.analysis.reading import read_experiments
from benchmark.analysis.savings import Saving, finite_or_none
from benchmark.analysis.sequential import summarize_states
from benchmark.analysis.verify import Verdict
from benchmark.cli.device_commands import show_devices
from benchmark.cli.help import CommandWithSettings
from benchmark.cli.terminal import print_paragraphs, print_rows, print_table, say
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.variants import ORDINARY
from benchmark.records import versions
from benchmark.records.manifest import cell_variant
from benchmark.records.record import Measured
from benchmark.records.store import Store
from benchmark.text.escaping import escape_surrogates, make_visible
from benchmark.text.words import did_you_mean, plural

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value ...]", help="settings, as `grid=quick` or `records=PATH`; see below"),
]
Row = dict[str, object]
Part = TypeVar("Part")
Result = TypeVar("Result")


def register_commands(app: typer.Typer) -> None:
    """Adds the commands."""
    for name, command in COMMANDS.items():
        app.command(name=name, cls=CommandWithSettings)(command)


def status_command(words: Words = None) -> None:
    """Show how many cells of a results folder are done, failed or missing, and about how many hours are left."""
    asked = parse_options(words or [], "status")
    known = [(store, one) for store in map(Store, asked.record_paths) for one in store.manifest()["experiments"]]
    wanted = [(store, one) for store, one in known if asked.task in ("", one["name"], one["task"])]
    if not wanted:
        raise ValueError(
            f"task={asked.task}: there is no {did_you_mean(asked.task, [one['name'] for _, one in known])}"
        )
    many = sum(len(one["cells"]) for _, one in wanted) > PARALLEL_MIN_CELLS
    rows = map_in_processes(experiment_status, wanted) if many else list(map(experiment_status, wanted))
    print_rows(", ".join(asked.record_paths), rows, asked.format, note=STATUS_NOTE)
    if asked.format == "text":
        for store, one in wanted:
            if "auto" in one:
                say(auto_seeds_status(store, one))
    say_variants(sum(cell_variant(cell) != ORDINARY for _, one in wanted for cell in one["cells"]))


def experiment_status(entry: tuple[Store, dict[str, object]]) -> dict[str, object]:
    """Counts of one experiment's cells, and the hours its missing rounds, at most, take at the pace of those done."""
    store, experiment = entry
    cells, settings = experiment["cells"], experiment["schedule"]
    assert isinstance(cells, list) and isinstance(settings, dict)
    cells = [cell for cell in cells if cell_variant(cell) == ORDINARY]
    schedule = Schedule.read(settings)
    done = failed = rounds = total = anew = 0
    here = versions.installed_versions()
    spent = 0.0
    for cell in cells:
        taken = store.measurements(cell["path"])
        spent += sum(own_seconds(one) for one in taken)
        records = store.records(cell["path"])[1]
        finished = schedule.is_finished(records)
        rounds += len(records)
        total += len(records) if finished else schedule.rounds
        done += finished
        known = [one.versions for one in taken if one.round < len(records)]
        anew += not finished and versions.needs_restart(versions.find_changes(known, here))
        failed += not finished and store.read_failure(cell["path"]) is not None
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
    say_variants(sum(len(one.variant_runs) for one in experiments))


def auto_seeds_status(store: Store, experiment: dict[str, object]) -> str:
    """Where an experiment of seeds=auto stands, and what its next look takes, in a line."""
    [known] = reading.read_stores([store], str(experiment["name"]))
    assert known.auto_seeds is not None and known.schedule is not None
    found = comparisons.compare_sequentially(known, known.auto_seeds.reference)
    words = summarize_states(known.title, known.auto_seeds.reference, found)
    wanted = {name: state.num_seeds for name, state in found.items() if state.status == "open"}
    if not wanted:
        return words
    wanted[known.auto_seeds.reference] = max(wanted.values())
    done = [run for run in known.runs if known.schedule.is_finished(run.records)]
    num_runs = sum(max(0, number - sum(run.strategy == name for run in done)) for name, number in wanted.items())
    spent = sum(own_seconds(one) for run in done for one in run.measurements)
    hours = f", about {spent / len(done) * num_runs / 3600:.2g} hours" if done else ""
    return f"{words}; it takes {plural(num_runs, 'run')}{hours}"


def own_seconds(measured: Measured) -> float:
    """Seconds of a round that it took itself: a shared fit and encodings may be from elsewhere."""
    return sum(
        took
        for kind, took in measured.seconds.items()
        if kind != "encode" and not (kind == "fit" and measured.shared_fit)
    )


def tables_command(words: Words = None) -> None:
    """Print and write tables and paired comparisons; against=published puts papers' numbers beside ours."""
    show_tables(parse_options(words or [], "tables"))


def show_tables(options: AnalysisOptions) -> None:
    """Writes the tables into the results folder or where `to` says, and prints them."""
    made = [
        one
        for part in map_in_processes(partial(answers.build_answers, options), options.parallel_titles())
        for one in part
    ]
    for one in made:
        for words in one.remarks:
            say(words)
    say_variants(sum(one.num_variant_runs for one in made))
    try:  # written first: whoever reads the screen may be gone, and is shown them where no disk takes them
        answers.write_answers(made, options)
    finally:
        print_answers(made, options.format)
    told = "nothing is written: to=FOLDER writes these tables"
    say(told if options.output_folder is None else f"tables written to {options.output_folder / 'tables'}")


def print_answers(task_answers: Sequence[answers.Answer], output_format: str) -> None:
    """Prints tables, each with its comparisons below, as text or as JSON."""
    if output_format == "json":
        typer.echo(tables.to_json([one.table for one in task_answers]))
        return
    for one in task_answers:
        print_table(one.table)
        if rows := one.comparisons:
            title = f"{one.table.title}: strategies minus {rows[0].against}, seed by seed"
            sentences = "\n".join(make_visible(row.sentence) for row in rows)
            note = f"{sentences}\n\n{comparison_tables.explain_columns(rows)}"
            print_rows(title, comparison_tables.display_rows(rows, one.table.metric.digits), note=note)


def map_in_processes(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """What `work` makes of each part, side by side where there are several and this process may be forked."""
    if len(parts) == 1 or "torch" in sys.modules:  # after a run: threads and GPUs do not survive a fork
        return list(map(function, parts))
    num, fork = min(len(parts), os.cpu_count() or 1), multiprocessing.get_context("fork")
    with threadpool_limits(1), ProcessPoolExecutor(num, fork) as pool:  # not threads of numpy's besides
        return list(pool.map(function, parts))


def savings_command(words: Words = None) -> None:
    """Show what a strategy saves: strategy=A against=B at=final|curve|SCORE|band:LOW,HIGH cost=images|boxes|time."""
    asked = parse_options(words or [], "savings")
    experiments = asked.read_experiments()
    rows, refused = asked.compute_savings_of(experiments)
    if asked.format == "json":
        print_rows("savings", [savings.tidy_row(row) for row in rows], "json")
    else:
        price = f"\ncost: {asked.seconds_per_image:g} s an image, {asked.seconds_per_box:g} s a box" * (
            asked.cost == "time"
        )
        note = SAVINGS_NOTE.format(level=100 * asked.level) + price
        print_rows("", [saving_text_row(row) for row in rows], group_by=["table"], note=note)
    for line in refused:
        say(f"not compared: {line}")
    say_variants_of(experiments)


def saving_text_row(saving: Saving) -> Row:
    """A saving for people; columns: see SAVED."""
    paid, other = (f"{end:,.0f}" if math.isfinite(end) else "–" for end in (saving.strategy_cost, saving.against_cost))
    own_mean, other_mean = (f"{area:.4g}" for area in saving.areas)
    ends = (comparison_tables.format_interval(saving.amount, 0), comparison_tables.format_interval(saving.percent, 1))
    saved, percent = ends if saving.is_reached else ("", "")
    return {
        "table": f"{saving.experiment}: {saving.unit} saved", "strategy": saving.strategy, "against": saving.against,
        "at": str(saving.rule), "score": f"{saving.target:.4g}", "paid": paid, "other paid": other, "saved": saved,
        "saved %": percent, "seeds": saving.num_pairs or "–", "mean score": own_mean, "other mean": other_mean,
        "note": saving.note,
    }  # fmt: skip


STATUS_NOTE = """\
cell: one strategy with one seed
hours left: at most, at the pace of the rounds that are done"""
SAVINGS_NOTE = """\
at, score: where the two are compared: at the smaller of both final scores, at a score, or in a band of scores
paid, other paid: by the strategy, and by the other, until they reach that score
saved, saved %: the difference, and in per cent of what the other paid, with {level:g} % intervals over the seeds
[ ]: intervals, each for itself; along a curve pointwise: not corrected for how many there are
seeds: pairs of runs behind the interval; –: a paper's means, which have none
mean score, other mean: of each over all rounds (the area under its curve)"""


def compare_command(
    first: Annotated[str, typer.Argument(metavar="A", help="a strategy")],
    second: Annotated[str, typer.Argument(metavar="B", help="the one that it is compared with")],
    words: Words = None,
) -> None:
    """Compare strategy A with strategy B, seed by seed: the answer in five lines for each task."""
    if first == second or "=" in re.sub(r"\[.*\]", "", first + second):
        raise ValueError(f"compare takes two strategies, as in `compare A B`, not {first} and {second}")
    asked = parse_options(words or [], "compare")
    experiments = asked.read_experiments()
    made, refused = answers.compare_strategies(experiments, first, second, asked)
    if asked.format == "json":
        typer.echo(comparison_tables.tidy_frame(made).map(escape_surrogates).to_json(orient="records", indent=1))
    for done in made if asked.format == "text" else ():
        print_paragraphs(comparison_tables.describe_comparison(done, done.metric.digits), 2)
    for line in refused:
        say(f"not compared: {line}")
    say_variants_of(experiments)


def seconds_command(words: Words = None) -> None:
    """Show what each strategy took, in seconds: training, choosing, computing encodings, scoring."""
    asked = parse_options(words or [], "seconds")
    experiments = asked.read_experiments()
    rows = [row for one in experiments for row in seconds.rows(one)]
    if not rows:
        raise ValueError("nothing is measured there: seconds are of runs, not of published curves")
    print_rows("seconds of a run", rows, asked.format, ["experiment"], seconds.NOTE)
    say_variants_of(experiments)


def explain_command(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="its path, or TASK/STRATEGY/seed-N")], words: Words = None
) -> None:
    """Show what lies behind one cell: its command, seeds, purchases, costs, scores and versions."""
    experiment, run = explain.find_run(parse_options(words or [], "explain").read_experiments(), cell)
    for line in explain.describe_run(experiment, run):
        if line.startswith("command "):  # to be copied as it is
            typer.echo(line)
        else:
            print_paragraphs([line], 10)


def verify_command(words: Words = None) -> None:
    """Check the records for faults, and compare them with papers' curves (against=published); exit 1: a fault.
    `verify devices records=A,B` says whether records of two devices may be mixed."""
    if words and words[0] == "devices":
        show_devices(words[1:])
        return
    asked = parse_options(words or [], "verify")
    experiments = asked.read_experiments()
    faults = [fault for one in experiments for fault in audit.find_faults(one)]
    papers = verify.read_published(asked.published_paths)
    verdicts = verify.verify(experiments, papers, asked.level) if papers else []
    rows: list[Row] = [
        {"experiment": one.experiment, "check": one.check, "where": one.where, "what": one.message} for one in faults
    ]
    if asked.format == "json":
        print_rows("", [{"faults": rows, "verdicts": [verdict_json_row(one) for one in verdicts]}], "json")
    else:
        for one in experiments:
            say(f"{one.title}: {describe_audit(one, faults)}")
            if note := versions.mixed_versions_note(one.mixed_versions):
                say(f"{one.title}: {note}")
        print_rows("faults", rows, group_by=["experiment"])
        print_rows(
            "ours minus published",
            [verdict_text_row(one) for one in verdicts],
            group_by=["task", "source"],
            note=verify.VERDICTS_NOTE,
        )
    say_variants_of(experiments)
    if faults:
        raise typer.Exit(1)


def describe_audit(experiment: Experiment, faults: Sequence[audit.Fault]) -> str:
    """How the audit of an experiment went, in words."""
    if not any(curve.num_runs for curve in experiment.curves.values()):
        return "nothing is recorded, so there is nothing to audit"
    passed = len(audit.CHECKS) - len({fault.check for fault in faults if fault.experiment == experiment.title})
    lacking = sum(
        curve.num_planned - curve.num_runs + len(curve.unfinished_seeds) for curve in experiment.curves.values()
    )
    cells = plural(sum(curve.num_planned for curve in experiment.curves.values()), "cell")
    rest = f"; {lacking} of {cells} {'is' if lacking == 1 else 'are'} not finished" * bool(lacking)
    return f"{passed} of {plural(len(audit.CHECKS), 'check')} passed{rest}"


def report_command(words: Words = None) -> None:
    """Write an HTML page with tables, comparisons, audit and figures, which opens offline; figures as files besides."""
    from benchmark.analysis.report import figures_folder  # matplotlib takes a second to import

    asked = parse_options(words or [], "report")
    if asked.output_folder is None:
        raise ValueError(f"records={asked.records}: add to=FOLDER: the page and its figures are written there")
    experiments = asked.read_experiments()
    if asked.to:
        asked.output_folder.mkdir(parents=True, exist_ok=True)
    path, remarks = answers.write_report(experiments, asked, asked.output_folder, words or [])
    for line in remarks:
        say(line)
    say_variants_of(experiments)
    typer.echo(make_visible(str(path)))
    say(f"figures in {path.parent / figures_folder(asked.task)}")


def verdict_json_row(verdict: Verdict) -> Row:
    """A verdict as JSON."""
    gaps = [(gap, verdict.interval(gap)) for gap in verdict.gaps]
    return {
        "source": verdict.source, "task": verdict.task, "strategy": verdict.strategy, "published": verdict.published_label,
        "seeds": verdict.num_runs, "verdict": verdict.verdict, "why": verdict.why, "level": verdict.level,
        "gaps": [
            {"num_labelled": gap.num_labelled, "value": finite_or_none(own.value), "low": finite_or_none(own.low),
             "high": finite_or_none(own.high), "equal_spread_assumed": gap.other_std is None}
            for gap, own in gaps
        ],
    }  # fmt: skip


def verdict_text_row(verdict: Verdict) -> Row:
    """A verdict for people."""
    return {
        "source": verdict.source, "task": verdict.task, "strategy": verdict.strategy, "published": verdict.published_label,
        "rounds": len(verdict.gaps), "seeds": verdict.num_runs or "–", **verify.format_gaps(verdict), "verdict": verdict.verdict,
        "why": verdict.why,
    }  # fmt: skip


def published_rows() -> list[Row]:
    """The curves of papers that come with the package, a row each."""
    return [
        {
            "source": one.source, "task": one.task, "strategy": name, "runs": curve.num_runs,
            "rounds": int(np.isfinite(curve.value_SR[0]).sum()), "metric": one.metric.name,
            "first": curve.printed_digits["value"][0], "last": next(filter(None, reversed(curve.printed_digits["value"]))),
            "cite": one.source_info.get("cite", ""),
        }
        for one in read_experiments(str(PUBLISHED_FOLDER))
        for name, curve in one.curves.items()
    ]  # fmt: skip


COMMANDS: dict[str, Callable[..., None]] = {
    "status": status_command, "tables": tables_command, "savings": savings_command, "compare": compare_command, "explain": explain_command, "verify": verify_command,
    "report": report_command, "seconds": seconds_command,
}  # fmt: skip
