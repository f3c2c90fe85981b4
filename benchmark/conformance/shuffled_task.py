"""A task with its pool in another order: a strategy must not select images for their positions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmark.api import Indices, Task


class ShuffledTask:
    """A task whose image at position `new_positions[i]` is image i of another task."""

    def __init__(self, task: Task, seed: int) -> None:
        self.__task = task
        self.__order = np.random.default_rng(seed).permutation(task.num_pool)
        self.new_positions: Indices = np.argsort(self.__order)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__task, name)
        return partial(self.__call_shuffled, value) if callable(value) else value

    def __call_shuffled(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a method with positions of the original pool; the test set keeps its order."""
        if kwargs.get("test"):
            return method(*args, **kwargs)
        return method(*(self.__order[arg] if isinstance(arg, np.ndarray) else arg for arg in args), **kwargs)
