"""Writes the report of a results folder: one HTML page that opens offline, and its figures as files beside it.

All names are escaped, and the page loads nothing from elsewhere.
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

from benchmark.analysis import audit, bought_boxes, class_scores, comparison_tables
from benchmark.analysis.class_scores import ClassScore
from benchmark.analysis.comparisons import Comparison
from benchmark.analysis.curves import Experiment
from benchmark.analysis.figures import all_figures, style
from benchmark.analysis.figures.gallery import Gallery, read_gallery
from benchmark.analysis.tables import Entry, Table, build_table, format_number
from benchmark.analysis.verify import VERDICTS_NOTE, Verdict, format_gaps
from benchmark.records.anonymous import redact, redact_command, redact_run
from benchmark.records.provenance import package_version
from benchmark.records.store import Store
from benchmark.system.files import read_file, write_atomically
from benchmark.text.escaping import make_visible, requote_command, shell_command
from benchmark.text.words import slug

MAX_FILES_LISTED = 8  # of one purchase, on the page
LARGEST_SVG = 400_000  # bytes; the page embeds the PNG of a larger figure


@dataclass(frozen=True)
class LinkedNumber:
    """A number of a table, and the anchor of the list of its record files further down on the page."""

    text: str
    sort_value: float | None
    anchor: str = ""


@dataclass(frozen=True)
class TableLine:
    """A line of a table; `main` is false for the additional lines below a strategy's own."""

    name: str
    numbers: list[LinkedNumber]
    main: bool = True


@dataclass(frozen=True)
class Section:
    """The section of one experiment on the page."""

    experiment: Experiment
    table: Table
    lines: list[TableLine]
    checks: list[tuple[str, str, list[audit.Fault]]]  # name of each audit check, what it checks, its faults
    comparisons: list[dict[str, object]]
    against: str
    sentences: list[str]  # the verdicts in plain words
    comparisons_note: str  # explains the columns of the comparisons
    class_rows: list[dict[str, object]]  # a row for each class
    classes_note: str  # explains its columns
    box_rows: list[dict[str, object]]  # what was bought: a row for each strategy
    boxes_note: str  # explains its columns
    figures: list[tuple[str, str]]  # caption, data URI
    records: list[tuple[str, str, list[tuple[str, str]]]]  # anchor, strategy, (seed, link) of its cells
    purchases: list[tuple[str, list[str]]]  # strategy and seed; a line per round with the files it bought
    anchor: str


def write_report(
    experiments: Sequence[Experiment], folder: Path, comparisons: Mapping[str, Sequence[Comparison]],
    verdicts: Sequence[Verdict], provenance: Mapping[str, Any], task: str = "", number: int | None = None,
) -> Path:  # fmt: skip
    """Writes `report.html` and `figures/*.png`, `.svg` and `.pdf` into a folder.

    Args:
        experiments: what the page shows.
        folder: where the page and its figures go.
        comparisons: of the strategies with the reference, by title of the experiment.
        verdicts: on published curves.
        provenance: what `collect_provenance` returns, and the `level` of the intervals.
        task: the only task that the page shows. Its page is `report-TASK.html`, with its figures in `figures-TASK`, so
            that it does not overwrite the page of all tasks.
        number: the round of the scores of single classes, None: the last one; and of the map of the pool, None: 0.

    Returns:
        The path of the page.
    """
    data_uris, level, galleries = {}, provenance["level"], read_galleries(experiments)
    for stem, figure in all_figures.draw_figures(experiments, galleries, number, level).items():
        data_uris[stem] = data_uri(style.save_figure(figure, folder / figures_folder(task) / stem))
    names = [slug(experiment.title) for experiment in experiments]
    anonymous = provenance["anonymous"]
    sections = [
        build_section(
            experiment, comparisons.get(experiment.title, ()), experiment_figures(data_uris, name, names), folder,
            anonymous, class_scores.compare_by_metric(experiment, number, level),
            galleries.get(experiment.title), level,
        )
        for experiment, name in zip(experiments, names, strict=True)
    ]  # fmt: skip
    overall = [
        (figure_caption(stem), uri)
        for stem, uri in data_uris.items()
        if not any(stem.startswith(f"{name}-") for name in names)
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=partial(render_value, anonymous=anonymous),
    )  # fmt: skip
    environment.filters["add_line_breaks"] = add_line_breaks
    page = environment.get_template("report.html").render(
        sections=sections, overall=overall, verdicts=verdicts, provenance=provenance, version=package_version(),
        format_gaps=format_gaps, verdicts_note=VERDICTS_NOTE, wide_captions=WIDE_CAPTIONS,
    )  # fmt: skip
    path = folder / (f"report-{slug(task)}.html" if task else "report.html")
    write_atomically(path, page, folder)
    return path


def figures_folder(task: str) -> str:
    """The name of the folder of the figures beside the page of a task, or, for "", of all tasks."""
    return f"figures-{slug(task)}" if task else "figures"


def experiment_figures(data_uris: Mapping[str, str], name: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Captions and data URIs of the figures of one experiment.

    Stems begin with the experiment's name; a longer name of another experiment may begin with it too.
    """
    longer = tuple(f"{other}-" for other in names if other.startswith(f"{name}-"))
    stems = [stem for stem in data_uris if stem.startswith(f"{name}-") and not stem.startswith(longer)]
    return [(figure_caption(stem.removeprefix(f"{name}-")), data_uris[stem]) for stem in stems]


def figure_caption(stem: str) -> str:
    """The caption of a figure from the last part of its file stem: `curves-images`, `bought-random`."""
    kind, _, variant = stem.partition("-")
    return CAPTIONS.get(kind, stem) + (f" ({variant})" if variant else "")


CAPTIONS = {
    "curves": "Mean score over the labels paid for. Shaded: 95 % interval of the mean, from five runs on, of each "
    "round alone: not corrected for their number; dots: single runs, where there are fewer. Whether two strategies "
    "differ is said in the tables: overlapping bands do not decide it",
    "labels_needed": "Labels that each strategy needs to reach the smaller of its own and the reference's final score, "
    "as a multiple of what the reference needs. Intervals are of each strategy alone, not corrected for their number",
    "savings": "Labels saved against the reference strategy, in per cent, at each score that the reference reached. "
    "Shaded: 95 % interval, from five pairs of runs on, pointwise: of each score alone, not corrected for their number",
    "penalties": "How often the row beats the column: the share of the rounds after the first in which a paired t-test "
    "of five seeds or more is significant at 5 %, summed over experiments. By chance 0.025 in each. Tests of single "
    "rounds, not corrected: whether a strategy is better is said in the tables",
    "ranks": "Mean rank over the data sets, 1 is best; experiments on one data set are averaged first. With five data "
    "sets or more, a bar joins strategies that are closer than the critical difference: they are not shown to differ "
    "(Nemenyi's test, over all pairs together). Strategies are ranked by their mean score over the rounds, or over the "
    "cost where rounds cost unequally, as in the verdicts",
    "overlap": "Overlap of what two strategies bought up to a round: images that both bought, of all that at least one "
    "of them bought (Jaccard's index); columns have the numbers of the strategies",
    "classes": "Classes of what each strategy bought after round 0; the outline is the whole pool",
    "sizes": "Sizes of the boxes, or of the regions of a class, bought after round 0; the outline is the whole pool",
    "overlaps": "Overlap of the boxes bought after round 0: the largest IoU of each with another box of its image; the "
    "outline is the whole pool",
    "pool": "The pool, laid out by t-SNE: images with similar features, from the models of the round that it "
    "names, are close. Coloured: what was bought, by round",
    "bought": "The first images bought, a row for each round",
    "density": "Boxes on an image that was bought after the initial set: the mean over each purchase",
    "class_scores": "Scores of single classes: each strategy minus the reference, sorted; beside the name the score of "
    "the reference. Blue: the whole interval is better than the reference, orange: worse, of each class alone: not "
    "corrected for their number",
    "seconds": "Seconds that one selection takes: a mark for each run, a bar at their mean",
}
WIDE_CAPTIONS = {  # figures that take the page's width
    CAPTIONS[kind] for kind in ("overlap", "penalties", "class_scores", "classes", "sizes", "overlaps", "pool")
}
MISSING_GLYPHS_NOTE = (
    "figures: the font lacks characters of some names; PNG and PDF files show boxes instead, SVG files and the page "
    "the names"
)


class Html(str):
    """Text that is HTML already: templates do not escape it."""

    def __html__(self) -> str:
        return self


def render_value(value: object, anonymous: bool) -> object:
    """The text of a value in a template, with unprintable characters made visible; HTML stays as it is."""
    if hasattr(value, "__html__"):
        return value
    text = str(value)
    return make_visible(redact(text) if anonymous and not text.startswith("data:image/") else text)


def add_line_breaks(name: str) -> Html:
    """A name as HTML that may break after a comma, an opening bracket or an underscore."""
    return Html(re.sub(r"([,_\[])(?=.)", r"\1<wbr>", escape(make_visible(name))))


def data_uri(paths: Sequence[Path]) -> str:
    """A figure as a data URI, from its files: the SVG, or the PNG where the SVG is large."""
    by_suffix = {path.suffix: path for path in paths}
    small = by_suffix[".svg"].stat().st_size <= LARGEST_SVG
    path, kind = (by_suffix[".svg"], "svg+xml") if small else (by_suffix[".png"], "png")
    return f"data:image/{kind};base64,{base64.b64encode(read_file(path)).decode()}"


def read_galleries(experiments: Sequence[Experiment]) -> dict[str, Gallery]:
    """Reads the galleries that lie beside the records, by title of the experiment."""
    galleries = {experiment.title: read_gallery(experiment) for experiment in experiments}
    return {title: gallery for title, gallery in galleries.items() if gallery is not None}


def build_section(
    experiment: Experiment, comparisons: Sequence[Comparison], figures: list[tuple[str, str]], folder: Path,
    anonymous: bool, classes: Sequence[ClassScore], gallery: Gallery | None, level: float,
) -> Section:  # fmt: skip
    """Builds the section of one experiment."""
    table, anchor = build_table(experiment), slug(experiment.title)
    faults = audit.find_faults(experiment)
    boxes = bought_boxes.bought_boxes(experiment, gallery, level) if gallery else []
    unit = bought_boxes.label_unit(experiment)
    checks = [
        (name, " ".join((check.__doc__ or "").split()), [fault for fault in faults if fault.check == name])
        for name, check in audit.CHECKS.items()
    ]
    return Section(
        experiment, table, list(table_lines(table, anchor)), checks,
        comparisons=comparison_tables.display_rows(comparisons, table.metric.digits),
        against=comparisons[0].against if comparisons else "",
        sentences=[comparison.sentence for comparison in comparisons],
        comparisons_note=comparison_tables.explain_columns(comparisons) if comparisons else "",
        class_rows=class_scores.display_rows(classes, class_scores.num_digits(experiment)),
        classes_note=class_scores.explain_columns(classes, level) if classes else "",
        box_rows=bought_boxes.display_rows(boxes), boxes_note=bought_boxes.explain_columns(unit, level),
        figures=figures, records=list(record_links(experiment, folder, anchor, anonymous)),
        purchases=list(purchased_files(experiment)), anchor=anchor,
    )  # fmt: skip


def table_lines(table: Table, anchor: str) -> Iterator[TableLine]:
    """The lines of a table; each number is linked to the record files of its strategy."""
    digits = table.metric.digits
    for number, (name, row) in enumerate(table.rows.items()):
        target = f"{anchor}-{number}"
        yield TableLine(name + "†" * bool(table.daggers[name]), [linked_mean(entry, digits, target) for entry in row])
        if table.counts_boxes:
            boxes = [
                LinkedNumber(entry.printed_digits.get("boxes") or format_number(entry.boxes, 0), entry.boxes, target)
                for entry in row
            ]
            yield TableLine("boxes", boxes, False)
            ratios = [LinkedNumber(format_number(entry.per_10k_boxes, 3), entry.per_10k_boxes, target) for entry in row]
            yield TableLine(f"10k x {table.metric} / boxes", ratios, False)


def linked_mean(entry: Entry, digits: int, anchor: str) -> LinkedNumber:
    """The mean of a table's entry, as text and as the value to sort by."""
    return LinkedNumber(entry.format(digits), entry.mean, anchor)


def record_links(
    experiment: Experiment, folder: Path, anchor: str, anonymous: bool
) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Links from the page to the record files of each strategy; an anonymous page omits links that name a folder."""
    for number, name in enumerate(experiment.curves):
        runs = [run for run in experiment.runs if run.strategy == name]
        links = {run.seed: relpath(run.file, folder) for run in runs}
        if anonymous:
            start = f"cells/{slug(redact(experiment.task))}/"  # the folder of a label without folders
            links = {seed: link for seed, link in links.items() if link.startswith(start) and f"/{slug(name)}/" in link}
        yield f"{anchor}-{number}", name, [(f"seed {seed}", quote(fsencode(link))) for seed, link in links.items()]


def purchased_files(experiment: Experiment) -> Iterator[tuple[str, list[str]]]:
    """For the lowest seed of each strategy: strategy and seed, and a line per round with the first files that it
    bought. Yields nothing where the names of the images' files are not known."""
    runs = {run.strategy: run for run in sorted(experiment.runs, key=lambda run: -run.seed) if run.records}
    for strategy in experiment.curves:
        names = experiment.file_names(runs[strategy]) if strategy in runs else []
        lines = []
        for record in runs[strategy].records if names else []:
            file_names = ", ".join(names[index] for index in record.bought[:MAX_FILES_LISTED] if index < len(names))
            num_more = len(record.bought) - MAX_FILES_LISTED
            lines.append(f"round {record.round}: {file_names}" + (f" and {num_more:,} more" if num_more > 0 else ""))
        if lines:
            yield f"{strategy}, seed {runs[strategy].seed}", lines


def collect_provenance(experiments: Sequence[Experiment], arguments: Sequence[str], anonymous: bool) -> dict[str, Any]:
    """Collects how the records and the page were made: grids, commands, and versions of libraries.

    Args:
        experiments: what the page shows.
        arguments: of the `report` command that writes the page.
        anonymous: leaves folders, user, host and commit out.
    """
    folders = dict.fromkeys(experiment.runs[0].folder for experiment in experiments if experiment.runs)
    runs = [run for folder in folders for run in Store(folder).manifest().get("runs", [])]
    runs = [redact_run(run) for run in runs] if anonymous else runs
    arguments = redact_command(arguments) if anonymous else arguments
    return {
        "grid": ", ".join(dict.fromkeys(experiment.source for experiment in experiments)),
        "runs": [{**run, "command": requote_command(run["command"])} for run in runs],
        "command": shell_command(["python", "-m", "benchmark", "report", *arguments]),
        "versions": {experiment.title: recorded_versions(experiment) for experiment in experiments},
        "anonymous": anonymous,
    }


def recorded_versions(experiment: Experiment) -> list[str]:
    """The devices and library versions that an experiment's records were written with, a line each."""
    lines = set[str]()
    for measurement in (measurement for run in experiment.runs for measurement in run.measurements):
        versions = ", ".join(f"{name} {version}" for name, version in sorted(measurement.versions.items()))
        lines.add(f"{measurement.device}; {versions}")
    return sorted(lines)
