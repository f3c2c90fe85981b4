"""A benchmark of active-learning strategies.

`run` runs a grid, `load` reads records, and `published` reads the curves of papers. They return `Results`, with tables,
savings, comparisons, figures and a report. Importing this package is fast: each call imports what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.results import Results
    from benchmark.runner.picking.picks import Picks

__all__ = ["load", "pick", "published", "run"]

if __name__ != "benchmark":  # `__path__` below makes a checkout findable as benchmark.benchmark too
    raise ImportError(f"{__name__}: import benchmark")
if not (Path(__file__).parent / "strategies").is_dir():  # a checkout: the folders of plug-ins lie beside this one
    __path__.append(str(Path(__file__).resolve().parents[1]))


def run(
    grid: str = "quick",
    *,
    tasks: Sequence[str] | None = None,
    strategies: Sequence[str] | None = None,
    seeds: int | Sequence[int] | str | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    **settings: object,
) -> Results:
    """Runs the missing cells of a grid and returns its records. The same call continues an interrupted run.

    It equals the command `run` with the same settings, and writes the same records and tables to `out`. It prints
    nothing; its remarks go to the log `benchmark`. A cell that fails is a warning and an entry of `Results.failures`;
    the other cells are run.

    Args:
        grid: one of `list grids`.
        tasks: experiments of the grid, or tasks with parameters, as `["digits[epochs=1]"]`; None: those of the grid.
        strategies: strategies with parameters, as `["random", "isal[k=2]"]`; None: those of the grid.
        seeds: 5 for the seeds 0 to 4, a list of seeds, or "auto"; None: those of the grid.
        out: the results folder; None: `results/GRID`.
        device: `auto`, `cpu`, `cuda` or `cuda:1`; None: `auto`.
        settings: any other setting of `list settings`, as `rounds=3` or `data="~/data"`.

    Returns:
        Everything that is recorded in `out`.

    Raises:
        ValueError: a setting is unknown or invalid, PyTorch is not installed, or nothing could run.
    """
    from benchmark.runner import from_python

    named_settings = {"tasks": tasks, "strategies": strategies, "seeds": seeds, "out": out, "device": device}
    return from_python.run({"grid": grid, **named_settings, **settings})


def pick(
    strategy: str,
    budget: int,
    unlabelled: str | Path,
    *,
    task: str | None = None,
    labelled: str | Path | Sequence[str | Path] | None = None,
    picked: str | Path | Sequence[str | Path] | None = None,
    to: str | Path | None = None,
    **settings: object,
) -> Picks:
    """Picks the next images to label, among images that have no label. The same call gives the same picks.

    It equals the command `pick` with the same settings, see docs/pick.md. It prints nothing.

    Args:
        strategy: the strategy with its parameters, as `coreset` or `isal[k=2]`.
        budget: the number of images to pick.
        unlabelled: a folder of images, a list of paths (.txt, .csv), a COCO file (.json) or a video.
        task: the task whose pool is the labelled images, as `image_folder[root=birds]`; None: there are none, for
            strategies that need no model.
        labelled: files with labels of images in `unlabelled`.
        picked: files that earlier picks were written to, which are not picked again.
        to: the file to write; None: none.
        settings: any other setting of the command, as `seed=1` or `format="coco"`.

    Raises:
        ValueError: a setting, a file or a label does not fit; nothing is written then.
    """
    from benchmark.runner import from_python

    named_settings = {"task": task, "labelled": labelled, "picked": picked, "to": to}
    return from_python.pick({
        "strategy": strategy, "budget": budget, "unlabelled": unlabelled, **named_settings, **settings
    })  # fmt: skip


def load(*records: str | Path, task: str = "") -> Results:
    """Reads records and published curves. Needs no PyTorch.

    Args:
        records: results folders, CSV files with published curves, and folders of these; records of one grid in several
            folders are merged. `published`: the curves that come with the package.
        task: one experiment or task; "": all.

    Raises:
        ValueError: there are no records, or they cannot be merged.
    """
    from benchmark import results

    return results.load(*records, task=task)


def published() -> Results:
    """Reads the curves of papers that come with the package. Needs no PyTorch."""
    from benchmark import results

    return results.load("published")
