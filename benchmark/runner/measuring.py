"""What a round takes: seconds, peak memory, and the device and library versions it ran with."""

from __future__ import annotations

import contextlib
import functools
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch

from benchmark.api import EncodingTime, Machine
from benchmark.records.versions import installed_versions
from benchmark.system.working_time import working_seconds

PROC_SELF = Path("/proc/self")  # where Linux describes this process


class Clock:
    """Measures the stages of a round in seconds, without the time in which the process was stopped.

    Use: `with clock("select"): ...`; the result is `clock.seconds["select"]`.
    """

    def __init__(self) -> None:
        self.seconds = {"select": 0.0, "score": 0.0}

    def separate_encoding(self, encoding_time: EncodingTime) -> None:
        """Moves the time of computing encodings out of `select` into `encode`.

        `encode` is what the encodings used by this selection took, whenever they were computed; `select` keeps the time
        of reading them.
        """
        if encoding_time.seconds:
            self.seconds["select"] = max(0.0, self.seconds["select"] - encoding_time.seconds_now)
            self.seconds["encode"] = encoding_time.seconds
            encoding_time.seconds_now = encoding_time.seconds = 0.0

    def __call__(self, name: str) -> Clock:
        self.name = name
        return self

    def __enter__(self) -> None:
        self.start_time = working_seconds()

    def __exit__(self, *_: object) -> None:
        wait_for_gpu()
        self.seconds[self.name] = working_seconds() - self.start_time


def wait_for_gpu() -> None:
    """Waits until the GPU's queue is empty, so that a clock counts queued work in the right stage."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak_memory(machine: Machine) -> None:
    """Makes `peak_memory_mb` count from now on, so that memory freed before a round does not count for it.

    Only Linux can do so for a process; elsewhere the peak is that since the process started.
    """
    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(machine.device)
    else:
        with contextlib.suppress(OSError):
            (PROC_SELF / "clear_refs").write_text("5", encoding="utf-8")


def peak_memory_mb(machine: Machine) -> float:
    """Returns the peak memory in MB since `reset_peak_memory`: on the task's GPU, or of the process on a CPU."""
    if machine.device.type == "cuda":
        return torch.cuda.max_memory_allocated(machine.device) / 1e6
    with contextlib.suppress(OSError):
        if match := re.search(r"VmHWM:\s*(\d+) kB", (PROC_SELF / "status").read_text(encoding="utf-8")):
            return int(match[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def device_name(machine: Machine) -> str:
    """Returns the name of the device, how many train a model together, and whether results are exactly repeatable."""
    suffix = ", deterministic" if torch.are_deterministic_algorithms_enabled() else ""
    if machine.device.type == "cuda":
        count = f"{machine.processes_per_fit} x " if machine.processes_per_fit > 1 else ""
        return count + torch.cuda.get_device_name(machine.device) + suffix
    return (
        f"{machine.device.type} ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads{suffix})"
    )


@functools.cache
def library_versions() -> dict[str, str]:
    """Returns the library versions that numbers may depend on; with a GPU, those of CUDA, cuDNN and the driver too."""
    gpu = dict[str, str]()
    if torch.cuda.is_available():
        gpu = {
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
            "driver": gpu_driver_version(),
        }
    return {**installed_versions(), **gpu}


def gpu_driver_version() -> str:
    """Returns the version of the GPU's driver; "" where `nvidia-smi` is missing or fails."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.check_output(
            command, encoding="utf-8", errors="replace", stderr=subprocess.DEVNULL, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return output.partition("\n")[0].strip()
