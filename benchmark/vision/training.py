"""The training engine of classifiers, detectors and segmenters: what a fit is, apart from its network and its images.

Parameter groups (`parameter_groups`), learning rate (`Schedule`), precision (`in_precision`), companion
(`with_companion`), the steps themselves with a check that the loss stays finite (`train_sgd`), and a checkpoint, from
which a killed fit ends in the same bytes (`save`, `resume`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from benchmark.api import Companion, activity, seeded, tensor_files
from benchmark.vision.fingerprints import derive_seed

Precision: TypeAlias = Literal["float32", "bfloat16"]
CHECKPOINT_SECONDS = 300.0  # what a killed fit loses at most; one that takes less leaves no checkpoint
DIGEST_BYTES = 32  # bytes of the checksum that a checkpoint begins with
STEPS_PER_LOSS_CHECK = 100  # steps after which losses are looked at: each look waits for the device


# --- what a recipe says ---------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class LearningRateSchedule:
    """The learning rate from the first step to the last: a warm-up, and how it falls.

    How far training is counts in any unit, steps or shares of the whole; `warmup` and `drops` are in the same.

    Args:
        lr: The learning rate that the others multiply.
        shape: cosine: falls to zero along half a cosine; poly: as (what is left) ** power; step: at `drops`.
        power: Of poly.
        drops: Where step multiplies the rate by `decay`, each time.
        decay: Of step.
        warmup: How long the warm-up takes; 0: there is none.
        start: Share of the rate that the warm-up begins with.
        rises: Whether the warm-up rises along a line from there to the whole, or stays until it is over.
        apart: Whether the fall begins when the warm-up ends, which then rises from zero, or both run from the start.
    """

    lr: float
    shape: Literal["cosine", "poly", "step"]
    power: float = 1.0
    milestones: Sequence[float] = ()
    decay: float = 0.1
    warmup: float = 0.0
    warmup_start: float = 0.0
    linear_warmup: bool = True
    decay_after_warmup: bool = False

    def rate_at(self, progress: float, total: float = 1.0) -> float:
        """The learning rate of a step before which `done` of `total` are over."""
        if self.decay_after_warmup and progress < self.warmup:
            return self.lr * progress / self.warmup
        warm = 1.0
        if progress < self.warmup:
            warm = self.warmup_start + (1 - self.warmup_start) * (progress / self.warmup if self.linear_warmup else 0.0)
        return self.lr * warm * self._decay_factor(progress, total)

    def _decay_factor(self, progress: float, total: float) -> float:
        """What is left of the rate."""
        if self.shape == "step":
            return float(self.decay ** sum(progress >= drop for drop in self.milestones))
        begin = self.warmup if self.decay_after_warmup else 0
        if self.shape == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (progress - begin) / (total - begin)))
        return float((1 - (progress - begin) / (total - begin)) ** self.power)


def parameter_groups(
    network: nn.Module, is_special: Callable[[nn.Module, str, nn.Parameter], bool], **special: float
) -> list[dict[str, Any]]:
    """The parameters that are trained, in two groups for an optimiser.

    Args:
        network: Whose parameters; the companion's are among them.
        is_special: From a layer and the name and the parameter in it, whether the parameter is of the second group.
        special: Options of the second group: `weight_decay`, or `factor`, which multiplies its learning rate.
    """
    groups: list[dict[str, Any]] = [{"params": [], "factor": 1.0}, {"params": [], "factor": 1.0, **special}]
    owned = {
        parameter: (layer, name)
        for layer in reversed(list(network.modules()))  # one that two layers share is the first one's
        for name, parameter in layer.named_parameters(recurse=False)
    }
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups[is_special(*owned[parameter], parameter)]["params"].append(parameter)
    return groups


def in_precision(precision: Precision, device: torch.device) -> torch.autocast:
    """A block in the precision that a recipe says."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def add_companion_loss(
    loss: Tensor, module: nn.Module | None, companion: Companion | None, feature_maps: Sequence[Tensor],
    image_losses: Callable[[], Tensor], progress: float, total: float = 1.0,
) -> Tensor:  # fmt: skip
    """The loss of a batch, and what the companion adds to it.

    Args:
        loss: What the network is trained on.
        module: What the companion made, as the network has it; None without a companion.
        companion: What a strategy trains beside the model.
        maps: The feature maps that the module reads. Its gradient reaches them until `companion.detach_after`.
        losses: Gives (N,) losses of the images, which the companion is to predict; only called where there is one.
        done, total: How far training is, in any unit.
    """
    if companion is None or module is None:
        return loss
    with torch.no_grad():
        losses_N = image_losses().detach()
    attached = progress < companion.detach_after * total
    output_N = module(feature_maps if attached else [stage.detach() for stage in feature_maps])
    return loss + companion.loss(output_N, losses_N)


def uses_batch_statistics(network: nn.Module) -> bool:
    """Whether a layer of the network, which is a fresh one, takes its statistics from the batch in training."""
    network.train()
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training for layer in network.modules())


def smallest_batch(num_images: int, batch_size: int) -> int:
    """Images in the smallest of the fewest equal batches, give or take one image, of at most `batch_size`."""
    return num_images // -(-num_images // batch_size)


# --- the steps ------------------------------------------------------------------------------------
class Step(Protocol):
    """One step of training."""

    @property
    def number(self) -> int:
        """From 0, over all epochs."""

    @property
    def positions(self) -> Sequence[int]:
        """Its images: positions in the labelled set, or in an order that is drawn when it is their turn."""


AnyStep = TypeVar("AnyStep", bound=Step)
Batch = TypeVar("Batch")


def train_sgd(
    network: nn.Module, sgd: torch.optim.SGD, steps: Sequence[AnyStep],
    prepare: Callable[[Sequence[AnyStep]], Iterator[Batch]], *,
    learning_rate: Callable[[int], float], objective: Callable[[Batch, int], Tensor], num_images: int, advice: str,
    epochs: int, seed: int | None, checkpoint: Path | None, clip: float = 0.0,
) -> None:  # fmt: skip
    """Trains a network in place, and leaves it in eval mode.

    Args:
        network: On its device.
        sgd: Its optimiser.
        steps: All steps of the fit.
        prepare: From the steps that are left, which are the last ones, the batch of each.
        rate: The learning rate of a step, by its number.
        objective: The loss of a batch in the step of a number.
        num_images: In the labelled set.
        advice: What to change where training diverges.
        epochs: Passes over the labelled set, for people who watch.
        seed: Seeds what is drawn in each step, by its number, so that a checkpoint needs no state of any generator.
            None: what is drawn is one stream from the caller's seed, whose state the checkpoint keeps.
        checkpoint: Where work in progress is saved every CHECKPOINT_SECONDS and looked for; None: nowhere.
        clip: Largest norm of the network's gradient, and of the companion's, which would shrink the network's if both
            were clipped together; 0: any.

    Raises:
        ValueError: The loss is infinite or not a number.
    """
    left = steps[load_checkpoint(checkpoint, network, sgd, one_stream=seed is None) :]
    network.train()
    saved, losses = time.monotonic(), list[Tensor]()
    parts = clipping_groups(network) if clip else []
    for step, batch in zip(track_progress(steps, left, epochs), prepare(left), strict=True):
        set_learning_rate(sgd, learning_rate(step.number))
        with contextlib.nullcontext() if seed is None else seeded(derive_seed(seed, f"step {step.number}")):
            loss = objective(batch, step.number)
        sgd.zero_grad()
        torch.autograd.backward(loss)
        for part in parts:
            nn.utils.clip_grad_norm_(part, clip)
        sgd.step()
        losses.append(loss.detach())
        if step is left[-1] or len(losses) >= STEPS_PER_LOSS_CHECK:
            if not math.isfinite(total := torch.stack(losses).sum().item()):
                raise ValueError(f"the fit on {num_images} images diverged (loss {total}): {advice}")
            losses.clear()
        if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
            save_checkpoint(checkpoint, network, sgd, step.number + 1)
            saved = time.monotonic()
    network.eval()
    if checkpoint is not None:
        tensor_files.remove_file(checkpoint)


def track_progress(steps: Sequence[AnyStep], remaining: Sequence[AnyStep], epochs: int) -> Iterator[AnyStep]:
    """The steps that are left, one by one, each counted."""
    total, num_left = (sum(len(step.positions) for step in some) for some in (steps, remaining))
    return activity.track(
        remaining,
        "fitting",
        "images",
        total,
        epochs=epochs,
        num_done=total - num_left,
        size=lambda step: len(step.positions),
    )


def set_learning_rate(sgd: torch.optim.SGD, lr: float) -> None:
    """Sets the learning rate of every parameter, times its group's `factor` where it has one."""
    for group in sgd.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)


def clipping_groups(network: nn.Module) -> list[list[nn.Parameter]]:
    """The network's own parameters, and the companion's."""
    of_companion = {name: name.startswith("companion.") for name, _ in network.named_parameters()}
    return [[p for name, p in network.named_parameters() if of_companion[name] == part] for part in (False, True)]


# --- checkpoints ----------------------------------------------------------------------------------
def save_checkpoint(path: Path, network: nn.Module, sgd: torch.optim.SGD, step: int) -> None:
    """Writes a checkpoint whole or not at all; a full disk or memory costs the checkpoint, not the fit."""
    draft = path.with_suffix(".part")
    with contextlib.suppress(OSError, RuntimeError, MemoryError):
        tensor_files.make_parent(path)
        packed = io.BytesIO()
        state = {"step": step, "weights": network.state_dict(), "momenta": sgd.state_dict()}
        torch.save(state | {"generators": generator_states(network)}, packed)
        draft.unlink(missing_ok=True)  # not through a link that somebody laid there
        draft.write_bytes(checkpoint_digest(path, packed.getvalue()) + packed.getvalue())
        draft.replace(path)
    tensor_files.remove_file(draft)


def load_checkpoint(path: Path | None, network: nn.Module, sgd: torch.optim.SGD, *, one_stream: bool = False) -> int:
    """Loads a checkpoint where there is one, torch's generators with `one_stream`, and returns the steps that are done.

    A damaged one is removed, which is said, and nothing else is: memory that runs out or a disk that does not answer is
    raised, since the checkpoint is the work of hours.
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
    """The states of torch's generators that a step draws from."""
    device = device_of(network)
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def device_of(network: nn.Module) -> torch.device:
    """Where its parameters are."""
    return next(network.parameters()).device


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """What a checkpoint holds; None where its digest does not fit what it holds and how it is called."""
    content = path.read_bytes()
    stated, packed = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if checkpoint_digest(path, packed) != stated:
        return None
    state = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    return state if isinstance(state, dict) else None


def checkpoint_digest(path: Path, packed: bytes) -> bytes:
    """SHA-256 of a checkpoint and of what its name tells: fit, seed, data, device."""
    return hashlib.sha256(path.stem.encode() + b"\0" + packed).digest()


def checkpoint_fits(state: dict[str, Any], network: nn.Module, sgd: torch.optim.SGD) -> bool:
    """Whether a checkpoint is of this network and its optimiser."""
    try:
        shapes = {name: value.shape for name, value in state["weights"].items()}
        groups = [len(group["params"]) for group in state["momenta"]["param_groups"]]
        drawn = [(one.dtype, one.shape) for one in state["generators"]]
        int(state["step"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    same = shapes == {name: value.shape for name, value in network.state_dict().items()}
    same = same and drawn == [(one.dtype, one.shape) for one in generator_states(network)]
    return same and groups == [len(group["params"]) for group in sgd.param_groups]
