"""Encoders that are trained on the pool itself without labels, from two random views of each image.

Shapes: N images, H x W pixels, K channels of a map, T patches, D features.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from benchmark.api import Encoding, Machine, Pool, activity, encoder_code_hash, seeded, tensor_files, working_seconds
from benchmark.vision.encoding.feature_maps import find_last_map, norm_shares, record_outputs
from benchmark.vision.encoding.random_views import NUM_DRAWS, random_view
from benchmark.vision.encoding.settings import Settings
from benchmark.vision.learning_rate import LearningRateSchedule
from benchmark.vision.networks import build_network, suits_channels_last
from benchmark.vision.pixels import channel_moments
from benchmark.vision.training import Precision, in_precision

Heads = TypeVar("Heads", bound=nn.Module)
Features = Callable[[Tensor], Tensor]  # from views in 0..1 to (N, D), the output of the backbone

MOMENTUM = 0.9
CONSTANT_LR_PREFIX = "predictor."  # parameters of heads with a constant learning rate: SimSiamHeads.predictor


@dataclass(frozen=True)
class FrozenBackbone:
    """An encoder: a trained backbone in eval mode.

    Patches are the positions of the backbone's last feature map of 2 x 2 positions or more. The attention of a patch is
    the norm of its features as a share of the sum over the image, equal for all patches if all norms are zero. The
    global feature is the input of the last linear layer.
    """

    size: tuple[int, int]
    backbone: nn.Module
    map_layer: nn.Module  # its output is the feature map
    mean_311: Tensor  # of the pool's pixels, on the scale 0..1
    deviation_311: Tensor
    seconds: float = 0.0  # that training took, in this process or an earlier one

    @torch.no_grad()
    def __call__(self, images_N3HW: Tensor) -> Encoding:
        """Encodes uint8 images of the encoder's size."""
        with record_outputs(self.map_layer) as maps:
            features_ND = self.backbone(self.normalise(images_N3HW.float() / 255))
        patches_NTK = maps[-1].flatten(2).transpose(1, 2)
        return Encoding(patches_NTK, norm_shares(patches_NTK), features_ND)

    def normalise(self, views_N3HW: Tensor) -> Tensor:
        """(N, 3, H, W): views in 0..1, normalised by the pool's mean and standard deviation."""
        return (views_N3HW - self.mean_311) / self.deviation_311


def train_encoder(machine: Machine, pool: Pool, settings: Settings, heads: partial[Heads]) -> FrozenBackbone:
    """Trains an encoder from scratch, or loads the weights that equal arguments gave before from `machine.scratch`.

    Equal arguments give equal weights with deterministic operations (`deterministic=true`); without them the stored
    weights keep results equal. Gradients may be switched off around the call.

    Args:
        machine: Has the device, and the folder for the weights.
        pool: The images to train on.
        settings: How to train.
        heads: Builds the heads from the number of the backbone's features. They are called with `Features` and two
            batches of views, and return the loss.

    Returns:
        The trained encoder.

    Raises:
        ValueError: The pool has fewer than two images, the network cannot take them or has no suitable feature map, or
            training diverges.
    """
    if pool.num_images < 2:
        raise ValueError(f"{settings.encoder}: a pool of {pool.num_images} images is too small to train on")
    size = settings.image_size(pool)
    weights, draws, dropout = (int(seed) for seed in np.random.default_rng(settings.seed).integers(2**63, size=3))
    with seeded(weights):
        network = build_network(settings.network_name(size), 1, size, settings.width, "none", 0.0)
        module = heads(network.head.in_features).to(machine.device)
    backbone, map_layer = network.backbone, find_last_map(network.backbone, size)
    backbone.to(machine.device)
    images_N3HW = load_pool(pool, size)
    mean_311, deviation_311 = (
        (values_3 / 255).float().view(3, 1, 1).to(images_N3HW.device) for values_3 in channel_moments(images_N3HW)
    )
    encoder = FrozenBackbone(size, backbone, map_layer, mean_311, deviation_311)
    path = weights_path(machine, images_N3HW, settings, heads.keywords)
    with exclusive_lock(path), torch.enable_grad(), seeded(dropout):
        seconds, start = restore_weights(backbone, path), working_seconds()
        if seconds is None:
            train(encoder, module, images_N3HW, settings, torch.Generator().manual_seed(draws))
            seconds = working_seconds() - start
            save_weights(backbone, path, seconds)
    backbone.eval().requires_grad_(False)
    return replace(encoder, seconds=seconds)


def load_pool(pool: Pool, size: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) uint8: all images of the pool, on its device."""
    parts = np.array_split(np.arange(pool.num_images), -(-pool.num_images // 256))
    return torch.cat([pool.images(part, size) for part in parts])


# --- weights on disk ------------------------------------------------------------------------------
def weights_path(
    machine: Machine, images_N3HW: Tensor, settings: Settings, head_parameters: Mapping[str, Any]
) -> Path | None:
    """The file for the weights, named by a hash of all that they depend on; None if there is no scratch folder."""
    if machine.scratch is None:
        return None
    pixels = hashlib.sha256(images_N3HW.cpu().numpy().data).hexdigest()
    code = encoder_code_hash(settings.encoder)
    key = f"{pixels} {settings} {code} {sorted(head_parameters.items())} {torch.__version__} {machine.device.type}"
    return machine.scratch / "encoders" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"


@contextmanager
def exclusive_lock(path: Path | None) -> Iterator[None]:
    """A `with` block that one process at a time runs for a file."""
    if path is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):  # on a disk without locks two may train
            tensor_files.make_parent(path)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
        yield


def restore_weights(backbone: nn.Module, path: Path | None) -> float | None:
    """Loads stored weights and returns the seconds that their training took; None if there are no usable ones.

    Running out of memory or a disk that does not answer raises an error, since training again would waste good weights.
    """
    contents = None if path is None else tensor_files.read(path, path.stem)
    if path is None or contents is None:
        return None
    weights, seconds = contents
    shapes, expected = (
        {name: value.shape for name, value in state.items()} for state in (weights, backbone.state_dict())
    )
    if shapes != expected:
        tensor_files.discard(path, "it is of another network")
        return None
    backbone.load_state_dict(weights)
    return seconds


def save_weights(backbone: nn.Module, path: Path | None, seconds: float) -> None:
    """Stores the weights completely or not at all; with a full disk they are not stored, and the run goes on."""
    if path is not None:
        tensor_files.write(path, path.stem, backbone.state_dict(), seconds)


# --- training -------------------------------------------------------------------------------------
def train(
    encoder: FrozenBackbone, heads: nn.Module, images_N3HW: Tensor, settings: Settings, generator: torch.Generator
) -> None:
    """Trains the backbone and the heads in place, with SGD on the loss of two views per image.

    The learning rate is `lr` per 256 images of a batch and falls along a cosine to zero.
    """
    num_images, device = len(images_N3HW), images_N3HW.device
    num_batches = max(1, min(-(-num_images // settings.batch_size), num_images // 2))
    total, features = settings.epochs * num_batches, build_extractor(encoder, settings.precision)
    lr = settings.lr * num_images / num_batches / 256
    schedule = LearningRateSchedule(lr=lr, shape="cosine")
    sgd = build_optimiser(encoder.backbone, heads, lr, settings.weight_decay)
    encoder.backbone.train()
    heads.train()
    loss = torch.zeros(())
    for epoch in activity.track(range(settings.epochs), f"training {settings.encoder}", "epochs"):
        order_N = torch.randperm(num_images, generator=generator).to(device)
        uniform_2UN = torch.rand(2, NUM_DRAWS, num_images, generator=generator).to(device)
        batches = zip(order_N.tensor_split(num_batches), uniform_2UN.tensor_split(num_batches, 2), strict=True)
        for step, (batch_N, batch_2UN) in enumerate(batches):
            progress = (epoch * num_batches + step) / total
            sgd.param_groups[0]["lr"] = schedule.rate_at(progress)
            first, second = (random_view(images_N3HW[batch_N], view_UN, settings, generator) for view_UN in batch_2UN)
            loss = heads(features, first, second)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    encoder.backbone.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as after loading
    if not math.isfinite(loss.item()):
        raise ValueError(f"{settings.encoder}[lr={settings.lr}]: training diverged (loss {loss.item()}): lower lr")


def build_optimiser(backbone: nn.Module, heads: nn.Module, lr: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with momentum and weight decay on all parameters; the second group has a constant learning rate."""
    parameters = [*backbone.named_parameters(), *heads.named_parameters()]
    groups = [
        {"params": [value for name, value in parameters if name.startswith(CONSTANT_LR_PREFIX) == is_constant]}
        for is_constant in (False, True)
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM, weight_decay=weight_decay)


def build_extractor(encoder: FrozenBackbone, precision: Precision) -> Features:
    """Builds the function that runs the backbone on normalised views; its output is float32 at any precision."""
    device = next(encoder.backbone.parameters()).device
    channels_last = precision == "bfloat16" and suits_channels_last(encoder.backbone, device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    encoder.backbone.to(memory_format=layout)  # type: ignore[call-overload]

    def features(views_N3HW: Tensor) -> Tensor:
        with in_precision(precision, views_N3HW.device):
            output_ND: Tensor = encoder.backbone(encoder.normalise(views_N3HW).contiguous(memory_format=layout))
        return output_ND.float()

    return features
