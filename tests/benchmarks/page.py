"""Keeps the measurements of `make bench` in results/benchmarks, and renders their page.

    python tests/benchmarks/page.py RAW.json     adds the groups of one run of pytest-benchmark
    python tests/benchmarks/page.py              renders the page again

All rows of a group were timed in one run on one machine; a new measurement of a group replaces the old one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HOME = Path(__file__).parents[2] / "results" / "benchmarks"
SUMMARY, PAGE = HOME / "benchmarks.json", HOME / "README.md"
OPENING = """# Benchmarks

Rendered from `benchmarks.json`, which `make bench` writes; the code is in `tests/benchmarks/`. Rows of a table were
timed in one run. *Times*: how much longer a row takes than the first one. A row "from 4" was measured on 4 picks and
multiplied.
"""


def summarize_groups(raw: dict[str, Any]) -> dict[str, Any]:
    """The groups of a run: the minimum seconds and the notes of each row, and the machine."""
    info = raw["machine_info"]
    machine = {"processor": info["cpu"]["brand_raw"], "cores": info["cpu"]["count"], "python": info["python_version"]}
    groups: dict[str, Any] = {}
    for benchmark in raw["benchmarks"]:
        group = groups.setdefault(benchmark["group"], {**machine, "commit": raw["commit_info"]["id"][:12], "rows": []})
        name = benchmark["param"] or benchmark["name"].removeprefix("test_").replace("_", " ")
        group["rows"].append({"name": name, "seconds": benchmark["stats"]["min"], **benchmark["extra_info"]})
    return groups


def render_page(groups: dict[str, Any]) -> str:
    """Renders the page."""
    return OPENING + "".join(section(name, group) for name, group in sorted(groups.items()))


def section(name: str, group: dict[str, Any]) -> str:
    """Renders a group as a table."""
    rows = group["rows"]
    notes = list(dict.fromkeys(key for row in rows for key in row if key not in ("name", "seconds", MULTIPLIED)))
    lines = [["", "seconds", "times", *notes]]
    for row in rows:
        times = seconds(row) / seconds(rows[0])
        words = f"{seconds(row):.3g}" + " (from 4)" * (MULTIPLIED in row)
        lines.append([row["name"], words, f"{times:.3g}", *(str(row.get(note, "")) for note in notes)])
    lines.insert(1, ["---"] * len(lines[0]))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    where = f"{group['processor']}, {group['cores']} cores, Python {group['python']}, commit {group['commit']}"
    return f"\n## {name}\n\n{table}\n\n{where}\n"


MULTIPLIED = "seconds for 1,000 picks, from 4"


def seconds(row: dict[str, Any]) -> float:
    """The seconds of the whole job, extrapolated where only a part was measured."""
    return float(row.get(MULTIPLIED, row["seconds"]))


def main() -> None:
    """Adds the runs that are named in the arguments, and writes the page."""
    groups = json.loads(SUMMARY.read_text()) if SUMMARY.exists() else {}
    for path in sys.argv[1:]:
        groups |= summarize_groups(json.loads(Path(path).read_text()))
    HOME.mkdir(parents=True, exist_ok=True)
    SUMMARY.write_text(json.dumps(groups, indent=1) + "\n")
    PAGE.write_text(render_page(groups))


if __name__ == "__main__":
    main()
