"""Plug-ins that leave torch or the process changed, or want to end it: none may harm another cell."""

import asyncio
import ctypes
import locale
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator
from threadpoolctl import threadpool_limits
from torch import nn

from benchmark.api import Indices, Machine, View, register, register_task

FOR_LIFE: list[object] = []  # contexts that are entered and never left


def enter(context: object) -> None:
    """Enters a context for good."""
    FOR_LIFE.append(context)
    context.__enter__()  # type: ignore[attr-defined]


def lower_limit() -> None:
    """Allows fewer open files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def set_precision(owner: object, name: str, value: object) -> None:
    """Sets one of torch's switches, some of which say that they are old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setattr(owner, name, value)


def seed_all() -> None:
    """What papers' code begins with."""
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002


CHANGES: dict[str, Callable[[], object]] = {
    "gradients": lambda: torch.set_grad_enabled(False),
    "no_grad": lambda: enter(torch.no_grad()),
    "inference": lambda: enter(torch.inference_mode()),
    "autocast": lambda: enter(torch.autocast("cpu")),
    "autocast_off": lambda: torch.set_autocast_dtype("cpu", torch.float16),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "deterministic": lambda: torch.use_deterministic_algorithms(
        not torch.are_deterministic_algorithms_enabled(), warn_only=True
    ),
    "fill": lambda: setattr(
        torch.utils.deterministic,
        "fill_uninitialized_memory",
        not torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    ),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "onednn": lambda: setattr(torch.backends.mkldnn, "deterministic", True),
    "matmul": lambda: torch.set_float32_matmul_precision("medium"),
    "tf32": lambda: set_precision(torch.backends.cuda.matmul, "allow_tf32", True),
    "cudnn_tf32": lambda: set_precision(torch.backends.cudnn, "allow_tf32", False),
    "new_tf32": lambda: set_precision(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "all_tf32": lambda: set_precision(torch.backends, "fp32_precision", "tf32"),
    "attention": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "denormal": lambda: torch.set_flush_denormal(True),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "hook": lambda: nn.modules.module.register_module_forward_hook(lambda *_: torch.zeros(1)),
    "sharing": lambda: torch.multiprocessing.set_sharing_strategy("file_system"),
    "start_method": lambda: torch.multiprocessing.set_start_method("spawn", force=True),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "blas": lambda: threadpool_limits(torch.get_num_threads() + 1, "blas"),
    "numpy_errors": lambda: np.seterr(all="raise"),
    "numpy_prints": lambda: np.set_printoptions(precision=2),
    "folder": lambda: os.chdir(tempfile.gettempdir()),
    "environment": lambda: os.environ.update(AL_UNTIDY="1", OMP_NUM_THREADS="7"),
    "environment_cleared": lambda: os.environ.pop("PATH"),
    "interrupt": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    "alarm": lambda: signal.alarm(60),
    "blocked": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),
    "umask": lambda: os.umask(0o777),
    "limit": lower_limit,
    "warnings": lambda: warnings.simplefilter("error"),
    "logging": lambda: logging.disable(logging.CRITICAL),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "stdout": lambda: setattr(sys, "stdout", sys.__stderr__),
    "hook_of_exceptions": lambda: setattr(sys, "excepthook", print),
    "recursion": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1),
    "garbage": lambda: __import__("gc").disable(),
    "seeds": seed_all,
}


@register(needs=(), version=1)
def leaves(view: View, budget: int, rng: Generator, *, changed: str = "gradients") -> Indices:
    """Random, and leaves something changed; "all": everything in CHANGES."""
    for name, change in CHANGES.items():
        if changed == name or (changed == "all" and name != "device"):  # the default device spoils its own choice
            change()
    return rng.permutation(view.unlabelled)[:budget]


class OddError(BaseException):
    """An end of a library's own, as pytest has them."""


class MuteError(Exception):
    """An error whose message cannot be read."""

    def __str__(self) -> str:
        raise TypeError("no message")


ENDS: dict[str, Callable[[], BaseException]] = {
    "exit": lambda: SystemExit(0),
    "exit_words": lambda: SystemExit("usage: strategy"),
    "generator": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "own": lambda: OddError("enough"),
    "mute": MuteError,
    "no_utf8": lambda: ValueError("cannot read b\udcff.jpg"),
    "stop": StopIteration,
    "interrupt": KeyboardInterrupt,
}


@register(needs=(), version=1)
def ends(view: View, budget: int, rng: Generator, *, how: str = "exit") -> Indices:
    """Raises what is no error, or ends the process at once."""
    if how == "at_once":
        os._exit(0)
    raise ENDS[how]()


@register(needs=(), version=1)
def lingers(view: View, budget: int, rng: Generator, *, seconds: float = 2.0) -> Indices:
    """Leaves a thread running."""
    threading.Thread(target=time.sleep, args=(seconds,), name="lingering").start()
    return rng.permutation(view.unlabelled)[:budget]


@register(needs=(), version=1)
def pauses(view: View, budget: int, rng: Generator, *, seconds: float = 0.5) -> Indices:
    """Random, and takes its time."""
    time.sleep(seconds)
    return rng.permutation(view.unlabelled)[:budget]


@register(needs=(), version=1)
def ends_the_process(view: View, budget: int, rng: Generator) -> Indices:
    """Reads memory that is not there, as compiled code with a bug does."""
    ctypes.string_at(0)
    return view.unlabelled[:budget]


@register_task(version=1)
def ending_task(machine: Machine, *, how: str = "exit") -> nn.Module:
    """Raises what is no error while it is built."""
    raise ENDS[how]()
