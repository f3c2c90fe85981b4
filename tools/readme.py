"""Renders the blocks of numbers in a page from committed records, and the page's figures.

    python -m tools.readme README.md docs/*.md

A block begins with `<!-- KIND: FOLDER EXPERIMENT -->`, where KIND is table, verdicts, variance or growing_table (of
records that `make gpu` adds to, and that may not exist yet), or with `<!-- savings: SETTINGS; SETTINGS ... -->`
(settings of the command `savings`), or with `<!-- settings: VERB -->`. It ends with `<!-- end -->`, and the text
between is replaced. An image `docs/figures/FOLDER/STEM.svg` (in a page of docs/,
`figures/FOLDER/STEM.svg`) is that figure of `results/reference/FOLDER`.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from benchmark.analysis import comparison_tables, comparisons, variance
from benchmark.analysis.curves import Experiment
from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.options import parse_options
from benchmark.analysis.tables import build_tables, to_markdown
from benchmark.cli.command_names import settings_of
from benchmark.system import files
from benchmark.text.escaping import escape_markdown

HOME = Path(__file__).resolve().parents[1]
KINDS = "table|growing_table|verdicts|variance|savings|settings"
BLOCK = re.compile(rf"(<!-- (?P<kind>{KINDS}): (?P<argument>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
IMAGE = re.compile(r"!\[[^]]*\]\((?:docs/)?figures/(?P<folder>\w+)/(?P<stem>[\w.=+-]+)\.svg\)")


def render_page(page: str, home: Path) -> str:
    """Fills every block of a page from the records below `home`.

    Raises:
        ValueError: an experiment is missing.
    """
    render_block = {
        "table": table_block,
        "growing_table": growing_table_block,
        "verdicts": verdicts_block,
        "variance": variance_block,
        "savings": savings_block,
        "settings": settings_block,
    }
    return BLOCK.sub(lambda match: f"{match[1]}{render_block[match['kind']](match['argument'], home)}{match[4]}", page)


def table_block(argument: str, home: Path) -> str:
    """The table of one experiment without its heading."""
    folder, name = argument.split()
    for table in build_tables(read_experiments(str(home / folder))):
        if table.title == name:
            return to_markdown(table).split("\n\n", 1)[1]
    raise ValueError(f"{folder} has no experiment {name}")


def growing_table_block(argument: str, home: Path) -> str:
    """The table of an experiment that is run piece by piece, and how much there is of it; or how to begin."""
    folder, name = argument.split()
    if not (home / folder / "grid.json").exists():
        return "No run yet: `make gpu OUT=DIR` makes records, on a machine with a GPU.\n"
    [experiment] = (entry for entry in read_experiments(str(home / folder)) if entry.title == name)
    num_recorded, num_rounds = sum(len(run.records) for run in experiment.runs), len(experiment.rounds)
    devices = sorted({row.device for run in experiment.runs for row in run.measurements})
    extent = f"{num_recorded} of {len(experiment.runs) * num_rounds} rounds so far, on {' and '.join(devices)}"
    return f"{table_block(argument, home)}\n{escape_markdown(extent)}.\n"


def experiment_with_reference(argument: str, home: Path) -> tuple[Experiment, str]:
    """Reads an experiment of a folder, and the label of its reference strategy."""
    folder, name = argument.split()
    for experiment in read_experiments(str(home / folder)):
        if experiment.title == name and experiment.reference is not None:
            return experiment, experiment.reference
    raise ValueError(f"{folder} has no experiment {name} with a reference strategy")


def verdicts_block(argument: str, home: Path) -> str:
    """The verdicts of one experiment: a sentence for each comparison with the reference."""
    experiment, reference = experiment_with_reference(argument, home)
    options = parse_options([], "tables")
    price = options.price(experiment)
    answers, _ = comparisons.compare_all(experiment, reference, price, options.level, options.seed)
    return "".join(f"* {escape_markdown(answer.sentence)}\n" for answer in answers)


def variance_block(argument: str, home: Path) -> str:
    """The variance components of one experiment's areas, and the advice on spending runs."""
    experiment, reference = experiment_with_reference(argument, home)
    options = parse_options([], "variance")
    price = options.price(experiment)
    components = variance.strategy_components(experiment, reference, price, options.level, options.seed)
    areas = [component for component in components if component.measure == "area"]
    rows = variance.rows(areas)
    cells = [[str(cell) for cell in row.values()] for row in rows]
    lines = [list(rows[0]), ["---"] * 2 + ["---:"] * (len(rows[0]) - 2), *cells]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\n{variance.advice(areas)}.\n"


def savings_block(argument: str, home: Path) -> str:
    """A table of savings."""
    lines = ["| task | strategy | against | at | saved | % |", "| --- | --- | --- | --- | ---: | ---: |"]
    for settings in argument.split(";"):
        options = parse_options(settings.split(), "savings")
        if options.records:
            options = replace(options, records=str(home / options.records))
        else:
            options = replace(options, out=str(home / options.out))
        for saving in options.compute_savings()[0]:
            amount, percent = saving.not_reached_note, ""
            if saving.is_reached:
                amount = f"{comparison_tables.format_interval(saving.amount, 0)} {saving.unit}"
                percent = comparison_tables.format_interval(saving.percent, 1)
            cells = (saving.task, saving.strategy, saving.against, str(saving.rule), amount, percent)
            lines.append(f"| {' | '.join(map(escape_markdown, cells))} |")
    return "\n".join(lines) + "\n"


def settings_block(argument: str, _: Path) -> str:
    """The table of the settings of a command, as `VERB --help` shows them."""
    lines = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for setting in settings_of(argument):
        name, default = (f"`{text}`" if text else "" for text in (setting.name, setting.default))
        lines.append(f"| {name} | {setting.type.replace('|', ' or ')} | {default} | {setting.meaning} |")
    return "\n".join(lines) + "\n"


def draw_page_figures(page: str, home: Path, output: Path) -> list[Path]:
    """Draws the figures of a page as FOLDER/STEM.svg below `output`.

    Raises:
        ValueError: the records give no such figure.
    """
    from benchmark.analysis.figures import all_figures, style  # matplotlib takes a second to import

    paths = []
    for folder, stem in IMAGE.findall(page):
        figures = all_figures.draw_figures(read_experiments(str(home / "results" / "reference" / folder)), {})
        if stem not in figures:
            raise ValueError(f"{folder} has no figure {stem}, only {', '.join(figures)}")
        output.mkdir(parents=True, exist_ok=True)
        paths += style.save_figure(figures[stem], output / folder / stem, ["svg"])
    return paths


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        files.write_atomically(page, render_page(page.read_text(encoding="utf-8"), HOME))
        draw_page_figures(page.read_text(encoding="utf-8"), HOME, HOME / "docs" / "figures")
