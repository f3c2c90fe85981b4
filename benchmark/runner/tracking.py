"""An optional copy of a run on Weights & Biases, one run per cell. It is never read back, and cannot fail a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.experiment.cell import Cell
from benchmark.runner.events import Event, Failure, Round
from benchmark.text.escaping import make_visible
from benchmark.text.words import describe_error


def mirror_events(events: Iterable[Event], kind: str, folder: Path, say: Callable[[str], None]) -> Iterator[Event]:
    """Passes events on, and copies them to Weights & Biases where `kind` is wandb.

    The first error of the copy is shown to the user, and ends the copy.

    Raises:
        ValueError: wandb is requested and not installed.
    """
    if kind == "none":
        yield from events
        return
    mirror = WandbMirror(import_wandb(), folder, say)
    try:
        for event in events:
            mirror.call_safely(partial(mirror.mirror_event, event))
            yield event
    finally:
        mirror.call_safely(mirror.close)


def import_wandb() -> Any:
    """Imports the library. ValueError where it is not installed."""
    try:
        import wandb
    except ImportError as error:
        raise ValueError("tracking=wandb: not installed: pip install -e '.[wandb]'") from error
    return wandb


class WandbMirror:
    """Writes cells as runs of Weights & Biases, grouped by task and typed by strategy; offline without a key."""

    def __init__(self, wandb: Any, folder: Path, say: Callable[[str], None]) -> None:
        self.wandb, self.folder, self.say, self.has_failed = wandb, folder, say, False
        self.runs: dict[str, Any] = {}  # open runs by the cell's key: several cells may run in parallel

    def call_safely(self, action: Callable[[], None]) -> None:
        """Calls what may fail; the first failure is shown to the user and ends the copy."""
        if self.has_failed:
            return
        try:
            action()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.has_failed = True
            self.say(f"tracking=wandb failed, the run goes on without it: {describe_error(error)}")
            with contextlib.suppress(Exception, SystemExit):
                self.close()

    @property
    def mode(self) -> str:
        """WANDB_MODE where it is set; else `online` where wandb finds a key without asking for it, else `offline`."""
        has_key = os.environ.get("WANDB_API_KEY") or self.wandb.api.api_key
        return os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")

    def mirror_event(self, event: Event) -> None:
        """Copies one event."""
        cell = event.cell
        if cell.key not in self.runs:
            self.runs[cell.key] = self.start_run(cell)
        if isinstance(event, Round):
            record, measured = event.record, event.measured
            row = {f"cost/{name}": value for name, value in record.cost.items()}
            row |= {f"seconds/{name}": value for name, value in measured.seconds.items()}
            row |= record.scores | record.diagnostics
            self.runs[cell.key].log({"labelled": record.num_labelled, **row}, step=record.round)
        if isinstance(event, Failure) or (isinstance(event, Round) and event.is_last):
            self.runs.pop(cell.key).finish(exit_code=int(isinstance(event, Failure)))

    def start_run(self, cell: Cell) -> Any:
        """Starts a run for a cell; its id is the cell's key, so that a cell that is resumed continues its run."""
        return self.wandb.init(
            project="al-benchmark", id=cell.key, name=make_visible(cell.label), group=make_visible(cell.task.label),
            job_type=make_visible(cell.strategy.label),
            config=cell.identity(), dir=self.folder, mode=self.mode, resume="allow", reinit="create_new",
            settings=self.wandb.Settings(silent=True, console="off", disable_git=True),
        )  # fmt: skip

    def close(self) -> None:
        """Ends the open runs."""
        while self.runs:
            self.runs.popitem()[1].finish(exit_code=0)
