"""The training engine that the tasks of all kinds share.

It provides parameter groups (`parameter_groups`), mixed precision (`in_precision`), the companion's loss
(`add_companion_loss`), the SGD loop with a check that the loss stays finite (`train_sgd`), and checkpoints
(`save_checkpoint`, `load_checkpoint`). The learning rate over a fit is in `learning_rate`. A fit that is killed and
resumed from its checkpoint ends with the same weights, byte for byte. On a GPU the steps of a classifier run as CUDA
graphs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn

from benchmark.api import CapturedFunction, Companion, activity, can_record, seeded, tensor_files
from benchmark.vision.data_parallel import process_number
from benchmark.vision.fingerprints import derive_seed

Precision: TypeAlias = Literal["float32", "bfloat16"]
CHECKPOINT_SECONDS = 300.0  # time between checkpoints; a shorter fit writes none
DIGEST_BYTES = 32  # length of the checksum at the start of a checkpoint
STEPS_PER_LOSS_CHECK = 100  # reading losses more often would make the CPU wait for the device


def parameter_groups(
    network: nn.Module, is_special: Callable[[nn.Module, str, nn.Parameter], bool], **special: float
) -> list[dict[str, Any]]:
    """Splits the trainable parameters of a network into two optimiser groups.

    Args:
        network: the network, including its companion if it has one.
        is_special: takes a layer, the name of one of its parameters and the parameter; True puts that parameter into
            the second group.
        special: options of the second group: `weight_decay`, or `factor`, which multiplies its learning rate.

    Returns:
        Two groups as `torch.optim.SGD` takes them. Each has a `factor` (1 by default) that `set_learning_rate` reads.
    """
    groups: list[dict[str, Any]] = [{"params": [], "factor": 1.0}, {"params": [], "factor": 1.0, **special}]
    layer_and_name = {
        parameter: (layer, name)
        for layer in reversed(list(network.modules()))  # a parameter that two layers share belongs to the first
        for name, parameter in layer.named_parameters(recurse=False)
    }
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups[is_special(*layer_and_name[parameter], parameter)]["params"].append(parameter)
    return groups


def in_precision(precision: Precision, device: torch.device) -> torch.autocast:
    """Returns a context manager that runs a block in the given precision.

    Args:
        precision: `bfloat16` turns autocast on, `float32` leaves it off.
        device: the device of the tensors.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def add_companion_loss(
    loss: Tensor, module: nn.Module | None, companion: Companion | None, feature_maps: Sequence[Tensor],
    image_losses: Callable[[], Tensor], attached: bool,
) -> Tensor:  # fmt: skip
    """Adds a companion's loss to the training loss of a batch.

    Args:
        loss: the scalar training loss of the network.
        module: the companion's module in the network; None without a companion.
        companion: what the strategy trains beside the model; None without one.
        feature_maps: the feature maps that the module reads.
        image_losses: returns the (N,) losses of the images, which the companion learns to predict. It is called only
            when there is a companion.
        attached: whether the companion's gradient reaches the feature maps; see `is_attached`.

    Returns:
        The sum of both losses, or `loss` itself without a companion.
    """
    if companion is None or module is None:
        return loss
    with torch.no_grad():
        losses_N = image_losses().detach()
    output_N = module(feature_maps if attached else [stage.detach() for stage in feature_maps])
    return loss + companion.loss(output_N, losses_N)


def is_attached(companion: Companion | None, progress: float, total: float = 1.0) -> bool:
    """Whether a companion's gradient reaches the network; it does until `companion.detach_after`.

    Args:
        companion: what the strategy trains beside the model; None without one.
        progress: amount of training that is completed.
        total: amount of training in the whole fit, in the same unit.
    """
    return companion is not None and progress < companion.detach_after * total


def uses_batch_statistics(network: nn.Module) -> bool:
    """Whether some layer of a freshly built network normalises with the statistics of its training batch."""
    network.train()
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training for layer in network.modules())


def smallest_batch(num_images: int, batch_size: int) -> int:
    """Returns the size of the smallest batch when images are split into the fewest batches of nearly equal size.

    Args:
        num_images: number of images in the labelled set.
        batch_size: largest allowed batch.
    """
    return num_images // -(-num_images // batch_size)


# --- the steps ------------------------------------------------------------------------------------
class Step(Protocol):
    """One training step."""

    @property
    def number(self) -> int:
        """Number of the step, counted from 0 over all epochs."""

    @property
    def positions(self) -> Sequence[int]:
        """Images of the step, as positions in the labelled set, or in an order that is drawn when the epoch begins."""


AnyStep = TypeVar("AnyStep", bound=Step)
Batch = TypeVar("Batch")


def train_sgd(
    network: nn.Module, sgd: torch.optim.SGD, steps: Sequence[AnyStep],
    prepare: Callable[[Sequence[AnyStep]], Iterator[Batch]], *,
    learning_rate: Callable[[int], float], objective: Callable[[Batch, Any], Tensor], num_images: int, advice: str,
    epochs: int, seed: int | None, checkpoint: Path | None, clip: float = 0.0,
    phase: Callable[[int], Hashable] | None = None,
) -> None:  # fmt: skip
    """Trains a network in place with SGD and leaves it in eval mode.

    Args:
        network: the network, on its device.
        sgd: the optimiser of its parameters.
        steps: all steps of the fit.
        prepare: takes the remaining steps, which are the last ones of `steps`, and yields the batch of each.
        learning_rate: takes the number of a step and returns its learning rate.
        objective: takes a batch and the number of its step, or with `phase` the phase of that step, and returns the
            scalar loss.
        num_images: size of the labelled set, for error messages.
        advice: what the user should change when training diverges.
        epochs: number of passes over the labelled set, for the progress display.
        seed: seeds the random draws of each step separately, so that a checkpoint needs no generator state. None: all
            draws come from one stream that the caller has seeded, and the checkpoint stores its state.
        checkpoint: file in which the fit is saved every CHECKPOINT_SECONDS and from which it resumes; None disables
            checkpoints.
        clip: largest gradient norm of the network, and separately of the companion, so that a large gradient of one
            does not shrink the other's; 0 disables clipping.
        phase: takes the number of a step and returns everything but the batch that its loss depends on. A GPU then runs
            the steps as CUDA graphs: batches must be tuples of tensors, and `objective` must do what `CapturedFunction`
            demands of a function. None: steps are not recorded.

    Raises:
        ValueError: the loss is infinite or not a number.
    """
    remaining = steps[load_checkpoint(checkpoint, network, sgd, one_stream=seed is None) :]
    network.train()
    last_checkpoint, losses = time.monotonic(), list[Tensor]()
    take_step = build_step(network, sgd, objective, clip, record=phase is not None)
    for step, batch in zip(track_progress(steps, remaining, epochs), prepare(remaining), strict=True):
        set_learning_rate(sgd, learning_rate(step.number))
        with contextlib.nullcontext() if seed is None else seeded(derive_seed(seed, f"step {step.number}")):
            losses.append(take_step(batch, phase(step.number) if phase else step.number))
        if step is remaining[-1] or len(losses) >= STEPS_PER_LOSS_CHECK:
            if not math.isfinite(total := torch.stack(losses).sum().item()):
                raise ValueError(f"the fit on {num_images} images diverged (loss {total}): {advice}")
            losses.clear()
        if checkpoint is not None and time.monotonic() - last_checkpoint > CHECKPOINT_SECONDS:
            save_checkpoint(checkpoint, network, sgd, step.number + 1)
            last_checkpoint = time.monotonic()
    sgd.zero_grad()  # else the gradients hold on to memory, that of the CUDA graphs too
    network.eval()
    if checkpoint is not None:
        tensor_files.remove_file(checkpoint)


def build_step(
    network: nn.Module, sgd: torch.optim.SGD, objective: Callable[[Batch, Any], Tensor], clip: float, *, record: bool
) -> Callable[[Batch, Any], Tensor]:
    """Returns the function that takes one training step and returns its loss; see `train_sgd`."""
    parts, device = clipping_groups(network) if clip else [], device_of(network)

    def take_step(batch: Batch, phase: Any) -> Tensor:
        loss = objective(batch, phase)
        sgd.zero_grad()
        torch.autograd.backward(loss)
        for part in parts:
            nn.utils.clip_grad_norm_(part, clip)
        sgd.step()
        return loss.detach()

    if not record or not can_record(device):
        return take_step
    move_learning_rates(sgd, device)
    run = CapturedFunction(lambda phase, *tensors: take_step(cast(Batch, tensors), phase), "a training step")
    return lambda batch, phase: cast(Tensor, run(phase, *cast(tuple[Tensor, ...], batch)))


def track_progress(steps: Sequence[AnyStep], remaining: Sequence[AnyStep], epochs: int) -> Iterator[AnyStep]:
    """Yields the remaining steps and reports each of them to the progress display."""
    total, num_left = (sum(len(step.positions) for step in part) for part in (steps, remaining))
    return activity.track(
        remaining,
        "fitting",
        "images",
        total,
        epochs=epochs,
        num_done=total - num_left,
        size=lambda step: len(step.positions),
    )


def move_learning_rates(sgd: torch.optim.SGD, device: torch.device) -> None:
    """Keeps the learning rates in tensors, from which a CUDA graph reads them at every launch.

    Only the fused implementation of SGD takes them from a tensor without waiting for the GPU.
    """
    for group in sgd.param_groups:
        group["fused"], group["lr"] = True, torch.tensor(float(group["lr"]), device=device)


def set_learning_rate(sgd: torch.optim.SGD, lr: float) -> None:
    """Sets the learning rate of every parameter group, multiplied by the group's `factor` where it has one."""
    for group in sgd.param_groups:
        rate = lr * group.get("factor", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clipping_groups(network: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters whose gradients are clipped together: those of the network itself, and those of the companion."""
    of_companion = {name: name.startswith("companion.") for name, _ in network.named_parameters()}
    return [[p for name, p in network.named_parameters() if of_companion[name] == part] for part in (False, True)]


# --- checkpoints ----------------------------------------------------------------------------------
def save_checkpoint(path: Path, network: nn.Module, sgd: torch.optim.SGD, step: int) -> None:
    """Writes a checkpoint of a fit atomically.

    When the disk or the memory is full, no checkpoint is written and the fit continues. Of several processes that train
    one network, the first writes it.

    Args:
        path: file of the checkpoint. Its name is part of the checksum.
        network: the network in training.
        sgd: its optimiser, whose momenta are saved.
        step: number of completed steps.
    """
    if process_number() > 0:
        return
    draft = path.with_suffix(".part")
    with contextlib.suppress(OSError, RuntimeError, MemoryError):
        tensor_files.make_parent(path)
        packed = io.BytesIO()
        state = {"step": step, "weights": network.state_dict(), "momenta": sgd.state_dict()}
        torch.save(state | {"generators": generator_states(network)}, packed)
        draft.unlink(missing_ok=True)  # never write through a symbolic link
        draft.write_bytes(checkpoint_digest(path, packed.getvalue()) + packed.getvalue())
        draft.replace(path)
    tensor_files.remove_file(draft)


def load_checkpoint(path: Path | None, network: nn.Module, sgd: torch.optim.SGD, *, one_stream: bool = False) -> int:
    """Loads a checkpoint into a network and its optimiser, if there is one.

    A damaged checkpoint, or one of another network, is removed with a warning. Other errors, such as a lack of memory
    or a disk that does not respond, are raised and the file stays, because a checkpoint can hold hours of work.

    Args:
        path: file of the checkpoint; None for a fit without checkpoints.
        network: receives the weights.
        sgd: receives the momenta.
        one_stream: also restore the state of torch's random generators.

    Returns:
        Number of completed steps; 0 when there is no usable checkpoint.
    """
    if path is None or not tensor_files.is_readable(path):
        return 0
    state = read_checkpoint(path)
    if state is None or not checkpoint_fits(state, network, sgd):
        tensor_files.discard(path, "its digest does not fit" if state is None else "it is of another network")
        return 0
    network.load_state_dict(state["weights"])
    sgd.load_state_dict(state["momenta"])
    if one_stream:
        torch.set_rng_state(state["generators"][0])
        for generator in state["generators"][1:]:
            torch.cuda.set_rng_state(generator, device_of(network))
    return int(state["step"])


def generator_states(network: nn.Module) -> list[Tensor]:
    """The states of the torch generators that training steps draw from."""
    device = device_of(network)
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's parameters."""
    return next(network.parameters()).device


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The contents of a checkpoint file; None when its checksum does not match its contents and file name."""
    content = path.read_bytes()
    checksum, packed = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if checkpoint_digest(path, packed) != checksum:
        return None
    state = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    return state if isinstance(state, dict) else None


def checkpoint_digest(path: Path, packed: bytes) -> bytes:
    """SHA-256 of a checkpoint's contents and of its file name, which identifies the fit, seed, data and device."""
    return hashlib.sha256(path.stem.encode() + b"\0" + packed).digest()


def checkpoint_fits(state: dict[str, Any], network: nn.Module, sgd: torch.optim.SGD) -> bool:
    """Whether a checkpoint belongs to this network and optimiser."""
    try:
        shapes = {name: value.shape for name, value in state["weights"].items()}
        groups = [len(group["params"]) for group in state["momenta"]["param_groups"]]
        generators = [(generator.dtype, generator.shape) for generator in state["generators"]]
        int(state["step"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    matches = shapes == {name: value.shape for name, value in network.state_dict().items()}
    matches = matches and generators == [(generator.dtype, generator.shape) for generator in generator_states(network)]
    return matches and groups == [len(group["params"]) for group in sgd.param_groups]
