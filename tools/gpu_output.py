"""Takes in what `make gpu OUT=DIR` wrote on a borrowed machine: times to results/benchmarks, records to
results/reference/gpu_reference.

    python -m tools.gpu_output OUT [--home DIR] [--tiny]

Of a cell's records the longer stay, which are those of OUT where it went on from here. Damaged records, and those of
other settings, versions or data, are refused, each with a line that says why.
"""

from __future__ import annotations

import argparse
import lzma
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmark import config
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Grid
from benchmark.plugins import discovery
from benchmark.records.agreement import Agreement
from benchmark.records.checksummed_lines import read_lines
from benchmark.records.manifest import CELL_PATH
from benchmark.records.store import Store
from benchmark.runner.run_grid import manifest_entry
from benchmark.system import files
from benchmark.text.words import plural
from tools.benchmark_pages import HOME, read_json, summarize_cards, update_gpu_page
from tools.gpu_session import GRID, TINY_SETTINGS
from tools.readme import render_page

RECORD_FILE = re.compile(rf"grid\.json|(cells|measured)/{CELL_PATH.pattern}\.jsonl")
PAGES = ("docs/real_images.md", "docs/gpu.md")  # that show the records
MAX_BYTES = 2**28  # of all records, unpacked


def take_in(output: Path, home: Path = HOME, *, tiny: bool = False) -> list[str]:
    """Takes in the times and the records of a session.

    Args:
        output: what the session wrote.
        home: the checkout to take them in.
        tiny: whether it was a session of tiny sizes, whose times and records say nothing about a GPU.

    Returns:
        Lines on what was taken in, and on what was refused and why.
    """
    if not output.is_dir():
        return [f"refused: {output} is no folder"]
    lines = [*take_in_times(output / "benchmarks.json", home, tiny), *take_in_records(output, home, tiny)]
    for page in (path for path in map(home.joinpath, PAGES) if path.exists()):
        files.write_atomically(page, render_page(page.read_text(encoding="utf-8"), home))
    return lines


def take_in_times(path: Path, home: Path, tiny: bool) -> list[str]:
    """Adds the times of a session to the page of GPUs."""
    try:
        raw = read_json(path)
        if not raw:
            return []
        card = raw["machine_info"]["gpu"] or "CPU" * tiny
        groups = summarize_cards({**raw, "machine_info": {**raw["machine_info"], "gpu": card}})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"refused: {path.name} is no output of pytest-benchmark ({type(error).__name__}: {error})"]
    if not card:
        return [f"refused: {path.name} was timed without a GPU"]
    update_gpu_page(home, groups)
    return [f"times of {plural(len(groups), 'group')} on {card}"]


def take_in_records(output: Path, home: Path, tiny: bool) -> list[str]:
    """Adds the records of a session to those of the grid."""
    archive = output / "records.tar.xz"
    if not archive.exists():
        return []
    discovery.discover()
    grid = config.build_grid(config.compose_settings([f"grid={GRID}", *TINY_SETTINGS * tiny]))
    target = Store(home / "results" / "reference" / GRID)
    with tempfile.TemporaryDirectory() as folder:
        try:
            refused = unpack_records(archive, Path(folder))
            runs = Store(folder).manifest().get("runs", [])
        except (ValueError, OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
            return [f"refused: {archive.name} is damaged: {' '.join(str(error).split())}"]
        return [*refused, *merge_records(Store(folder), target, grid, runs, tiny)]


def unpack_records(archive: Path, folder: Path) -> list[str]:
    """Unpacks the records in an archive, and returns a line for each file that is none. Raises as `tarfile`."""
    with tarfile.open(archive, "r:xz") as content:
        members = content.getmembers()
        records = [member for member in members if member.isreg() and RECORD_FILE.fullmatch(member.name)]
        if sum(member.size for member in records) > MAX_BYTES:
            raise ValueError(f"it holds more than {MAX_BYTES >> 20} MB")
        content.extractall(folder, records, filter="data")
    others = (member.name for member in members if member not in records and not member.isdir())
    return [f"refused: {name!r} is no file of records" for name in others if not name.startswith("failures/")]


def merge_records(
    source: Store, target: Store, grid: Grid, runs: Sequence[Mapping[str, str]], tiny: bool = False
) -> Iterator[str]:
    """Copies each cell of `source` that is sound, of the grid, and has more rounds than in `target`.

    Args:
        source: the records of a session.
        target: the records of the grid so far.
        grid: the grid.
        runs: the session's commands, as a manifest lists them.
        tiny: whether records of a CPU are accepted.

    Yields:
        Lines on what was taken in, and on what was refused and why.
    """
    cells, num_rounds, agreement = {cell.path: cell for cell in grid.cells()}, 0, Agreement()
    for path, cell in cells.items():
        if (header := target.header(path)) is not None:
            agreement.add(header, cell.strategy.label, target.path(path))
    folder = source.folder / "cells"
    for name in sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.jsonl")):
        try:
            check_cell(cells.get(name), name, source, agreement, tiny)
        except ValueError as error:
            yield f"refused: {name}: {str(error).replace(str(source.folder), 'OUT')}"
            continue
        num_more = len(source.records(name)[1]) - len(target.records(name)[1])
        if num_more > 0:
            for kind in ("measured", "cells"):
                files.write_atomically(target.path(name, kind), files.read_file(source.path(name, kind)))
            num_rounds += num_more
    if num_rounds:
        entries = list(map(manifest_entry, grid.experiments))
        target.update_manifest(grid.name, entries)
        for run in runs:
            target.update_manifest(grid.name, entries, run)
    yield f"{plural(num_rounds, 'round')} of {GRID}"


def check_cell(cell: Cell | None, name: str, source: Store, agreement: Agreement, tiny: bool) -> None:
    """Checks the records of a cell, and adds what the others must share with them to `agreement`.

    Args:
        cell: the cell; None where the grid has none of this path.
        name: its path.
        source: has its records.
        agreement: what all records of the grid share.
        tiny: whether records of a CPU are accepted.

    Raises:
        ValueError: they are damaged or of another run; the message says how.
    """
    if cell is None:
        raise ValueError(f"grid={GRID} has no such cell")
    stored, (_, _, damage) = source.read(name), read_lines(source.path(name, "measured"), ordered=False)
    if damage or stored.damage or stored.header is None:
        raise ValueError(f"damaged: {damage or stored.damage or 'no header'}")
    if not stored.header.belongs_to(cell.key, cell.identity()) or len(stored.records) > cell.schedule.rounds:
        raise ValueError("other settings or versions of plug-ins")
    if not {record.round for record in stored.records} <= {line.round for line in source.measurements(name)}:
        raise ValueError("damaged: rounds without measurements")
    if not tiny and any(device.startswith("cpu") for device in source.devices(name)):
        raise ValueError("it was not run on a GPU")
    if difference := agreement.add(stored.header, cell.strategy.label, "OUT"):
        raise ValueError(f"other {difference}")


def main(words: Sequence[str]) -> int:
    """Takes in a session's output; the exit status is 1 where something was refused."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_output")
    parser.add_argument("output", type=Path, metavar="OUT", help="what `make gpu OUT=DIR` wrote")
    parser.add_argument("--home", type=Path, default=HOME, help="the checkout to take it in")
    parser.add_argument("--tiny", action="store_true", help="it was run with TINY=1")
    options = parser.parse_args(words)
    lines = take_in(options.output, options.home, tiny=options.tiny)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return int(any(line.startswith("refused: ") for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
