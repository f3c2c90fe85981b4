"""What a plug-in may leave changed in torch or in the process, put back as it was after every call of one.

A strategy that turns gradients off, takes another default dtype or changes the folder would otherwise change the cells
that come after it. What nobody can put back (a function of a library replaced by another, a thread left running) is
not looked after here.
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
    """A part of the state: its name for people, how it is read, and how it is put back."""

    name: str
    read: Callable[[], Any]  # equal values mean that nothing was changed
    write: Callable[[Any], object]


def attribute_aspect(name: str, owner: Any, *names: str) -> Aspect:
    """Attributes of a module, read and put back together."""

    def write(values: Sequence[Any]) -> None:
        for attribute, value in zip(names, values, strict=True):
            setattr(owner, attribute, value)

    return Aspect(name, lambda: [getattr(owner, attribute) for attribute in names], write)


# --- threads ----------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class ThreadCounts:
    """Numbers of threads by library. One that was loaded meanwhile makes no difference."""

    by_library: dict[str, int]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ThreadCounts):
            return NotImplemented
        return all(
            self.by_library[name] == other.by_library[name] for name in self.by_library.keys() & other.by_library.keys()
        )


@cache
def thread_pools(num_modules: int) -> list[Any]:
    """Controllers of the threads of BLAS and OpenMP libraries; found anew where modules were imported since."""
    return list(ThreadpoolController().lib_controllers)


def thread_counts() -> ThreadCounts:
    """The numbers of threads of torch and of the libraries beneath it and numpy."""
    numbers = {one.filepath: one.num_threads for one in thread_pools(len(sys.modules))}
    return ThreadCounts(numbers | {"torch": torch.get_num_threads()})


def set_threads(state: ThreadCounts) -> None:
    """Puts them back."""
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
    """The working folder; "" where it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def set_environment(state: Mapping[str, str]) -> None:
    """Puts the environment back."""
    for name in set(os.environ) - set(state):
        del os.environ[name]
    os.environ.update(state)


def set_signals(handlers: list[Any]) -> None:
    """Puts the handlers of signals back."""
    for number, handler in zip(SIGNALS, handlers, strict=True):
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def set_blocked(state: set[signal.Signals]) -> None:
    """Blocks these signals, and no other."""
    signal.pthread_sigmask(signal.SIG_SETMASK, state)


def running_timers() -> list[bool]:
    """Which of the timers of this process run."""
    return [signal.getitimer(one)[0] > 0 for one in TIMERS]


def stop_timers(state: list[bool]) -> None:
    """Stops those that did not run."""
    for timer, ran in zip(TIMERS, state, strict=True):
        if not ran:
            signal.setitimer(timer, 0)


def umask() -> int:
    """The permissions that new files lack: they can only be read by setting them."""
    os.umask(before := os.umask(0o077))
    return before


def set_limits(state: list[tuple[int, int]]) -> None:
    """Puts the limits of memory, files and time back."""
    for limit, values in zip(LIMITS, state, strict=True):
        resource.setrlimit(limit, values)


def set_warnings(state: tuple[list[Any], Any]) -> None:
    """Puts the filters of warnings back, and what shows them."""
    warnings.resetwarnings()  # so that they are looked through anew
    warnings.filters[:], warnings.showwarning = state  # type: ignore[index]


def logging_state() -> list[Any]:
    """Level and handlers of the root logger, and what is turned off everywhere."""
    return [logging.root.level, list(logging.root.handlers), logging.root.manager.disable]


def set_logging_state(state: list[Any]) -> None:
    """Puts that back."""
    logging.root.setLevel(state[0])
    logging.root.handlers[:] = state[1]
    logging.disable(state[2])


def start_method() -> str | None:
    """How the processes of multiprocessing are started; None where nobody has decided."""
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
    Aspect("the hooks of all modules", lambda: [dict(one) for one in GLOBAL_HOOKS], set_hooks),
    Aspect("the current GPU", current_gpu, set_gpu),
    Aspect("how processes share tensors", shared.get_sharing_strategy, shared.set_sharing_strategy),
    Aspect("numbers of threads", thread_counts, set_threads),
    Aspect("numpy's treatment of errors", np.geterr, lambda state: np.seterr(**state)),
    Aspect("how numpy prints", np.get_printoptions, lambda state: np.set_printoptions(**state)),
    Aspect("the working folder", working_folder, os.chdir),
    Aspect("the environment", lambda: dict(os.environ), set_environment),
    Aspect("handlers of signals", lambda: [signal.getsignal(one) for one in SIGNALS], set_signals),
    Aspect("signals that are blocked", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []), set_blocked),
    Aspect("timers", running_timers, stop_timers),
    Aspect("the permissions of new files (umask)", umask, os.umask),
    Aspect("limits of memory, files or time", lambda: [resource.getrlimit(one) for one in LIMITS], set_limits),
    Aspect("warnings", lambda: (list(warnings.filters), warnings.showwarning), set_warnings),
    Aspect("logging", logging_state, set_logging_state),
    Aspect("the locale", lambda: locale.setlocale(locale.LC_ALL), lambda state: locale.setlocale(locale.LC_ALL, state)),
    attribute_aspect("standard streams", sys, "stdin", "stdout", "stderr"),
    attribute_aspect("what becomes of exceptions", sys, "excepthook"),
    Aspect("the limit of recursion", sys.getrecursionlimit, sys.setrecursionlimit),
    Aspect("the collection of garbage", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    Aspect("how processes are started", start_method, lambda name: multiprocessing.set_start_method(name, force=True)),
]
CHANGED_BY_IMPORTS = {"the environment", "warnings", "logging"}  # what libraries change when they are imported


# --- before and after a call ------------------------------------------------------------------
def snapshot() -> dict[str, Any]:
    """The state by the name of each of its parts."""
    return {one.name: one.read() for one in ASPECTS}


def restore(before: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Puts the state back.

    Args:
        before: What `snapshot` gave, or a part of it.

    Returns:
        What had changed, and what of it still has: that nobody can put back. Both in words.
    """
    changed = {one: after for one in ASPECTS if one.name in before and (after := one.read()) != before[one.name]}
    for one in changed:
        with suppress(Exception):
            one.write(before[one.name])
    stuck = [one.name for one in changed if one.read() != before[one.name]]
    return [describe_change(one.name, before[one.name], after) for one, after in changed.items()], stuck


def describe_change(name: str, before: Any, after: Any) -> str:
    """A part of the state that changed; of a mapping, which of its names."""
    if not isinstance(before, dict):
        return name
    names = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return f"{name} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"


@contextmanager
def isolate_plugin(owner: str, seed: int, *, importing: bool = False) -> Iterator[None]:
    """Runs a block of a plug-in's code, and puts back what it leaves changed in torch and in the process.

    The global generators of random, numpy and torch are seeded for the block, and given back as they were: a plug-in
    that draws from them, or seeds them, changes nothing outside, and repeats itself.

    Args:
        who: Whose code it is: what it leaves changed is said, once for each wording.
        seed: Of the global generators.
        importing: Whether the block imports a plug-in: then the environment, warnings and logging stay as it sets them.
    """
    before, num_modules = snapshot(), len(sys.modules)
    if importing:
        before = {name: value for name, value in before.items() if name not in CHANGED_BY_IMPORTS}
    try:
        with temporary_seed(seed), exit_as_exception():
            yield
    finally:
        changed, stuck = restore(before)
        if len(sys.modules) != num_modules:
            changed = [one for one in changed if one.partition(" (")[0] not in CHANGED_BY_IMPORTS]
        if changed:
            remark_once(f"{owner} leaves changed: {', '.join(changed)}; it is put back, for the other cells' sake")
        if stuck:
            remark_once(f"{owner}: cannot be put back: {', '.join(stuck)}: other cells may differ; run it alone")


@contextmanager
def exit_as_exception() -> Iterator[None]:
    """Has `os._exit` in a block raise SystemExit in this process, so that it is a failure of its cell: it would end the
    run with an exit code that may say that all is done. Processes that the block starts may end so."""
    end, own = os._exit, os.getpid()

    def raise_here(status: int) -> None:
        if os.getpid() != own:
            end(status)
        raise SystemExit(status)

    os._exit = raise_here  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = end


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """Runs a block with the global generators of random, numpy and torch seeded, and gives them back as they were."""
    of_random, of_numpy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with seeded(seed):
            yield
    finally:
        random.setstate(of_random)
        np.random.set_state(of_numpy)  # noqa: NPY002


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block with torch's global generators seeded, and gives the caller's state back.

    For library code that takes no generator (module initialisers, dropout).
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    # `torch.manual_seed` formats a traceback for each device that is not started: slow where detectors seed each image
    seed_all = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
    with torch.random.fork_rng(devices=devices):
        seed_all(seed)
        yield
