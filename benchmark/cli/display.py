"""Shows on standard error what is being done: a live line on a terminal, plain lines now and then elsewhere."""

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

LINE_SECONDS = 30.0  # between two plain lines of one kind of stage


class Display:
    """What is being done, and above it whatever `header` is set to.

    It is called with each report of a stage, and passes it on to `also`.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal and not console.is_dumb_terminal
        self.header: RenderableType | None = None
        self.stage: activity.Stage | None = None
        self.listener: activity.Listener = activity.ignore_stage
        self.spinner = Spinner("dots")
        self.printed: dict[str, float] = {}  # when, by kind of stage

    def __call__(self, stage: activity.Stage) -> None:
        """Takes a report: this is what is being done now."""
        self.stage = stage
        self.listener(stage)

    def tick(self) -> None:
        """Prints a plain line of the stage under way where none of its kind was printed lately."""
        stage, now = self.stage, time.monotonic()
        if stage is None or not stage.name:
            return
        kind = stage.full_name.partition(":")[0]
        if now - self.printed.get(kind, -math.inf) >= LINE_SECONDS:
            self.printed[kind] = now
            self.console.print(Text(make_visible(stage.status_line())), soft_wrap=True)

    def tick_until(self, stopped: threading.Event) -> None:
        """Ticks every second."""
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
    """Shows what a block is doing; a live line is gone afterwards."""
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
