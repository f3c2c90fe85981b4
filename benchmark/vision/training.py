"""Training that a kill does not cost: the steps of a fit, with a checkpoint from which it ends in the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from benchmark.api import activity, seeded, tensor_files
from benchmark.vision.classification.training import derived, set_rate

CHECKPOINT_SECONDS = 300.0  # what a killed fit loses at most
DIGEST = 32  # bytes of the checksum that a checkpoint begins with
FINITE_EVERY = 100  # steps after which losses are looked at: each look waits for the device


class Numbered(Protocol):
    """One step of training."""

    @property
    def number(self) -> int:
        """From 0, over all epochs."""

    @property
    def which(self) -> Sequence[int]:
        """Positions of its images in the labelled set."""


Step = TypeVar("Step", bound=Numbered)
Batch = TypeVar("Batch")


def descend(
    network: nn.Module, sgd: torch.optim.SGD, steps: Sequence[Step],
    prepare: Callable[[list[Step]], Iterator[Batch]], *,
    rate: Callable[[int], float], objective: Callable[[Batch, float], Tensor], diverged: Callable[[float], str],
    epochs: int, seed: int, checkpoint: Path | None, clip: float = 0.0, parts: Sequence[Sequence[nn.Parameter]] = (),
) -> None:  # fmt: skip
    """Trains `network` in place. ValueError where the loss is infinite or not a number, in the words of `diverged`.

    rate: the learning rate of a step; objective: the loss of a batch, after so large a share of training; parts: the
    parameters whose gradients are clipped together. What is drawn is seeded by the step it is drawn for, so that a
    checkpoint needs no state of any generator: weights, momenta and the number of steps are all of it.
    """
    left = list(steps[resume(checkpoint, network, sgd) :])
    network.train()
    saved, losses = time.monotonic(), list[Tensor]()
    num_images, num_left = (sum(len(step.which) for step in some) for some in (steps, left))
    going = activity.tracked(
        left,
        "fitting",
        "images",
        num_images,
        epochs=epochs,
        done=num_images - num_left,
        size=lambda step: len(step.which),
    )
    for step, batch in zip(going, prepare(left), strict=True):
        set_rate(sgd, rate(step.number))
        with seeded(derived(seed, f"step {step.number}")):
            loss = objective(batch, step.number / len(steps))
        sgd.zero_grad()
        torch.autograd.backward(loss)
        for part in parts if clip else ():
            nn.utils.clip_grad_norm_(part, clip)
        sgd.step()
        losses.append(loss.detach())
        if step is steps[-1] or len(losses) >= FINITE_EVERY:
            if not math.isfinite(total := torch.stack(losses).sum().item()):
                raise ValueError(diverged(total))
            losses.clear()
        if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
            save(checkpoint, network, sgd, step.number + 1)
            saved = time.monotonic()
    network.eval()
    if checkpoint is not None:
        tensor_files.removed(checkpoint)


def save(path: Path, network: nn.Module, sgd: torch.optim.SGD, step: int) -> None:
    """Writes a checkpoint whole or not at all; a full disk or memory costs the checkpoint, not the fit."""
    draft = path.with_suffix(".part")
    with contextlib.suppress(OSError, RuntimeError, MemoryError):
        tensor_files.make_folder(path)
        packed = io.BytesIO()
        torch.save({"step": step, "weights": network.state_dict(), "momenta": sgd.state_dict()}, packed)
        draft.unlink(missing_ok=True)  # not through a link that somebody laid there
        draft.write_bytes(digest(path, packed.getvalue()) + packed.getvalue())
        draft.replace(path)
    tensor_files.removed(draft)


def resume(path: Path | None, network: nn.Module, sgd: torch.optim.SGD) -> int:
    """Loads a checkpoint where there is one, and returns the steps that are done.

    A damaged one is removed, which is said, and nothing else is: memory that runs out or a disk that does not answer is
    raised, since the checkpoint is the work of hours.
    """
    if path is None or not tensor_files.readable(path):
        return 0
    state = stored(path)
    if state is None or not belongs(state, network, sgd):
        tensor_files.discard(path, "its digest does not fit" if state is None else "it is of another network")
        return 0
    network.load_state_dict(state["weights"])
    sgd.load_state_dict(state["momenta"])
    return int(state["step"])


def stored(path: Path) -> dict[str, Any] | None:
    """What a checkpoint holds; None where its digest does not fit what it holds and how it is called."""
    content = path.read_bytes()
    stated, packed = content[:DIGEST], content[DIGEST:]
    if digest(path, packed) != stated:
        return None
    state = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    return state if isinstance(state, dict) else None


def digest(path: Path, packed: bytes) -> bytes:
    """SHA-256 of a checkpoint and of what its name tells: fit, seed, data, device."""
    return hashlib.sha256(path.stem.encode() + b"\0" + packed).digest()


def belongs(state: dict[str, Any], network: nn.Module, sgd: torch.optim.SGD) -> bool:
    """Whether a checkpoint is of this network and its optimiser."""
    try:
        shapes = {name: value.shape for name, value in state["weights"].items()}
        groups = [len(group["params"]) for group in state["momenta"]["param_groups"]]
        int(state["step"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    same = shapes == {name: value.shape for name, value in network.state_dict().items()}
    return same and groups == [len(group["params"]) for group in sgd.param_groups]
