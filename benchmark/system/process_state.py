"""The state of torch and of the process that a plug-in may change, restored after each call of a plug-in.

Otherwise a strategy that turns gradients off, sets another default dtype or changes the working folder would change the
cells that follow. What cannot be restored (a function of a library that was replaced, a thread that still runs) is not
covered.
"""

from __future__ import annotations

import gc
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as shared
from threadpoolctl import ThreadpoolController

from benchmark.system.remarks import remark_once
from benchmark.system.torch_state import (
    CUDNN,
    GLOBAL_HOOKS,
    ONEDNN,
    SMALLEST_NORMAL,
    anomaly_checks,
    attention_kernels,
    autocast_state,
    current_gpu,
    determinism_state,
    float32_precision,
    set_attention,
    set_autocast,
    set_deterministic,
    set_device,
    set_gpu,
    set_hooks,
    set_inference_mode,
    set_precision,
)


@dataclass(frozen=True)
class Aspect:
    """A part of the state: its name for people, how it is read, and how it is restored."""

    name: str
    read: Callable[[], Any]  # equal values mean that nothing has changed
    write: Callable[[Any], object]


def attribute_aspect(name: str, owner: Any, *names: str) -> Aspect:
    """Returns an aspect of several attributes of a module."""

    def write(values: Sequence[Any]) -> None:
        for attribute, value in zip(names, values, strict=True):
            setattr(owner, attribute, value)

    return Aspect(name, lambda: [getattr(owner, attribute) for attribute in names], write)


# --- threads ----------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class ThreadCounts:
    """The number of threads by library; two counts are equal if they agree on the libraries that both have."""

    by_library: dict[str, int]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ThreadCounts):
            return NotImplemented
        libraries = self.by_library.keys() & other.by_library.keys()
        return all(self.by_library[library] == other.by_library[library] for library in libraries)


@cache
def thread_pools(num_modules: int) -> list[Any]:
    """Returns the controllers of BLAS and OpenMP threads; searched again when modules were imported since."""
    return list(ThreadpoolController().lib_controllers)


def thread_counts() -> ThreadCounts:
    """Returns the number of threads of torch, of the libraries below it, and of numpy's."""
    numbers = {pool.filepath: pool.num_threads for pool in thread_pools(len(sys.modules))}
    return ThreadCounts(numbers | {"torch": torch.get_num_threads()})


def set_threads(state: ThreadCounts) -> None:
    """Restores the numbers of threads."""
    torch.set_num_threads(state.by_library["torch"])
    for pool in thread_pools(len(sys.modules)):
        if pool.filepath in state.by_library:
            pool.set_num_threads(state.by_library[pool.filepath])


# --- the process ------------------------------------------------------------------------------
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGPIPE, signal.SIGCHLD,
           signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGVTALRM, signal.SIGPROF]  # fmt: skip
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU)


def working_folder() -> str:
    """Returns the working folder; "" where it was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def set_environment(state: Mapping[str, str]) -> None:
    """Restores the environment."""
    for name in set(os.environ) - set(state):
        del os.environ[name]
    os.environ.update(state)


def set_signals(handlers: list[Any]) -> None:
    """Restores the signal handlers."""
    for number, handler in zip(SIGNALS, handlers, strict=True):
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def set_blocked(state: set[signal.Signals]) -> None:
    """Blocks these signals, and no others."""
    signal.pthread_sigmask(signal.SIG_SETMASK, state)


def running_timers() -> list[bool]:
    """Returns which timers of this process are running."""
    return [signal.getitimer(timer)[0] > 0 for timer in TIMERS]


def stop_timers(state: list[bool]) -> None:
    """Stops the timers that were not running."""
    for timer, was_running in zip(TIMERS, state, strict=True):
        if not was_running:
            signal.setitimer(timer, 0)


def umask() -> int:
    """Returns the permissions that new files lack; they can be read only by setting them."""
    os.umask(before := os.umask(0o077))
    return before


def set_limits(state: list[tuple[int, int]]) -> None:
    """Restores the limits of memory, files and time."""
    for limit, values in zip(LIMITS, state, strict=True):
        resource.setrlimit(limit, values)


def set_warnings(state: tuple[list[Any], Any]) -> None:
    """Restores the filters of warnings and the function that shows them."""
    warnings.resetwarnings()  # makes Python apply the filters again
    warnings.filters[:], warnings.showwarning = state  # type: ignore[index]


def logging_state() -> list[Any]:
    """Returns level and handlers of the root logger, and the level that is disabled everywhere."""
    return [logging.root.level, list(logging.root.handlers), logging.root.manager.disable]


def set_logging_state(state: list[Any]) -> None:
    """Restores the logging state."""
    logging.root.setLevel(state[0])
    logging.root.handlers[:] = state[1]
    logging.disable(state[2])


def start_method() -> str | None:
    """Returns how multiprocessing starts processes; None where nothing was set."""
    return multiprocessing.get_start_method(allow_none=True)


ASPECTS = [
    Aspect("inference mode", torch.is_inference_mode_enabled, set_inference_mode),
    Aspect("gradients on or off", torch.is_grad_enabled, torch.set_grad_enabled),
    Aspect("mixed precision (autocast)", autocast_state, set_autocast),
    Aspect("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Aspect("the default device", torch.get_default_device, set_device),
    Aspect("deterministic algorithms", determinism_state, set_deterministic),
    attribute_aspect("the settings of cuDNN", CUDNN, "benchmark", "deterministic", "enabled"),
    attribute_aspect("the settings of oneDNN", ONEDNN, "deterministic", "enabled"),
    Aspect("the precision of float32", float32_precision, set_precision),
    Aspect("the implementations of attention", attention_kernels, set_attention),
    Aspect("how tiny numbers are treated", lambda: SMALLEST_NORMAL / 2 == 0, torch.set_flush_denormal),
    Aspect("the search for anomalies", anomaly_checks, lambda state: torch.autograd.set_detect_anomaly(*state)),
    Aspect("the hooks of all modules", lambda: [dict(hooks) for hooks in GLOBAL_HOOKS], set_hooks),
    Aspect("the current GPU", current_gpu, set_gpu),
    Aspect("how processes share tensors", shared.get_sharing_strategy, shared.set_sharing_strategy),
    Aspect("numbers of threads", thread_counts, set_threads),
    Aspect("numpy's treatment of errors", np.geterr, lambda state: np.seterr(**state)),
    Aspect("how numpy prints", np.get_printoptions, lambda state: np.set_printoptions(**state)),
    Aspect("the working folder", working_folder, os.chdir),
    Aspect("the environment", lambda: dict(os.environ), set_environment),
    Aspect("handlers of signals", lambda: [signal.getsignal(number) for number in SIGNALS], set_signals),
    Aspect("signals that are blocked", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []), set_blocked),
    Aspect("timers", running_timers, stop_timers),
    Aspect("the permissions of new files (umask)", umask, os.umask),
    Aspect("limits of memory, files or time", lambda: [resource.getrlimit(limit) for limit in LIMITS], set_limits),
    Aspect("warnings", lambda: (list(warnings.filters), warnings.showwarning), set_warnings),
    Aspect("logging", logging_state, set_logging_state),
    Aspect("the locale", lambda: locale.setlocale(locale.LC_ALL), lambda state: locale.setlocale(locale.LC_ALL, state)),
    attribute_aspect("standard streams", sys, "stdin", "stdout", "stderr"),
    attribute_aspect("what becomes of exceptions", sys, "excepthook"),
    Aspect("the limit of recursion", sys.getrecursionlimit, sys.setrecursionlimit),
    Aspect("the collection of garbage", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    Aspect("how processes are started", start_method, lambda name: multiprocessing.set_start_method(name, force=True)),
]
CHANGED_BY_IMPORTS = {"the environment", "warnings", "logging"}  # aspects that importing a library may change


# --- before and after a call ------------------------------------------------------------------
def snapshot() -> dict[str, Any]:
    """Returns the state by the name of each aspect."""
    return {aspect.name: aspect.read() for aspect in ASPECTS}


def restore(before: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Restores the state.

    Args:
        before: the result of `snapshot`, or a part of it.

    Returns:
        What had changed, and what of that could not be restored; both as texts.
    """
    aspects = [aspect for aspect in ASPECTS if aspect.name in before]
    changes = {aspect: after for aspect in aspects if (after := aspect.read()) != before[aspect.name]}
    for aspect in changes:
        with suppress(Exception):
            aspect.write(before[aspect.name])
    remaining = [aspect.name for aspect in changes if aspect.read() != before[aspect.name]]
    return [describe_change(aspect.name, before[aspect.name], after) for aspect, after in changes.items()], remaining


def describe_change(name: str, before: Any, after: Any) -> str:
    """Returns the name of an aspect that changed; for a mapping, with the keys that changed."""
    if not isinstance(before, dict):
        return name
    names = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return f"{name} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"


@contextmanager
def isolate_plugin(owner: str, seed: int, *, importing: bool = False) -> Iterator[None]:
    """Runs a block of a plug-in's code, and restores what it changes in torch and in the process.

    The global random generators of random, numpy and torch are seeded for the block and restored afterwards: a plug-in
    that draws from them, or seeds them, changes nothing outside and repeats itself.

    Args:
        owner: whose code it is, for the remark on what it changed; each remark is made once.
        seed: the seed of the global generators.
        importing: whether the block imports a plug-in: the environment, warnings and logging then stay as it sets them.
    """
    before, num_modules = snapshot(), len(sys.modules)
    if importing:
        before = {name: value for name, value in before.items() if name not in CHANGED_BY_IMPORTS}
    try:
        with temporary_seed(seed), exit_as_exception():
            yield
    finally:
        changes, remaining = restore(before)
        if len(sys.modules) != num_modules:
            changes = [text for text in changes if text.partition(" (")[0] not in CHANGED_BY_IMPORTS]
        if changes:
            remark_once(
                f"{owner} leaves changed: {', '.join(changes)}; it is restored, so that other cells are the same"
            )
        if remaining:
            remark_once(f"{owner}: cannot be restored: {', '.join(remaining)}: other cells may differ; run it alone")


@contextmanager
def exit_as_exception() -> Iterator[None]:
    """Makes `os._exit` in a block raise SystemExit in this process, so that it is a failure of the cell.

    Otherwise it would end the run, perhaps with an exit code that reports success. Processes that the block starts may
    call it.
    """
    original_exit, own_pid = os._exit, os.getpid()

    def raise_here(status: int) -> None:
        if os.getpid() != own_pid:
            original_exit(status)
        raise SystemExit(status)

    os._exit = raise_here  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = original_exit


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """Seeds the global generators of random, numpy and torch for a block, and restores them."""
    python_state, numpy_state = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with seeded(seed):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generators for a block, and restores the caller's state.

    For library code that takes no generator: initial weights of modules, dropout.

    Args:
        seed: the seed.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    # `torch.manual_seed` formats a traceback for each device that is not started: too slow to call for each image
    seed_all = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
    with torch.random.fork_rng(devices=devices):
        seed_all(seed)
        yield
