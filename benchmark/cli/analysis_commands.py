"""The commands that read records. They import neither torch nor Hydra."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import numpy as np
import typer

from benchmark.analysis import (
    answers,
    audit,
    class_scores,
    comparison_tables,
    explain,
    savings,
    seconds,
    tables,
    verify,
)  # fmt: skip
from benchmark.analysis.curves import Experiment
from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.mean_comparisons import describe_means
from benchmark.analysis.options import PUBLISHED_FOLDER, AnalysisOptions, parse_options
from benchmark.analysis.savings import Saving, finite_or_none
from benchmark.analysis.verify import Verdict
from benchmark.cli.device_commands import show_devices
from benchmark.cli.display import show_activity
from benchmark.cli.help import CommandWithSettings
from benchmark.cli.processes import map_in_processes
from benchmark.cli.status_command import Arguments, say_variants, status_command
from benchmark.cli.terminal import err, print_paragraphs, print_rows, print_table, say
from benchmark.records import versions
from benchmark.text.escaping import make_visible
from benchmark.text.words import plural

Row = dict[str, object]


def register_commands(app: typer.Typer) -> None:
    """Adds the commands of this file to the program."""
    for name, command in COMMANDS.items():
        app.command(name=name, cls=CommandWithSettings)(command)


def say_variants_of(experiments: Sequence[Experiment]) -> None:
    """Calls `say_variants` with the number of such runs in these experiments."""
    say_variants(sum(len(experiment.variant_runs) for experiment in experiments))


def tables_command(arguments: Arguments = None) -> None:
    """Print and write tables and paired comparisons; against=published adds the numbers of papers."""
    show_tables(parse_options(arguments or [], "tables"))


def show_tables(options: AnalysisOptions) -> None:
    """Writes the tables into the results folder, or into the folder of `to`, and prints them."""
    task_answers = [
        answer
        for part in map_in_processes(partial(answers.build_answers, options), options.parallel_titles())
        for answer in part
    ]
    for answer in task_answers:
        for remark in answer.remarks:
            say(remark)
    say_variants(sum(answer.num_variant_runs for answer in task_answers))
    try:  # files first, in case standard output is closed; printed even where the disk is full
        answers.write_answers(task_answers, options)
    finally:
        print_answers(task_answers, options.format)
    hint = "no files are written: add to=FOLDER to write these tables"
    say(hint if options.output_folder is None else f"tables written to {options.output_folder / 'tables'}")


def print_answers(task_answers: Sequence[answers.Answer], output_format: str) -> None:
    """Prints tables, each with its comparisons below, as text or as JSON (tables only)."""
    if output_format == "json":
        typer.echo(tables.to_json([answer.table for answer in task_answers]))
        return
    for answer in task_answers:
        print_table(answer.table)
        if rows := answer.comparisons:
            title = f"{answer.table.title}: strategies minus {rows[0].against}, seed by seed"
            sentences = "\n".join(make_visible(row.sentence) for row in rows)
            note = f"{sentences}\n\n{comparison_tables.explain_columns(rows)}"
            print_rows(title, comparison_tables.display_rows(rows, answer.table.metric.digits), note=note)


def savings_command(arguments: Arguments = None) -> None:
    """Show what a strategy saves: strategy=A against=B at=final|curve|SCORE|band:LOW,HIGH cost=images|boxes|time."""
    options = parse_options(arguments or [], "savings")
    experiments = options.read_experiments()
    rows, refused = options.compute_savings_of(experiments)
    if options.format == "json":
        print_rows("savings", [savings.tidy_row(row) for row in rows], "json")
    else:
        price = f"\ncost: {options.seconds_per_image:g} s an image, {options.seconds_per_box:g} s a box" * (
            options.cost == "time"
        )
        note = SAVINGS_NOTE.format(level=100 * options.level) + price
        print_rows("", [saving_text_row(row) for row in rows], group_by=["table"], note=note)
    for line in refused:
        say(f"not compared: {line}")
    say_variants_of(experiments)


def saving_text_row(saving: Saving) -> Row:
    """A saving as a row of the text table; SAVINGS_NOTE explains the columns."""
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


SAVINGS_NOTE = """\
at, score: where the two are compared: at the smaller of both final scores, at a score, or in a band of scores
paid, other paid: what the strategy and the other pay until they reach that score
saved, saved %: the difference, also in per cent of what the other pays, with {level:g} % intervals over the seeds
[ ]: confidence intervals, pointwise along a curve; not corrected for multiple comparisons
seeds: pairs of runs behind the interval; –: means of a paper, which have no interval
mean score, other mean: mean of all rounds (the normalised area under the learning curve)"""


def compare_command(
    first: Annotated[str, typer.Argument(metavar="A", help="a strategy")],
    second: Annotated[str, typer.Argument(metavar="B", help="the strategy to compare it with")],
    arguments: Arguments = None,
) -> None:
    """Compare strategy A with strategy B, paired by seed: five lines for each task."""
    if first == second or "=" in re.sub(r"\[.*\]", "", first + second):
        raise ValueError(f"compare takes two strategies, as in `compare A B`, not {first} and {second}")
    options = parse_options(arguments or [], "compare")
    experiments = options.read_experiments()
    comparisons = answers.compare_strategies(experiments, first, second, options)
    if options.format == "json":
        typer.echo(comparisons.to_data_frame().to_json(orient="records", indent=1))
    else:
        for paired in comparisons.paired:
            print_paragraphs(comparison_tables.describe_comparison(paired, paired.metric.digits), 2)
        for published in comparisons.published:
            print_paragraphs(describe_means(published), 2)
    for line in comparisons.refusals:
        say(f"not compared: {line}")
    say_variants_of(experiments)


def classes_command(arguments: Arguments = None) -> None:
    """Show the scores of single classes: of strategy=A, and how far from against=B, in the last round or round=N."""
    options = parse_options(arguments or [], "classes")
    experiments = options.read_experiments()
    compared = options.compare_classes(experiments)
    if options.format == "json":
        rows = [class_scores.tidy_row(experiment, row, options.level) for experiment, own in compared for row in own]
        print_rows("", rows, "json")
    else:
        for experiment, own in compared:
            lines = class_scores.display_rows(own, class_scores.num_digits(experiment))
            print_rows(experiment.title, lines, note=class_scores.explain_columns(own, options.level))
    say_variants_of(experiments)


def seconds_command(arguments: Arguments = None) -> None:
    """Show the seconds that each strategy took: training, selection, computing encodings, scoring."""
    options = parse_options(arguments or [], "seconds")
    experiments = options.read_experiments()
    rows = [row for experiment in experiments for row in seconds.rows(experiment)]
    if not rows:
        raise ValueError("no seconds are recorded there: runs have them, published curves do not")
    print_rows("seconds of a run", rows, options.format, ["experiment"], seconds.NOTE)
    say_variants_of(experiments)


def explain_command(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="its path, or TASK/STRATEGY/seed-N")],
    arguments: Arguments = None,
) -> None:
    """Show the details of one cell: its command, seeds, acquisitions, costs, scores and versions."""
    experiment, run = explain.find_run(parse_options(arguments or [], "explain").read_experiments(), cell)
    for line in explain.describe_run(experiment, run):
        if line.startswith("command "):  # printed unwrapped, so that it can be copied
            typer.echo(line)
        else:
            print_paragraphs([line], 10)


def verify_command(arguments: Arguments = None) -> None:
    """Check records for faults and compare them with papers (against=published); exit status 1 if there is a fault.

    `verify devices records=A,B` tests whether records of two devices may be mixed."""
    if arguments and arguments[0] == "devices":
        show_devices(arguments[1:])
        return
    options = parse_options(arguments or [], "verify")
    experiments = options.read_experiments()
    faults = [fault for experiment in experiments for fault in audit.find_faults(experiment)]
    papers = verify.read_published(options.published_paths)
    verdicts = verify.verify(experiments, papers, options.level) if papers else []
    rows: list[Row] = [
        {"experiment": fault.experiment, "check": fault.check, "where": fault.where, "what": fault.message}
        for fault in faults
    ]
    if options.format == "json":
        print_rows("", [{"faults": rows, "verdicts": [verdict_json_row(verdict) for verdict in verdicts]}], "json")
    else:
        for experiment in experiments:
            say(f"{experiment.title}: {describe_audit(experiment, faults)}")
            if note := versions.mixed_versions_note(experiment.mixed_versions):
                say(f"{experiment.title}: {note}")
        print_rows("faults", rows, group_by=["experiment"])
        print_rows(
            "ours minus published",
            [verdict_text_row(verdict) for verdict in verdicts],
            group_by=["task", "source"],
            note=verify.VERDICTS_NOTE,
        )
    say_variants_of(experiments)
    if faults:
        raise typer.Exit(1)


def describe_audit(experiment: Experiment, faults: Sequence[audit.Fault]) -> str:
    """Describes in one line how many checks an experiment passed, and how many cells are unfinished."""
    if not any(curve.num_runs for curve in experiment.curves.values()):
        return "nothing is recorded, so there is nothing to audit"
    passed = len(audit.CHECKS) - len({fault.check for fault in faults if fault.experiment == experiment.title})
    lacking = sum(
        curve.num_planned - curve.num_runs + len(curve.unfinished_seeds) for curve in experiment.curves.values()
    )
    cells = plural(sum(curve.num_planned for curve in experiment.curves.values()), "cell")
    rest = f"; {lacking} of {cells} {'is' if lacking == 1 else 'are'} not finished" * bool(lacking)
    return f"{passed} of {plural(len(audit.CHECKS), 'check')} passed{rest}"


def report_command(arguments: Arguments = None) -> None:
    """Write an HTML page with tables, comparisons, audit and figures, which opens offline; and figures as files."""
    from benchmark.analysis.report import figures_folder  # matplotlib takes a second to import

    options = parse_options(arguments or [], "report")
    if options.output_folder is None:
        raise ValueError(
            f"records={options.records}: add to=FOLDER, the folder that the page and figures are written to"
        )
    experiments = options.read_experiments()
    if options.to:
        options.output_folder.mkdir(parents=True, exist_ok=True)
    with show_activity(err):
        path, remarks = answers.write_report(experiments, options, options.output_folder, arguments or [])
    for line in remarks:
        say(line)
    say_variants_of(experiments)
    typer.echo(make_visible(str(path)))
    say(f"figures in {path.parent / figures_folder(options.task)}")


def verdict_json_row(verdict: Verdict) -> Row:
    """A verdict as a row of the JSON output."""
    gaps = [(gap, verdict.interval(gap)) for gap in verdict.gaps]
    return {
        "source": verdict.source, "task": verdict.task, "strategy": verdict.strategy,
        "published": verdict.published_label, "seeds": verdict.num_runs, "verdict": verdict.verdict,
        "why": verdict.why, "level": verdict.level,
        "gaps": [
            {"num_labelled": gap.num_labelled, "value": finite_or_none(own.value), "low": finite_or_none(own.low),
             "high": finite_or_none(own.high), "equal_spread_assumed": gap.other_std is None}
            for gap, own in gaps
        ],
    }  # fmt: skip


def verdict_text_row(verdict: Verdict) -> Row:
    """A verdict as a row of the text table."""
    return {
        "source": verdict.source, "task": verdict.task, "strategy": verdict.strategy,
        "published": verdict.published_label, "rounds": len(verdict.gaps), "seeds": verdict.num_runs or "–",
        **verify.format_gaps(verdict), "verdict": verdict.verdict, "why": verdict.why,
    }  # fmt: skip


def published_rows() -> list[Row]:
    """The rows of `list published`: one for each curve of a paper that comes with the package."""
    return [
        {
            "source": experiment.source, "task": experiment.task, "strategy": name, "runs": curve.known_runs,
            "rounds": int(np.isfinite(curve.value_SR[0]).sum()), "metric": experiment.metric.name,
            "first": curve.printed_digits["value"][0],
            "last": next(filter(None, reversed(curve.printed_digits["value"]))),
            "cite": experiment.source_info.get("cite", ""),
        }
        for experiment in read_experiments(str(PUBLISHED_FOLDER))
        for name, curve in experiment.curves.items()
    ]  # fmt: skip


COMMANDS: dict[str, Callable[..., None]] = {
    "status": status_command, "tables": tables_command, "savings": savings_command, "compare": compare_command,
    "classes": classes_command,
    "explain": explain_command, "verify": verify_command, "report": report_command, "seconds": seconds_command,
}  # fmt: skip
