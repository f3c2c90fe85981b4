"""Shows the current stage of work on standard error: a live line on a terminal, occasional plain lines elsewhere."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from benchmark.system import activity
from benchmark.text.escaping import make_visible

LINE_SECONDS = 30.0  # at least this long between two plain lines of one kind of stage


class Display:
    """The current stage of work of this process and of each worker, with `header` above.

    It is called with each report of a stage, and passes the report on to `listener`.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal and not console.is_dumb_terminal
        self.header: RenderableType | None = None
        self.stages: dict[int, activity.Stage] = {}  # by the number of the worker; 0: this process
        self.listener: activity.Listener = activity.ignore_stage
        self.spinner = Spinner("dots")
        self.printed: dict[str, float] = {}  # time of the last plain line, by kind of stage

    def __call__(self, stage: activity.Stage) -> None:
        """Takes a report of the current stage of a process."""
        self.stages[stage.worker] = stage
        self.listener(stage)

    @property
    def stages_in_progress(self) -> list[activity.Stage]:
        """The current stage of each process that does anything."""
        return [stage for _, stage in sorted(self.stages.copy().items()) if stage.name]

    def tick(self) -> None:
        """Prints a plain line of each current stage, unless one of its kind was printed in the last LINE_SECONDS."""
        now = time.monotonic()
        for stage in self.stages_in_progress:
            kind = stage.full_name.partition(":")[0]
            if now - self.printed.get(kind, -math.inf) >= LINE_SECONDS:
                self.printed[kind] = now
                self.console.print(Text(make_visible(stage.status_line())), soft_wrap=True)

    def tick_until(self, stopped: threading.Event) -> None:
        """Calls `tick` every second until `stopped` is set."""
        while not stopped.wait(1.0):
            self.tick()

    def __rich__(self) -> RenderableType:
        rows: list[RenderableType] = [] if self.header is None else [self.header]
        frame = str(self.spinner.render(self.console.get_time()))
        for stage in self.stages_in_progress:
            line = make_visible(stage.status_line())
            rows.append(Text.assemble(frame, " ", line, no_wrap=True, overflow="ellipsis"))
        return Group(*rows)


@contextmanager
def show_activity(console: Console) -> Iterator[Display]:
    """Shows the stages of work of a block; a live line is removed afterwards."""
    display = Display(console)
    with activity.report_to(display):
        if display.live:
            with Live(display, console=console, transient=True, refresh_per_second=5, redirect_stdout=False):
                yield display
            return
        stopped = threading.Event()
        ticker = threading.Thread(target=display.tick_until, args=(stopped,), daemon=True)
        ticker.start()
        try:
            yield display
        finally:
            stopped.set()
            ticker.join()
