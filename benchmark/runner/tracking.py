"""An optional mirror of a run on Weights & Biases: one run a cell. It is never read back, and cannot fail a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.experiment.cell import Cell
from benchmark.runner.launch import Event, Failure, Round
from benchmark.text.escaping import visible
from benchmark.text.words import named


def mirrored(events: Iterable[Event], kind: str, folder: Path, say: Callable[[str], None]) -> Iterator[Event]:
    """Passes events on, and mirrors them where `kind` is wandb. What goes wrong there is said once, and ends it.

    ValueError where wandb is asked for and not installed.
    """
    if kind == "none":
        yield from events
        return
    mirror = Mirror(wandb_module(), folder, say)
    try:
        for event in events:
            mirror.safely(partial(mirror.note, event))
            yield event
    finally:
        mirror.safely(mirror.close)


def wandb_module() -> Any:
    """The library; ValueError where it is not installed."""
    try:
        import wandb
    except ImportError as error:
        raise ValueError("tracking=wandb: not installed: pip install -e '.[wandb]'") from error
    return wandb


class Mirror:
    """Writes cells as runs: grouped by task, typed by strategy. Offline where no key is known."""

    def __init__(self, wandb: Any, folder: Path, say: Callable[[str], None]) -> None:
        self.wandb, self.folder, self.say, self.failed = wandb, folder, say, False
        self.runs: dict[str, Any] = {}  # open ones, by the cell's key: cells may be in work side by side

    def safely(self, act: Callable[[], None]) -> None:
        """Does what may fail; the first failure is said and ends the mirror."""
        if self.failed:
            return
        try:
            act()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.failed = True
            self.say(f"tracking=wandb failed, the run goes on without it: {named(error)}")
            with contextlib.suppress(Exception, SystemExit):
                self.close()

    @property
    def mode(self) -> str:
        """online where wandb would find a key without asking for one."""
        known = os.environ.get("WANDB_API_KEY") or self.wandb.api.api_key
        return os.environ.get("WANDB_MODE") or ("online" if known else "offline")

    def note(self, event: Event) -> None:
        """Mirrors one event."""
        cell = event.cell
        if cell.key not in self.runs:
            self.runs[cell.key] = self.start(cell)
        if isinstance(event, Round):
            record, measured = event.record, event.measured
            row = {f"cost/{name}": value for name, value in record.cost.items()}
            row |= {f"seconds/{name}": value for name, value in measured.seconds.items()}
            row |= record.scores | record.diagnostics
            self.runs[cell.key].log({"labelled": record.num_labelled, **row}, step=record.round)
        ended = isinstance(event, Round) and (event.spared or event.record.round == cell.schedule.rounds - 1)
        if ended or isinstance(event, Failure):
            self.runs.pop(cell.key).finish(exit_code=int(isinstance(event, Failure)))

    def start(self, cell: Cell) -> Any:
        """A run for a cell; its id is the cell's key, so that a cell that goes on continues its run."""
        return self.wandb.init(
            project="al-benchmark", id=cell.key, name=visible(cell.label), group=visible(cell.task.label),
            job_type=visible(cell.strategy.label),
            config=cell.identity(), dir=self.folder, mode=self.mode, resume="allow", reinit="create_new",
            settings=self.wandb.Settings(silent=True, console="off", disable_git=True),
        )  # fmt: skip

    def close(self) -> None:
        """Ends the runs that are open."""
        while self.runs:
            self.runs.popitem()[1].finish(exit_code=0)
