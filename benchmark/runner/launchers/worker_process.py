"""What runs in a worker process: it receives cells from the driver over a socket, and sends back what `Worker` answers.

It ends with its driver, however that ends: one thread does nothing but read from the socket. PyTorch is imported after
that thread has started, and before the driver's first message. Another thread reports the stage of work, twice a second
at most.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from benchmark.plugins.discovery import import_own_plugins
from benchmark.system import activity
from benchmark.system.streams import tolerate_closed_streams

REPORT_SECONDS = 0.5  # between two reports of the stage of work


class Driver:
    """The driver as its worker sees it."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.lock = connection, threading.Lock()
        self.messages = SimpleQueue[Any]()
        self.stage: activity.Stage | None = None

    def receive_all(self) -> None:
        """Receives messages until the driver ends or closes the connection, and ends this process then."""
        try:
            while True:
                self.messages.put(self.connection.recv())
        except (EOFError, OSError):
            end_group()

    def send(self, message: object) -> None:
        """Sends a message; ends this process where the driver has ended."""
        try:
            with self.lock:
                self.connection.send(message)
        except OSError:
            end_group()

    def show_stage(self, stage: activity.Stage) -> None:
        """Takes a report of the current stage of work."""
        self.stage = stage

    def send_stages(self) -> None:
        """Sends the current stage from time to time, if it is another or has advanced."""
        sent: tuple[activity.Stage, int] | None = None
        pause = threading.Event()
        while not pause.wait(REPORT_SECONDS):
            if (stage := self.stage) is not None and (state := (stage, stage.num_done)) != sent:
                sent = state
                self.send(stage.detach())


def end_group() -> None:
    """Ends this process and those that it has started, at once.

    Not by `os._exit`, which raises an exception while a plug-in runs; see `process_state.exit_as_exception`.
    """
    is_leader = os.getpid() == os.getpgrp()  # and no process that a plug-in has forked
    (os.killpg if is_leader else os.kill)(os.getpid(), signal.SIGKILL)


def main(socket: int) -> None:
    """Runs the cells that the driver sends, for ever. `socket`: the file descriptor of the connection."""
    tolerate_closed_streams()
    os.dup2(2, 1)  # what plug-ins print must not mix with the tables on the driver's standard output
    sys.stdout = sys.stderr  # writes line by line: this process is killed when it is no longer needed
    connection = Connection(socket)
    os.register_at_fork(after_in_child=connection.close)  # readers of images may outlive this process
    driver = Driver(connection)
    threading.Thread(target=driver.receive_all, daemon=True).start()
    with suppress(ValueError):  # the driver says what is wrong with them
        import_own_plugins()
    from benchmark.runner.launchers.worker import Worker, WorkerFailure

    settings, scratch, gpu = driver.messages.get()
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # CUDA reads it when it starts
    worker = Worker(settings, scratch)
    threading.Thread(target=driver.send_stages, daemon=True).start()
    with activity.report_to(driver.show_stage):
        while True:
            driver.send(None)
            try:
                for answer in worker.run(*driver.messages.get()):
                    driver.send(answer)
            except KeyboardInterrupt as error:  # raised by a plug-in: Ctrl-C does not reach this process
                driver.send(WorkerFailure.from_error(error))
