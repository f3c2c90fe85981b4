"""Trains one network in several processes, each with a part of every batch and, on GPUs, with a GPU of its own.

Gradients are averaged over the processes (DistributedDataParallel). Each process normalises with the batch statistics
of its own part and draws its own samples, as on the GPUs of published training runs; the running statistics of the
first process are kept. A loss that is divided by a count (of positives) is divided by the count of the whole batch, so
that a fit in several processes is that of one process but for rounding, where no layer uses batch statistics and
nothing is drawn at random.

The training code asks `part_of_batch` which images of a step belong to its process; in a fit of one process, all do.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from benchmark.api import activity

HOST = "127.0.0.1"  # all processes run on this machine
WAIT_SECONDS = 0.2  # between two looks at the processes


Weights: TypeAlias = dict[str, npt.NDArray[np.generic]]  # the state of a network by name


class Fit(Protocol):
    """A fit that other processes can run; picklable."""

    def __call__(self, device: torch.device) -> nn.Module:
        """Trains a network on this device and returns it."""


# --- within a process -----------------------------------------------------------------------------
def num_processes() -> int:
    """How many processes train this network."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_number() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def part_of_batch(items: Sequence[Any]) -> list[Any]:
    """The items of a batch that belong to this process; parts differ by at most one item.

    Args:
        items: one item for each image of the batch.

    Raises:
        ValueError: there are fewer images than processes.
    """
    num, number = num_processes(), process_number()
    if len(items) < num:
        raise ValueError(f"a batch of {len(items)} images cannot be divided among {num} GPUs: set gpus_per_cell lower")
    return list(items[number * len(items) // num : (number + 1) * len(items) // num])


def share_of_batch(loss: Tensor, divisor: Callable[[], Tensor]) -> Tensor:
    """Rescales the loss of this process's part, so that the mean over the processes is the loss of the batch.

    Args:
        loss: a sum over the part, divided by max(1, `divisor()`).
        divisor: returns what the loss was divided by, such as the number of positives. Called only where there are
            several processes.
    """
    if num_processes() == 1:
        return loss
    own = divisor().to(loss)
    total = own.clone()
    dist.all_reduce(total)
    return loss * (own.clamp(min=1) * num_processes() / total.clamp(min=1))


def average_gradients(objective: nn.Module, *, uses_all_parameters: bool) -> nn.Module:
    """Makes the backward pass through a module that computes a loss average the gradients over the processes.

    Args:
        objective: a module whose parameters are those of the network.
        uses_all_parameters: every loss depends on all of them, which is faster.
    """
    if num_processes() == 1:
        return objective
    return DistributedDataParallel(objective, broadcast_buffers=False, find_unused_parameters=not uses_all_parameters)


# --- starting the processes -----------------------------------------------------------------------
@dataclass(frozen=True)
class ProcessState:
    """What a new process needs to compute as this one does."""

    num_threads: int
    is_deterministic: bool

    @classmethod
    def of_this_process(cls, num_processes: int) -> ProcessState:
        """The state of this process, its threads divided among the new ones."""
        return cls(max(1, torch.get_num_threads() // num_processes), torch.are_deterministic_algorithms_enabled())

    def apply(self) -> None:
        """Puts this process into the state."""
        torch.set_num_threads(self.num_threads)
        torch.use_deterministic_algorithms(self.is_deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def fit_in_processes(fit: Fit, num: int, device: torch.device) -> dict[str, Tensor]:
    """Runs a fit in several processes and returns the weights.

    Args:
        fit: the fit; each process calls it with its device.
        num: number of processes.
        device: `cpu`, or `cuda` for the first `num` GPUs.

    Returns:
        The state of the first process's network, on the CPU.

    Raises:
        ValueError: what a process raised, or the fit cannot be sent to other processes.
    """
    with activity.stage(f"fitting in {num} processes"):
        result = run_processes(fit, num, device.type)
    if isinstance(result, ValueError):
        raise result
    return {name: torch.from_numpy(values) for name, values in result.items()}


def run_processes(fit: Fit, num: int, device_type: str) -> Weights | ValueError:
    """Starts the processes and waits for them; returns the weights, or the first ValueError of a process.

    Args:
        fit: the fit.
        num: number of processes.
        device_type: `cpu` or `cuda`.

    Raises:
        RuntimeError: a process failed otherwise, or was killed; the others have been ended.
    """
    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    results = multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (num, device_type, store.port, fit, ProcessState.of_this_process(num), results)
    try:
        processes = start_processes(run_process, arguments, num, join=False, start_method="spawn")
    except (AttributeError, TypeError) as error:
        raise ValueError(f"gpus_per_cell={num}: this fit cannot be sent to other processes ({error})") from error
    assert processes is not None
    try:
        while results.empty() and not processes.join(timeout=WAIT_SECONDS):
            pass
        result: Weights | ValueError = results.get()
        return result
    finally:
        for process in processes.processes:
            process.kill()  # where one has failed, the others wait for it
            process.join()


def run_process(
    number: int, num: int, device_type: str, port: int, fit: Fit, state: ProcessState, results: Any
) -> None:
    """One process of `fit_in_processes`.

    Args:
        number: its number among `num`.
        num: number of processes.
        device_type: `cpu` or `cuda`.
        port: where the store of the first process listens.
        fit: the fit.
        state: how to compute.
        results: receives the weights from process 0, or the ValueError of any process.
    """
    state.apply()
    device = torch.device(device_type, number) if device_type == "cuda" else torch.device(device_type)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = dist.TCPStore(HOST, port, is_master=False)  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=number, world_size=num)
    try:
        network = fit(device)
    except ValueError as error:
        results.put(error)
        os._exit(0)  # without a farewell to the others, which may be waiting for this process
    if number == 0:
        results.put({name: value.cpu().numpy() for name, value in network.state_dict().items()})
    dist.destroy_process_group()
