"""The report of a results folder: one HTML file that opens offline, with figures beside it as files.

What it shows is text to it: names are escaped, and the page may load nothing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from os import fsencode
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmark.analysis import audit, comparison_tables
from benchmark.analysis.comparisons import Comparison
from benchmark.analysis.curves import Experiment
from benchmark.analysis.figures import drawing, style
from benchmark.analysis.figures.gallery import Gallery
from benchmark.analysis.tables import Entry, Table, build_table, format_number
from benchmark.analysis.verify import VERDICTS_NOTE, Verdict, format_gaps
from benchmark.records.anonymous import redact
from benchmark.records.anonymous import redact_command as without_folders
from benchmark.records.anonymous import redact_run as without_names
from benchmark.records.provenance import package_version
from benchmark.records.store import Store
from benchmark.system.files import read_file, write_atomically
from benchmark.text.escaping import make_visible, requote_command, shell_command
from benchmark.text.words import slug

MAX_FILES_LISTED = 8  # of a purchase, on the page
LARGEST_SVG = 400_000  # bytes of an SVG above which a page embeds the PNG instead


@dataclass(frozen=True)
class LinkedNumber:
    """A number of a table and where its records are: the name of a place further down on the page."""

    text: str
    sort: float | None
    place: str = ""


@dataclass(frozen=True)
class TableLine:
    """A row of a table; `main` is false for the lines below a strategy's own."""

    name: str
    numbers: list[LinkedNumber]
    main: bool = True


@dataclass(frozen=True)
class Section:
    """One experiment of the page."""

    experiment: Experiment
    table: Table
    lines: list[TableLine]
    checks: list[tuple[str, str, list[audit.Fault]]]  # check, what it asks, its faults
    comparisons: list[dict[str, object]]
    against: str
    sentences: list[str]  # the verdicts for people
    compared: str  # what the columns of the comparisons are
    pictures: list[tuple[str, str]]  # caption, data URI
    records: list[tuple[str, str, list[tuple[str, str]]]]  # place, strategy, (seed, link) of its cells
    bought: list[tuple[str, list[str]]]  # strategy and seed, a line a round with files that it bought
    anchor: str


def write_report(
    experiments: Sequence[Experiment], folder: Path, comparisons: Mapping[str, Sequence[Comparison]],
    verdicts: Sequence[Verdict], provenance: Mapping[str, Any], task: str = "",
) -> Path:  # fmt: skip
    """Writes figures/*.png, .svg and .pdf and report.html into `folder`; returns the page's path.

    told: what `told` returns, and `level` of the intervals. task: what the page is limited to; then it is
    report-TASK.html, with its figures in figures-TASK: a part never takes the place of the whole.
    """
    drawn = drawing.draw_figures(experiments, read_galleries(experiments))
    pictures = {}
    for name, figure in drawn.items():
        paths = style.save_figure(figure, folder / figures_folder(task) / name)
        pictures[name] = data_uri(paths)
    names = [slug(one.title) for one in experiments]
    sections = [
        build_section(
            one,
            comparisons.get(one.title, ()),
            experiment_figures(pictures, name, names),
            folder,
            provenance["anonymous"],
        )
        for one, name in zip(experiments, names, strict=True)
    ]
    rest = [
        (figure_caption(name), uri)
        for name, uri in pictures.items()
        if not any(name.startswith(f"{n}-") for n in names)
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=partial(render_value, anonymous=provenance["anonymous"]),
    )  # fmt: skip
    environment.filters["breakable"] = add_line_breaks
    page = environment.get_template("report.html").render(
        sections=sections,
        overall=rest,
        verdicts=verdicts,
        told=provenance,
        version=package_version(),
        shown_gaps=format_gaps,
        verdicts_note=VERDICTS_NOTE,
        wide=WIDE_CAPTIONS,
    )
    path = folder / (f"report-{slug(task)}.html" if task else "report.html")
    write_atomically(path, page, folder)
    return path


def figures_folder(task: str) -> str:
    """The folder of the figures, beside the page; task: what they are limited to."""
    return f"figures-{slug(task)}" if task else "figures"


def experiment_figures(pictures: Mapping[str, str], name: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """The figures of one experiment: captions and data. Its name may begin another's."""
    longer = [other for other in names if other.startswith(f"{name}-")]
    mine = [one for one in pictures if one.startswith(f"{name}-") and not any(one.startswith(f"{n}-") for n in longer)]
    return [(figure_caption(one.removeprefix(f"{name}-")), pictures[one]) for one in mine]


def figure_caption(stem: str) -> str:
    """A figure's caption from the end of its file's name."""
    kind, _, of = stem.partition("-")
    return CAPTIONS.get(kind, stem) + (f" ({of})" if of else "")


CAPTIONS = {
    "curves": "Score over what was paid for. Shaded: 95 % interval of the mean, from five runs on, of each round "
    "alone: not corrected for their number; dots: single runs, where they are fewer. Whether two differ is said in the "
    "tables, not by whether bands overlap",
    "savings": "Labels saved against the reference strategy, in per cent, at each score that it reached. Shaded: 95 % "
    "interval, from five pairs of runs on, pointwise: of each score alone, not corrected for their number",
    "penalties": "How often the row beats the column: share of the rounds after the first in which a paired t-test of "
    "five seeds or more says so at 5 %, summed over experiments. By chance 0.025 in each. Tests of single rounds, not "
    "corrected: whether a strategy is better is said in the tables",
    "ranks": "Mean rank over the data sets, 1 is best; experiments on one data set are averaged first. With five data "
    "sets or more, strategies that a bar joins are closer than the critical difference: they are not shown to differ "
    "(Nemenyi's test, over all pairs together). By mean score over the rounds, or over the price where rounds cost "
    "unequally, as the verdicts",
    "overlap": "How much of what two strategies bought is the same: images that both bought, of all that one of them "
    "bought (Jaccard's index), up to a round; a column has the number of its strategy",
    "classes": "Classes of what each strategy bought after round 0; the outline is the whole pool",
    "sizes": "Sizes of the boxes, or of the regions of a class, bought after round 0; the outline is the whole pool",
    "pool": "The pool, laid out by t-SNE: images whose features are alike, to the model of round 0, are close. "
    "Coloured: what was bought, by round",
    "bought": "The first images bought, a row for each round",
    "seconds": "Seconds that one choice takes: a mark for each run, a bar at their mean",
}
WIDE_CAPTIONS = {CAPTIONS["overlap"], CAPTIONS["penalties"]}  # figures that take the page's width
MISSING_GLYPHS_NOTE = (
    "figures: the font lacks characters of some names; PNG and PDF files show boxes instead, SVG files and the page "
    "the names"
)


class Html(str):
    """Text that is HTML already, as templates ask for it."""

    def __html__(self) -> str:
        return self


def render_value(value: object, anonymous: bool) -> object:
    """What a template shows, as text in which everything is seen; HTML as it is."""
    if hasattr(value, "__html__"):
        return value
    text = str(value)
    return make_visible(redact(text) if anonymous and not text.startswith("data:image/") else text)


def add_line_breaks(name: str) -> Html:
    """A name that goes on in the next line behind a comma, a bracket or an underscore, where it has to."""
    return Html(re.sub(r"([,_\[])(?=.)", r"\1<wbr>", escape(make_visible(name))))


def data_uri(paths: Sequence[Path]) -> str:
    """A figure as a data URI: its SVG, or the PNG where that is large."""
    by_ending = {path.suffix: path for path in paths}
    small = by_ending[".svg"].stat().st_size <= LARGEST_SVG
    path, kind = (by_ending[".svg"], "svg+xml") if small else (by_ending[".png"], "png")
    return f"data:image/{kind};base64,{base64.b64encode(read_file(path)).decode()}"


def read_galleries(experiments: Sequence[Experiment]) -> dict[str, Gallery]:
    """The galleries that stand beside the records."""
    paths = {one.title: one.runs[0].folder / "gallery" / f"{slug(one.title)}.npz" for one in experiments if one.runs}
    return {title: Gallery.read(path) for title, path in paths.items() if path.exists()}


def build_section(
    experiment: Experiment, comparisons: Sequence[Comparison], pictures: list[tuple[str, str]], folder: Path,
    anonymous: bool,
) -> Section:  # fmt: skip
    """Everything that the page says of one experiment."""
    made, anchor = build_table(experiment), slug(experiment.title)
    faults = audit.find_faults(experiment)
    checks = [
        (name, " ".join((check.__doc__ or "").split()), [fault for fault in faults if fault.check == name])
        for name, check in audit.CHECKS.items()
    ]
    rows = comparison_tables.display_rows(comparisons, made.metric.digits)
    against, note = (
        (comparisons[0].against, comparison_tables.explain_columns(comparisons)) if comparisons else ("", "")
    )
    records, bought = list(record_links(experiment, folder, anchor, anonymous)), list(purchased_files(experiment))
    sentences = [one.sentence for one in comparisons]
    rest = (rows, against, sentences, note, pictures, records, bought, anchor)
    return Section(experiment, made, list(table_lines(made, anchor)), checks, *rest)


def table_lines(table: Table, anchor: str) -> Iterator[TableLine]:
    """The rows of a table, each number with its place."""
    digits = table.metric.digits
    for number, (name, row) in enumerate(table.rows.items()):
        place = f"{anchor}-{number}"
        yield TableLine(name + "†" * bool(table.daggers[name]), [linked_mean(entry, digits, place) for entry in row])
        if table.counts_boxes:
            boxes = [
                LinkedNumber(entry.printed_digits.get("boxes") or format_number(entry.boxes, 0), entry.boxes, place)
                for entry in row
            ]
            yield TableLine("boxes", boxes, False)
            ratios = [LinkedNumber(format_number(entry.per_10k_boxes, 3), entry.per_10k_boxes, place) for entry in row]
            yield TableLine(f"10k x {table.metric} / boxes", ratios, False)


def linked_mean(entry: Entry, digits: int, place: str) -> LinkedNumber:
    """An entry as a number that can be sorted by."""
    return LinkedNumber(entry.format(digits), entry.mean, place)


def record_links(
    experiment: Experiment, folder: Path, anchor: str, anonymous: bool
) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """The record files of each strategy, linked from the page; if it is anonymous, not where a link tells a folder."""
    for number, name in enumerate(experiment.curves):
        runs = [run for run in experiment.runs if run.strategy == name]
        links = {run.seed: relpath(run.file, folder) for run in runs}
        if anonymous:
            start = f"cells/{slug(redact(experiment.task))}/"  # the folder of a label that tells none
            links = {seed: link for seed, link in links.items() if link.startswith(start) and f"/{slug(name)}/" in link}
        yield f"{anchor}-{number}", name, [(f"seed {seed}", quote(fsencode(link))) for seed, link in links.items()]


def purchased_files(experiment: Experiment) -> Iterator[tuple[str, list[str]]]:
    """Strategy and seed, and a line a round with the first files that it bought, for the lowest seed of each strategy;
    nothing where images are in no files."""
    runs = {run.strategy: run for run in sorted(experiment.runs, key=lambda run: -run.seed) if run.records}
    for name in experiment.curves:
        names = experiment.file_names(runs[name]) if name in runs else []
        purchases = [(record.round, record.bought) for record in runs[name].records] if names else []
        rows = []
        for number, bought in purchases:
            first = ", ".join(names[index] for index in bought[:MAX_FILES_LISTED] if index < len(names))
            more = f" and {len(bought) - MAX_FILES_LISTED:,} more" if len(bought) > MAX_FILES_LISTED else ""
            rows.append(f"round {number}: {first}{more}")
        if rows:
            yield f"{name}, seed {runs[name].seed}", rows


def collect_provenance(experiments: Sequence[Experiment], arguments: Sequence[str], anonymous: bool) -> dict[str, Any]:
    """What is known of how the records and the page, by these words of a command, were made."""
    folders = dict.fromkeys(one.runs[0].folder for one in experiments if one.runs)
    runs = [run for folder in folders for run in Store(folder).manifest().get("runs", [])]
    runs = list(map(without_names, runs)) if anonymous else runs
    own = without_folders(arguments) if anonymous else arguments
    return {
        "grid": ", ".join(dict.fromkeys(one.source for one in experiments)),
        "runs": [{**run, "command": requote_command(run["command"])} for run in runs],
        "command": shell_command(["python", "-m", "benchmark", "report", *own]),
        "versions": {one.title: recorded_versions(one) for one in experiments},
        "anonymous": anonymous,
    }


def recorded_versions(experiment: Experiment) -> list[str]:
    """Devices and versions of libraries that an experiment's records were written with."""
    found = {
        f"{one.device}; {', '.join(f'{name} {number}' for name, number in sorted(one.versions.items()))}"
        for run in experiment.runs
        for one in run.measurements
    }
    return sorted(found)
