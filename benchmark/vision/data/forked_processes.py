"""Calls a function on all cores: in processes that are forked from this one and write into the same arrays."""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_PROCESSES = 32


def num_cores() -> int:
    """The number of cores that this process may use, at most MAX_PROCESSES; 1 if it may start no processes."""
    if multiprocessing.current_process().daemon:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_PROCESSES)


def shared_array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Returns an array of zeros that this process and the processes forked from it share."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(1, num_bytes)), np.uint8)[:num_bytes].view(dtype).reshape(shape)


def map_in_processes(function: Callable[[Item], Result], items: Sequence[Item], num_processes: int) -> Iterator[Result]:
    """Calls a function for each item in forked processes, and yields the results in order.

    Nothing is left behind: the processes end when this one does, however that happens, and no handler of signals and
    no start method of multiprocessing is set in this one.

    Args:
        function: Any callable. It may write into arrays of `shared_array`.
        items: Its arguments, which are pickled, as are the results: large arrays belong into shared ones.
        num_processes: At least 1.

    Raises:
        RuntimeError: One of the processes was killed.
    """
    fork = multiprocessing.get_context("fork")
    workers = ProcessPoolExecutor(num_processes, fork, start_worker, (function, os.getpid()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: the workers use no lock of our threads
            results = workers.map(call_function, items)
        yield from results
    except BrokenProcessPool as error:
        raise RuntimeError("a process that reads images was killed, perhaps because memory is short") from error
    finally:
        workers.shutdown(cancel_futures=True)


function_of_worker: Callable[[Any], Any]


def start_worker(function: Callable[[Any], Any], parent: int) -> None:
    """Prepares a new process: it leaves Ctrl-C to its parent, and ends soon after it."""
    global function_of_worker
    function_of_worker = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, args=(parent,), daemon=True).start()


def end_with_parent(parent: int) -> None:
    """Waits until the parent has ended, and ends this process."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def call_function(item: Any) -> Any:
    """Calls the function of this process."""
    return function_of_worker(item)
