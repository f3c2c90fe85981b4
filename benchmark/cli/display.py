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
    """The current stage of work, with `header` above it.

    It is called with each report of a stage, and passes the report on to `listener`.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal and not console.is_dumb_terminal
        self.header: RenderableType | None = None
        self.stage: activity.Stage | None = None
        self.listener: activity.Listener = activity.ignore_stage
        self.spinner = Spinner("dots")
        self.printed: dict[str, float] = {}  # time of the last plain line, by kind of stage

    def __call__(self, stage: activity.Stage) -> None:
        """Takes a report of the current stage."""
        self.stage = stage
        self.listener(stage)

    def tick(self) -> None:
        """Prints a plain line of the current stage, unless one of its kind was printed in the last LINE_SECONDS."""
        stage, now = self.stage, time.monotonic()
        if stage is None or not stage.name:
            return
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
        if self.stage is not None and self.stage.name:
            frame = self.spinner.render(self.console.get_time())
            rows.append(
                Text.assemble(
                    str(frame), " ", make_visible(self.stage.status_line()), no_wrap=True, overflow="ellipsis"
                )
            )
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
