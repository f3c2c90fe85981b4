"""Functions of tensors as CUDA graphs.

A small network keeps a GPU waiting: the CPU takes longer to launch the hundreds of operations of a training step than
the GPU to run them. A graph records these operations once, and the CPU launches all of them at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from benchmark.system.remarks import remark_once

WARM_UP_CALLS = 3  # ordinary calls before a recording: libraries choose kernels and reserve memory in the first ones
MAX_GRAPHS = 8  # recordings of one function; calls with further shapes stay ordinary ones
Signature: TypeAlias = tuple[Hashable, ...]


@dataclass(frozen=True)
class Recording:
    """A recorded call.

    Args:
        inputs: the tensors that the recorded operations read their arguments from.
        output: the tensor that they write the result to; None for a function without a result.
        launch: runs the operations.
        pool: the memory of their intermediate results, which other recordings may share: only one runs at a time.
    """

    inputs: list[Tensor]
    output: Tensor | None
    launch: Callable[[], None]
    pool: Any

    def replay(self, tensors: list[Tensor]) -> Tensor | None:
        """Runs the recorded operations on other tensors; the result is a copy, which later calls leave alone."""
        for buffer, tensor in zip(self.inputs, tensors, strict=True):
            buffer.copy_(tensor)
        self.launch()
        return None if self.output is None else self.output.clone()


class CapturedFunction:
    """A function that a GPU runs as a CUDA graph, with the effects and the result of an ordinary call.

    The first WARM_UP_CALLS calls with tensors of certain shapes are ordinary ones. The next one is recorded, and from
    then on a call copies its tensors into those of the recording and launches it. On a CPU all calls are ordinary
    ones; so they are where CUDA refuses to record, which the user is told once.

    A recording repeats what was done to tensors, not what was done in Python. So the function

    - reads and writes only its arguments, and tensors that exist before the first call, in place, as long as this
      object is in use;
    - takes everything that may differ between two calls as an argument, or reads it from such a tensor;
    - never waits for the GPU: no `item()`, no shapes that depend on values;
    - draws random numbers only from torch's global generator, which may be seeded between calls.

    Args:
        function: the function. Arguments that are no tensors must be hashable: there is a recording for each of their
            values, as for each shape. It returns a tensor, or None.
        name: what the function does, for the message where it cannot be recorded.
    """

    def __init__(self, function: Callable[..., Tensor | None], name: str) -> None:
        self._function, self._name = function, name
        self._num_calls: Counter[Signature] = Counter()
        self._recordings: dict[Signature, Recording] = {}
        self._is_refused = False

    def __call__(self, *arguments: Any) -> Tensor | None:
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        if self._is_refused or not tensors or not can_record(tensors[0].device):
            return self._function(*arguments)
        signature = signature_of(arguments)
        if signature not in self._recordings:
            self._num_calls[signature] += 1
            if self._num_calls[signature] <= WARM_UP_CALLS or len(self._recordings) >= MAX_GRAPHS:
                return call_on_side_stream(partial(self._function, *arguments), tensors[0].device)
            pool = next((recording.pool for recording in self._recordings.values()), None)
            try:
                self._recordings[signature] = record(self._function, arguments, pool)
            except RuntimeError as error:  # CUDA refuses, or has too little memory for a recording
                self._fall_back(error)
                return self._function(*arguments)
        return self._recordings[signature].replay(tensors)

    def _fall_back(self, error: RuntimeError) -> None:
        """Makes all further calls ordinary ones, and says so."""
        self._is_refused = True
        self._recordings.clear()
        reason = str(error.__context__ or error).partition("\n")[0]
        remark_once(f"{self._name} cannot run as a CUDA graph and is slower: {reason}")


def signature_of(arguments: tuple[Any, ...]) -> Signature:
    """Returns what calls must share to share a recording: the shapes and dtypes of tensors, and all other values."""
    return tuple(
        (value.shape, value.dtype, value.device) if isinstance(value, Tensor) else value for value in arguments
    )


def can_record(device: torch.device) -> bool:
    """Returns whether functions of tensors on a device are recorded.

    Args:
        device: a device of tensors.
    """
    return device.type == "cuda"


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Returns the stream on which functions are called before they are recorded, and recorded: CUDA does not record its
    default stream, and PyTorch ties the gradient of a weight to the stream that computes it first."""
    return torch.cuda.Stream(device)


def call_on_side_stream(call: Callable[[], Tensor | None], device: torch.device) -> Tensor | None:
    """Makes a call on the side stream, and makes the current stream wait for it."""
    stream, current = side_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        output = call()
    current.wait_stream(stream)
    return output


def record(function: Callable[..., Tensor | None], arguments: tuple[Any, ...], pool: Any) -> Recording:
    """Records a call without running it.

    Args:
        function: the function.
        arguments: its arguments; the recording reads copies of the tensors among them.
        pool: memory of another recording to share; None for new memory.

    Raises:
        RuntimeError: CUDA does not record the call.
    """
    copies = [value.clone() if isinstance(value, Tensor) else value for value in arguments]
    inputs = [value for value in copies if isinstance(value, Tensor)]
    device, graph = inputs[0].device, torch.cuda.CUDAGraph()
    pool = pool or torch.cuda.graph_pool_handle()
    try:
        with (
            torch.cuda.stream(side_stream(device)),  # after a failure `torch.cuda.graph` does not leave its stream
            torch.cuda.graph(graph, pool, side_stream(device), capture_error_mode="thread_local"),
        ):
            output = function(*copies)
    except RuntimeError:
        release_after_failure(device, pool)
        raise
    return Recording(inputs, output, graph.replay, pool)


def release_after_failure(device: torch.device, pool: Any) -> None:
    """Ends what a failed recording leaves open: the use of its memory, and that of the random generator, which would
    refuse to draw."""
    with suppress(RuntimeError):  # where the memory was released before the failure
        torch._C._cuda_endAllocateToPool(device.index, pool)
        torch._C._cuda_releasePool(device.index, pool)
    generator = torch.cuda.default_generators[device.index]
    generator.graphsafe_set_state(generator.clone_state())
