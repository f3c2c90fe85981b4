"""Renders docs/statistics.md: every statistical rule with a figure and a simulation whose true values are known.

    python -m tools.statistics_page             simulates (minutes), draws and renders
    python -m tools.statistics_page --render    draws and renders from docs/figures/statistics/simulations.json

The text is in statistics_page.md.jinja; every number on the page comes from the JSON file.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmark.analysis import stats
from benchmark.analysis.figures import style as figures_style
from benchmark.analysis.savings import MIN_PRECISE_ROUNDS
from benchmark.seeds import seed
from benchmark.system import files
from tools import simulated_runs
from tools.simulated_runs import SimulationResults
from tools.simulations import SIMULATIONS
from tools.statistics_figures import FIGURES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "statistics.md"
PICTURES = ROOT / "docs" / "figures" / "statistics"
RESULTS = PICTURES / "simulations.json"
DIGITS = 5  # significant digits of a number in the JSON file


def run_simulation(name: str, num: int | None = None) -> SimulationResults:
    """Runs the simulation of a rule.

    Args:
        name: a key of SIMULATIONS.
        num: the number of replicates; None: as many as for the page.
    """
    simulate, default_num = SIMULATIONS[name]
    return {
        "replicates": num or default_num,
        "seed": seed(simulated_runs.PAGE, name),
        **to_json_numbers(simulate(num or default_num)),
    }


def to_json_numbers(value: Any) -> Any:
    """Converts numbers to JSON's types with DIGITS digits; None where a number is not finite."""
    if isinstance(value, dict):
        return {name: to_json_numbers(part) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_json_numbers(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def render_page(results: SimulationResults) -> str:
    """Renders the text of the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters |= {"share": format_share, "table": markdown_table, "row": matching_row}
    template = environment.get_template("statistics_page.md.jinja")
    rules = {"exact": stats.MAX_EXACT_RUNS, "flips": stats.NUM_FLIPS, "rough": MIN_PRECISE_ROUNDS}
    return template.render(
        rules, results=results, replicates={name: f"{result['replicates']:,}" for name, result in results.items()}
    )


def format_share(value: float) -> str:
    """A probability with three digits: `0.046`."""
    return f"{value:.3f}"


def matching_row(rows: Sequence[dict[str, Any]], **values: Any) -> dict[str, Any]:
    """The only row that has these values. Raises ValueError if there is not exactly one."""
    [match] = [row for row in rows if all(row[name] == value for name, value in values.items())]
    return match


def markdown_table(rows: Sequence[dict[str, Any]], *columns: str) -> str:
    """Renders rows as a markdown table.

    Args:
        rows: numbers by name.
        columns: `title=name:format` each; a missing number is a dash.
    """
    parts = [(title, *name.partition(":")[::2]) for title, _, name in (column.partition("=") for column in columns)]
    lines = [[title for title, _, _ in parts], ["---:"] * len(parts)]
    for row in rows:
        lines.append(["–" if row[name] is None else format(row[name], style) for _, name, style in parts])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def draw_figures(results: SimulationResults, folder: Path) -> list[Path]:
    """Draws the figure of every rule as NAME.svg in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in FIGURES.items():
        figure = draw(results[name])
        assert figure is not None
        paths += figures_style.save_figure(figure, folder / name, ["svg"])
    return paths


def main(arguments: Sequence[str]) -> None:
    """Writes the page and its figures; simulates first unless the arguments contain `--render`."""
    if "--render" not in arguments:
        results = {name: run_simulation(name) for name in SIMULATIONS}
        PICTURES.mkdir(parents=True, exist_ok=True)
        files.write_atomically(RESULTS, json.dumps(results, indent=1) + "\n", ROOT)
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    draw_figures(results, PICTURES)
    files.write_atomically(PAGE, render_page(results), ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
