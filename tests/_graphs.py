"""CUDA graphs on a CPU: a recording that repeats the operations of a call on the very tensors that it was made with.

As with a GPU's graphs, nothing in Python runs again: numbers are those of the recording, and so are the places where
tensors lie in memory. What a GPU refuses to record raises the same kind of error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmark.system import cuda_graphs
from benchmark.system.cuda_graphs import Recording
from benchmark.vision import training

REFUSED = {  # they wait for the GPU, or copy from memory of the CPU that is gone when the graph runs
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::bincount",
    "aten::lift_fresh", "aten::equal", "aten::is_nonzero",
}  # fmt: skip


@dataclass
class Recorder(TorchDispatchMode):
    """Notes all operations of a block, and what the tensors from outside held before it."""

    operations: list[tuple[Any, Any, Any, list[Tensor]]] = field(default_factory=list)
    created: list[Tensor] = field(default_factory=list)
    before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.generator = torch.get_rng_state()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation._schema.name in REFUSED or is_indexed_by_mask(operation, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {operation}")
        for place, storage in storages((args, kwargs)).items():
            if place not in storages(self.created) and place not in self.before:
                self.before[place] = (storage, storage.clone())
        outputs = operation(*args, **kwargs)
        fresh = new_tensors(outputs, args, kwargs)
        self.created += fresh
        if fresh or operation._schema.is_mutable:  # what is left are views of tensors that stay where they are
            self.operations.append((operation, args, kwargs, fresh))
        return outputs

    def undo(self) -> None:
        """Restores what the tensors from outside held, and the random generator: a recording runs nothing."""
        torch.set_rng_state(self.generator)
        for storage, content in self.before.values():
            storage.copy_(content)

    @torch.no_grad()
    def run(self) -> None:
        """Repeats the operations; their results go where they went before."""
        for operation, args, kwargs, fresh in self.operations:
            outputs = new_tensors(operation(*args, **kwargs), args, kwargs)
            for tensor, output in zip(fresh, outputs, strict=True):
                tensor.copy_(output)


def storages(tree: Any) -> dict[int, torch.UntypedStorage]:
    """Returns the memory of all tensors in nested lists, by its address."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}


def new_tensors(outputs: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Returns the outputs that lie in new memory, not in that of an argument."""
    tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return [tensor for tensor in tensors if tensor.untyped_storage().data_ptr() not in storages((args, kwargs))]


def is_indexed_by_mask(operation: Any, args: Any) -> bool:
    """Whether an operation selects values by a mask, so that the number of values depends on them."""
    by_index = operation._schema.name in ("aten::index", "aten::index_put_", "aten::index_put")
    return by_index and any(index is not None and index.dtype == torch.bool for index in args[1])


def record(function: Callable[..., Tensor | None], arguments: tuple[Any, ...], pool: Any) -> Recording:
    """Stands in for `cuda_graphs.record`."""
    copies = [value.clone() if isinstance(value, Tensor) else value for value in arguments]
    recorder = Recorder()
    try:
        with recorder:
            output = function(*copies)
    finally:
        recorder.undo()
    inputs = [value for value in copies if isinstance(value, Tensor)]
    return Recording(inputs, output, recorder.run, "the pool")


@contextmanager
def graphs_on_cpu(record: Callable[..., Recording] = record) -> Iterator[list[Recording]]:
    """Runs a block in which functions on the CPU are recorded; yields the recordings."""
    recordings: list[Recording] = []

    def keep(*args: Any) -> Recording:
        recordings.append(record(*args))
        return recordings[-1]

    with pytest.MonkeyPatch.context() as patch:
        for module in (cuda_graphs, training):
            patch.setattr(module, "can_record", lambda device: True)
        patch.setattr(cuda_graphs, "call_on_side_stream", lambda call, device: call())
        patch.setattr(cuda_graphs, "record", keep)
        yield recordings
