"""Keeps measured times in results/benchmarks, and renders their pages: README.md of a CPU, gpu.md of GPUs.

    python -m tools.benchmark_pages RAW.json     adds the groups of one run of pytest-benchmark (`make bench`)
    python -m tools.benchmark_pages              renders the pages again

All rows of a group were timed in one run on one machine. A new measurement of a group replaces the old one; that of a
GPU replaces the one of the same card, and rows of other cards stay.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.system import files

HOME = Path(__file__).resolve().parents[1]
FOLDER = "results/benchmarks"
OPENING = """# Benchmarks

Rendered from `benchmarks.json`, which `make bench` writes; the code is in `tests/benchmarks/`. Rows of a table were
timed in one run. *Times*: how much longer a row takes than the first one. A row "from 4" was measured on 4 picks and
multiplied. *Power*: the power of the number of images that the seconds grow with, 1 for O(n), by a line through the
logarithms, and its standard error. Times on a GPU are on [a page of their own](gpu.md).
"""
GPU_OPENING = """# Benchmarks on a GPU

Rendered from `gpu.json`: `make gpu OUT=DIR` measures, `python -m tools.gpu_output DIR` takes the times in, as
[docs/gpu.md](../../docs/gpu.md) explains. Rows of one card were timed in one run. *Times*: how much longer a row takes
than the first one on the same card. The same benchmarks on a CPU are on [another page](README.md).
"""
NO_RUN = "\nNo run yet: `make gpu OUT=DIR` makes one.\n"
ON_GPU = ", cuda"  # how the name of a group ends that was timed on a GPU
MULTIPLIED = "seconds for 1,000 picks, from 4"

Group = dict[str, Any]  # machine, commit and rows


def summarize_groups(raw: Mapping[str, Any]) -> dict[str, Group]:
    """The groups of a run: the minimum seconds and the notes of each row, and the machine."""
    info = raw["machine_info"]
    machine = {
        "processor": info["cpu"].get("brand_raw", "unknown processor"),
        "cores": info["cpu"]["count"],
        "python": info["python_version"],
    }
    groups: dict[str, Group] = {}
    for benchmark in raw["benchmarks"]:
        group = groups.setdefault(benchmark["group"], {**machine, "commit": raw["commit_info"]["id"][:12], "rows": []})
        name = benchmark["param"] or benchmark["name"].removeprefix("test_").replace("_", " ")
        group["rows"].append({"name": name, "seconds": benchmark["stats"]["min"], **benchmark["extra_info"]})
    return groups


def summarize_cards(raw: Mapping[str, Any]) -> dict[str, dict[str, Group]]:
    """The groups of a run on a GPU, each by its card."""
    info = raw["machine_info"]
    return {
        name.removesuffix(ON_GPU): {info["gpu"]: {**group, "torch": info["torch"]}}
        for name, group in summarize_groups(raw).items()
    }


def render_page(groups: Mapping[str, Group]) -> str:
    """Renders the page of a CPU."""
    return OPENING + "".join(section(name, group) for name, group in sorted(groups.items()))


def render_gpu_page(groups: Mapping[str, Mapping[str, Group]]) -> str:
    """Renders the page of GPUs; `groups` holds a group for each name and card."""
    sections = (gpu_section(name, cards) for name, cards in sorted(groups.items()))
    return GPU_OPENING + ("".join(sections) or NO_RUN)


def section(name: str, group: Group) -> str:
    """Renders a group as a table; a group of series over sizes also as a figure."""
    if has_series(group):
        text = markdown_table(scaling_rows(group))
        return f"\n## {name}\n\n{text}\n\n![{name}]({figure_name(name)})\n\n{describe_machine(group)}\n"
    notes = note_names(group)
    lines = [["", "seconds", "times", *notes], *table_rows(group, notes)]
    return f"\n## {name}\n\n{markdown_table(lines)}\n\n{describe_machine(group)}\n"


def has_series(group: Group) -> bool:
    """Whether the rows of a group are series over numbers of images."""
    return bool(group["rows"]) and all("series" in row for row in group["rows"])


def points_by_series(group: Group) -> dict[str, dict[int, float]]:
    """The seconds of each series by the number of images."""
    points: dict[str, dict[int, float]] = {}
    for row in group["rows"]:
        points.setdefault(row["series"], {})[row["images"]] = row["seconds"]
    return points


def scaling_rows(group: Group) -> list[list[str]]:
    """The heading and the rows of a table of seconds by series and number of images, with the fitted power."""
    from tools.scaling_figure import fit_power  # imports scipy; `make gpu` needs none of it

    series = points_by_series(group)
    sizes = sorted({images for points in series.values() for images in points})
    rows = [
        [name, *(f"{points[size]:.3g}" if size in points else "" for size in sizes), "{:.2f} ± {:.2f}".format(*fit)]
        for name, points in series.items()
        for fit in [fit_power(points)]
    ]
    return [["CPU seconds", *(f"{size:,} images" for size in sizes), "power"], *rows]


def figure_name(group: str) -> str:
    """The name of the file of a group's figure."""
    return f"{group.partition(':')[0].replace(' ', '_')}.svg"


def gpu_section(name: str, cards: Mapping[str, Group]) -> str:
    """Renders the groups of one name as a table, whose first column names the card."""
    notes = list(dict.fromkeys(note for group in cards.values() for note in note_names(group)))
    lines = [["card", "", "seconds", "times", *notes]]
    for card, group in sorted(cards.items()):
        lines += [[card, *row] for row in table_rows(group, notes)]
    machines = "".join(
        f"\n{card}: {describe_machine(group)}, torch {group['torch']}\n" for card, group in sorted(cards.items())
    )
    return f"\n## {name}\n\n{markdown_table(lines)}\n{machines}"


def note_names(group: Group) -> list[str]:
    """The names of the notes that rows of a group have."""
    keys = dict.fromkeys(key for row in group["rows"] for key in row)
    return [key for key in keys if key not in ("name", "seconds", "series", MULTIPLIED)]


def table_rows(group: Group, notes: list[str]) -> Iterator[list[str]]:
    """Yields the cells of each row of a group: its name, its seconds, how many times the first row's, its notes."""
    first, *_ = group["rows"]
    for row in group["rows"]:
        words = f"{seconds(row):.3g}" + " (from 4)" * (MULTIPLIED in row)
        times = f"{seconds(row) / seconds(first):.3g}"
        yield [row["name"], words, times, *(str(row.get(note, "")) for note in notes)]


def seconds(row: Mapping[str, Any]) -> float:
    """The seconds of the whole job, extrapolated where only a part was measured."""
    return float(row.get(MULTIPLIED, row["seconds"]))


def markdown_table(lines: list[list[str]]) -> str:
    """Renders lines of cells, the heading first."""
    heading, *rows = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [heading, ["---"] * len(heading), *rows])


def describe_machine(group: Group) -> str:
    """Where a group was timed."""
    return f"{group['processor']}, {group['cores']} cores, Python {group['python']}, commit {group['commit']}"


def update_page(home: Path, groups: Mapping[str, Group]) -> None:
    """Adds groups of a CPU to `benchmarks.json`, and renders the page and its figures."""
    known = read_json(home / FOLDER / "benchmarks.json") | dict(groups)
    write_page(home, "benchmarks.json", "README.md", known, render_page)
    with_sizes = {name: group for name, group in known.items() if has_series(group)}
    if with_sizes:
        from tools.scaling_figure import save_scaling  # imports matplotlib

        for name, group in with_sizes.items():
            save_scaling(name, points_by_series(group), home / FOLDER / figure_name(name))


def update_gpu_page(home: Path, groups: Mapping[str, Mapping[str, Group]]) -> None:
    """Adds groups of a GPU to `gpu.json`, and renders the page; what other cards took stays."""
    known = read_json(home / FOLDER / "gpu.json")
    merged = known | {name: known.get(name, {}) | dict(cards) for name, cards in groups.items()}
    write_page(home, "gpu.json", "gpu.md", merged, render_gpu_page)


def write_page(
    home: Path, summary: str, page: str, groups: dict[str, Any], render: Callable[[dict[str, Any]], str]
) -> None:
    """Writes groups as JSON, where there are any, and as a page."""
    if groups:
        files.write_atomically(home / FOLDER / summary, json.dumps(groups, indent=1) + "\n")
    files.write_atomically(home / FOLDER / page, render(groups))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file; {} where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def main(paths: list[str], home: Path = HOME) -> None:
    """Adds the runs in these files, and writes both pages."""
    groups, gpu_groups = dict[str, Group](), dict[str, dict[str, Group]]()
    for path in map(Path, paths):
        raw = read_json(path)
        on_gpu = [benchmark for benchmark in raw["benchmarks"] if benchmark["group"].endswith(ON_GPU)]
        on_cpu = [benchmark for benchmark in raw["benchmarks"] if benchmark not in on_gpu]
        groups |= summarize_groups({**raw, "benchmarks": on_cpu})
        gpu_groups |= summarize_cards({**raw, "benchmarks": on_gpu})
    update_page(home, groups)
    update_gpu_page(home, gpu_groups)


if __name__ == "__main__":
    main(sys.argv[1:])
