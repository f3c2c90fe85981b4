"""Numbers in a page come from committed records: `python -m tools.readme README.md` renders them.

With it go the page's figures: an image `docs/figures/FOLDER/STEM.svg` is that figure of `results/reference/FOLDER`.
A block begins with `<!-- KIND: FOLDER EXPERIMENT -->`, where KIND is table, verdicts or variance, or with
`<!-- savings: WORDS; WORDS ... -->` in words of the command `savings`, or with `<!-- settings: VERB -->`, and ends with
`<!-- end -->`; what stands between is replaced.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from benchmark.analysis import comparison_tables, comparisons, variance
from benchmark.analysis.curves import Experiment
from benchmark.analysis.options import parse_options
from benchmark.analysis.reading import read_experiments
from benchmark.analysis.tables import build_tables, to_markdown
from benchmark.cli.verbs import settings_of
from benchmark.system import files
from benchmark.text.escaping import escape_markdown as escaped_markdown

HOME = Path(__file__).resolve().parents[1]
KINDS = "table|verdicts|variance|savings|settings"
BLOCK = re.compile(rf"(<!-- (?P<kind>{KINDS}): (?P<told>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def render_page(page: str, home: Path) -> str:
    """The page with every block filled from the records below `home`. ValueError where an experiment is missing."""
    kinds = {
        "table": table_block,
        "verdicts": verdicts_block,
        "variance": variance_block,
        "savings": savings_block,
        "settings": settings_block,
    }
    return BLOCK.sub(lambda match: f"{match[1]}{kinds[match['kind']](match['told'], home)}{match[4]}", page)


def table_block(argument: str, home: Path) -> str:
    """One experiment's table without its heading."""
    folder, name = argument.split()
    for made in build_tables(read_experiments(str(home / folder))):
        if made.title == name:
            return to_markdown(made).split("\n\n", 1)[1]
    raise ValueError(f"{folder} has no experiment {name}")


def experiment_with_reference(argument: str, home: Path) -> tuple[Experiment, str]:
    """An experiment of a folder, and the strategy that its others are compared with."""
    folder, name = argument.split()
    for experiment in read_experiments(str(home / folder)):
        if experiment.title == name and experiment.reference is not None:
            return experiment, experiment.reference
    raise ValueError(f"{folder} has no experiment {name} to compare in")


def verdicts_block(argument: str, home: Path) -> str:
    """What becomes of each comparison of one experiment with its reference: a sentence each."""
    experiment, reference = experiment_with_reference(argument, home)
    options = parse_options([], "tables")
    price = options.price(experiment)
    answers, _ = comparisons.compare_all(experiment, reference, price, options.level, options.seed)
    return "".join(f"* {escaped_markdown(answer.sentence)}\n" for answer in answers)


def variance_block(argument: str, home: Path) -> str:
    """What makes the areas of one experiment differ, and how to spend runs."""
    experiment, reference = experiment_with_reference(argument, home)
    options = parse_options([], "variance")
    parts = variance.strategy_components(experiment, reference, options.price(experiment), options.level, options.seed)
    areas = [part for part in parts if part.measure == "area"]
    rows = variance.rows(areas)
    cells = [[str(cell) for cell in row.values()] for row in rows]
    lines = [list(rows[0]), ["---"] * 2 + ["---:"] * (len(rows[0]) - 2), *cells]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\n{variance.advice(areas)}.\n"


def savings_block(argument: str, home: Path) -> str:
    """Savings, a row each."""
    lines = ["| task | strategy | against | at | saved | % |", "| --- | --- | --- | --- | ---: | ---: |"]
    for words in argument.split(";"):
        asked = parse_options(words.split(), "savings")
        asked = (
            replace(asked, records=str(home / asked.records))
            if asked.records
            else replace(asked, out=str(home / asked.out))
        )
        for one in asked.compute_savings()[0]:
            saved = (
                f"{comparison_tables.format_interval(one.amount, 0)} {one.unit}"
                if one.is_reached
                else one.not_reached_note
            )
            percent = comparison_tables.format_interval(one.percent, 1) if one.is_reached else ""
            cells = (one.task, one.strategy, one.against, str(one.rule), saved, percent)
            lines.append(f"| {' | '.join(map(escaped_markdown, cells))} |")
    return "\n".join(lines) + "\n"


def settings_block(argument: str, _: Path) -> str:
    """The settings that a command takes, as `VERB --help` shows them."""
    lines = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for one in settings_of(argument):
        cells = (one.name, one.type.replace("|", " or "), one.default)
        code = [f"`{cell}`" if cell else "" for cell in (cells[0], cells[2])]
        lines.append(f"| {code[0]} | {cells[1]} | {code[1]} | {one.meaning} |")
    return "\n".join(lines) + "\n"


IMAGE = re.compile(r"!\[[^]]*\]\(docs/figures/(?P<folder>\w+)/(?P<stem>[\w.=+-]+)\.svg\)")


def draw_page_figures(page: str, home: Path, output: Path) -> list[Path]:
    """Draws the figures that a page shows into FOLDER/STEM.svg below `into`. ValueError where there is no such one."""
    from benchmark.analysis.figures import drawing, style  # matplotlib takes a second to import

    paths = []
    for folder, stem in IMAGE.findall(page):
        drawn = drawing.draw_figures(read_experiments(str(home / "results" / "reference" / folder)), {})
        if stem not in drawn:
            raise ValueError(f"{folder} has no figure {stem}, only {', '.join(drawn)}")
        output.mkdir(parents=True, exist_ok=True)
        paths += style.save_figure(drawn[stem], output / folder / stem, ["svg"])
    return paths


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        files.write_atomically(page, render_page(page.read_text(encoding="utf-8"), HOME))
        draw_page_figures(page.read_text(encoding="utf-8"), HOME, HOME / "docs" / "figures")
