"""Processes that tests start or look for, and strategies to which something happens in them."""

from __future__ import annotations

import contextlib
from pathlib import Path

MISHAPS = '''
"""Strategies to which something happens, once or always, and which buy the first images otherwise."""

import os
import signal
import time
from pathlib import Path

import torch

from benchmark.api import register


def first_time(name):
    flag = Path(__file__).with_name(name)
    is_there = flag.exists()
    flag.touch()
    return not is_there


@register(version=1)
def mishap(view, budget, rng, *, what: str = "none", at: int = 0):
    """`what` happens once `at` images are labelled."""
    if len(view.labelled) == at:
        if what == "killed" and first_time("was_killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "always_killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "starved" and first_time("was_starved"):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        if what == "met":  # fails where no other process comes here within a minute
            Path(__file__).with_name(f"pid-{os.getpid()}").touch()
            began = time.monotonic()
            while len(list(Path(__file__).parent.glob("pid-*"))) < 2:
                assert time.monotonic() - began < 60, "nobody came"
                time.sleep(0.05)
        if what == "gpu":
            Path(__file__).with_name(f"gpu-{os.environ['CUDA_VISIBLE_DEVICES']}").touch()
        if what == "always_starved":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    return view.unlabelled[:budget]
'''


def marked_with(mark: str) -> list[str]:
    """Returns the processes that have this mark in their environment."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                pids.append((path.parent / "cmdline").read_text())
    return pids


def children(pid: int) -> dict[int, str]:
    """Returns the processes below a process, with their command lines."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    todo, names = list(parents.get(pid, [])), {}
    for child in todo:  # grows while it is read
        todo += parents.get(child, [])
        with contextlib.suppress(OSError):
            names[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ").strip()
    return names


def is_running(pid: int, word: str) -> bool:
    """Whether this is a running process with this word in its command line."""
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
