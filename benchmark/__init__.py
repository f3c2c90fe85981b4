"""Active-learning strategies, compared fairly.

`run` carries out a grid, `load` reads records, `published` the curves of papers; what they return answers with tables,
savings, comparisons, figures and a report. Importing this takes no time: what a call needs is imported by the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.results import Results

__all__ = ["load", "published", "run"]

if __name__ != "benchmark":  # the checkout is on the path of packages below, and holds this package once more
    raise ImportError(f"{__name__}: import benchmark")
if not (Path(__file__).parent / "strategies").is_dir():  # in a checkout the folders of plug-ins lie beside this one
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
    """Runs what is missing of a grid, and returns its records. The same call goes on where it was interrupted.

    It is the command `run` with the same settings, records and tables in `out`; it prints nothing, and its remarks go
    to the log `benchmark`. Cells that fail are a warning and stand in `Results.failures`; the others go on.

    Args:
        grid: one of `list grids`.
        tasks: experiments of the grid, or tasks with parameters: `["digits[epochs=1]"]`; None: the grid's.
        strategies: the same of strategies: `["random", "isal[k=2]"]`.
        seeds: 5 for the seeds 0 to 4, a list of them, or "auto".
        out: the results folder; None: `results/GRID`.
        device: `auto`, `cpu`, `cuda` or `cuda:1`; None: `auto`.
        settings: any other that `list settings` shows, such as `rounds=3` or `data="~/data"`.

    Returns:
        Everything that is recorded in `out`.

    Raises:
        ValueError: a setting is not known or does not fit, PyTorch is not installed, or nothing could run.
    """
    from benchmark.runner import from_python

    named = {"tasks": tasks, "strategies": strategies, "seeds": seeds, "out": out, "device": device}
    return from_python.run({"grid": grid, **named, **settings})


def load(*records: str | Path, task: str = "") -> Results:
    """Records and published curves as they lie on disk. Needs no PyTorch.

    Args:
        records: results folders, CSV files with published curves, and folders of such files, side by side; records of
            one grid in several folders join. `published`: the curves that come with the package.
        task: one experiment or task; all.

    Raises:
        ValueError: there is nothing, or it does not go together.
    """
    from benchmark import results

    return results.load(*records, task=task)


def published() -> Results:
    """The curves of papers that come with the package. Needs no PyTorch."""
    from benchmark import results

    return results.load("published")
