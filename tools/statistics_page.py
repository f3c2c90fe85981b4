"""docs/statistics.md: every statistical rule with a picture and what a simulation of a known truth gives.

    python -m tools.statistics_page             simulates anew (minutes), draws and renders
    python -m tools.statistics_page --render    draws and renders from docs/figures/statistics/simulations.json

The words are in statistics_page.md.jinja; each number on the page is from that file, so that none is typed by hand.
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
DIGITS = 5  # that are kept of a number


def run_simulation(name: str, num: int | None = None) -> SimulationResults:
    """What the simulation of a rule gives.

    Args:
        name: of SIMULATIONS.
        num: how often it is repeated; as often as for the page where it is left out.
    """
    simulate, usual = SIMULATIONS[name]
    return {
        "replicates": num or usual,
        "seed": seed(simulated_runs.PAGE, name),
        **to_json_numbers(simulate(num or usual)),
    }


def to_json_numbers(value: Any) -> Any:
    """Numbers as JSON has them, to DIGITS digits; None for those that there are not."""
    if isinstance(value, dict):
        return {name: to_json_numbers(part) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_json_numbers(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def render_page(results: SimulationResults) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters |= {"share": format_share, "table": markdown_table, "row": matching_row}
    template = environment.get_template("statistics_page.md.jinja")
    rules = {"exact": stats.MAX_EXACT_RUNS, "flips": stats.NUM_FLIPS, "rough": MIN_PRECISE_ROUNDS}
    return template.render(
        rules, found=results, replicates={name: f"{one['replicates']:,}" for name, one in results.items()}
    )


def format_share(value: float) -> str:
    """`0.046`: a probability."""
    return f"{value:.3f}"


def matching_row(rows: Sequence[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The row that has these values. ValueError where it is not just one."""
    [match] = [one for one in rows if all(one[name] == value for name, value in wanted.items())]
    return match


def markdown_table(rows: Sequence[dict[str, Any]], *columns: str) -> str:
    """Rows as a table of markdown.

    Args:
        rows: numbers by name.
        columns: `title=name:format`; a number that there is not is a dash.
    """
    parts = [(title, *name.partition(":")[::2]) for title, _, name in (one.partition("=") for one in columns)]
    lines = [[title for title, _, _ in parts], ["---:"] * len(parts)]
    for one in rows:
        lines.append(["–" if one[name] is None else format(one[name], style) for _, name, style in parts])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def draw_figures(results: SimulationResults, folder: Path) -> list[Path]:
    """Draws every rule's picture into `folder` as NAME.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, picture in FIGURES.items():
        figure = picture(results[name])
        assert figure is not None
        paths += figures_style.save_figure(figure, folder / name, ["svg"])
    return paths


def main(words: Sequence[str]) -> None:
    """Writes the page and its pictures, simulating first unless `--render` is said."""
    if "--render" not in words:
        results = {name: run_simulation(name) for name in SIMULATIONS}
        PICTURES.mkdir(parents=True, exist_ok=True)
        files.write_atomically(RESULTS, json.dumps(results, indent=1) + "\n", ROOT)
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    draw_figures(results, PICTURES)
    files.write_atomically(PAGE, render_page(results), ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
