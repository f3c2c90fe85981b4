"""Work in parallel processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

Part = TypeVar("Part")
Result = TypeVar("Result")


def map_in_processes(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Applies a function to each part, in parallel processes where there are several parts and a fork is safe."""
    if len(parts) == 1 or "torch" in sys.modules:  # torch's threads and GPU contexts do not survive a fork
        return list(map(function, parts))
    num, fork = min(len(parts), os.cpu_count() or 1), multiprocessing.get_context("fork")
    with threadpool_limits(1), ProcessPoolExecutor(num, fork) as pool:  # one thread of numpy a process
        return list(pool.map(function, parts))
