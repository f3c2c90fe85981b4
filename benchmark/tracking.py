"""An optional mirror of a run on Weights & Biases: one run a cell. It is never read back, and cannot fail a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmark.grid import Cell
from benchmark.launch import Event, Failure, Round


def mirrored(events: Iterable[Event], kind: str, folder: Path, say: Callable[[str], None]) -> Iterator[Event]:
    """Passes events on, and mirrors them where `kind` is wandb. What goes wrong there is said once, and ends it.

    ValueError where wandb is asked for and not installed.
    """
    if kind == "none":
        yield from events
        return
    mirror: Mirror | None = Mirror(folder)
    try:
        for event in events:
            try:
                if mirror is not None:
                    mirror.note(event)
            except Exception as error:
                say(f"tracking={kind} failed, the run goes on without it: {type(error).__name__}: {error}")
                mirror = None
            yield event
    finally:
        if mirror is not None:
            mirror.close()


class Mirror:
    """Writes cells as runs: grouped by task, typed by strategy. Offline where no key is known."""

    def __init__(self, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError("tracking=wandb: not installed: pip install 'al-benchmark[wandb]'") from error
        self.wandb: Any = wandb
        self.folder = folder
        self.run: Any = None
        self.cell: Cell | None = None
        self.mode = "online" if self.has_key() else "offline"

    def has_key(self) -> bool:
        """Whether wandb would find a key without asking for one."""
        return bool(os.environ.get("WANDB_API_KEY") or self.wandb.api.api_key)

    def note(self, event: Event) -> None:
        """Mirrors one event."""
        if event.cell is not self.cell:
            self.close()
            self.run, self.cell = self.start(event.cell), event.cell
        if isinstance(event, Round):
            record, measured = event.record, event.measured
            row = {f"cost/{name}": value for name, value in record.cost.items()}
            row |= {f"seconds/{name}": value for name, value in measured.seconds.items()}
            row |= record.scores | record.diagnostics
            self.run.log({"labelled": record.num_labelled, **row}, step=record.round)
        if isinstance(event, Failure):
            self.close(1)

    def start(self, cell: Cell) -> Any:
        """A run for a cell; its id is the cell's key, so that a cell that goes on continues its run."""
        return self.wandb.init(
            project="al-benchmark", id=cell.key, name=cell.label, group=cell.task.label, job_type=cell.strategy.label,
            config=cell.identity(), dir=self.folder, mode=os.environ.get("WANDB_MODE", self.mode), resume="allow",
            settings=self.wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def close(self, exit_code: int = 0) -> None:
        """Ends the run that is open."""
        if self.run is not None:
            self.run.finish(exit_code=exit_code)
        self.run = self.cell = None
