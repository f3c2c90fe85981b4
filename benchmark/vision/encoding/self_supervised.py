"""Encoders that are trained on the pool itself, without labels: two views of each image, training, what is kept.

Shapes: N images, H x W pixels, K channels of a map, T patches, D features; U uniform numbers a view.
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
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from benchmark.api import Encoding, Machine, Pool, activity, encoder_code_hash, seeded, tensor_files, working_seconds
from benchmark.vision.networks import PROBE, build_network, suits_channels_last
from benchmark.vision.pixels import channel_moments
from benchmark.vision.training import LearningRateSchedule, Precision, in_precision

Heads = TypeVar("Heads", bound=nn.Module)
Features = Callable[[Tensor], Tensor]  # from views in 0..1 to (N, D), the backbone's output

MAX_SIDE = 64  # pixels a side, where images are not of one small size
MIN_RESNET_SIDE = 16  # pixels a side, below which small_cnn is the network
MAX_LOG_ASPECT = math.log(4 / 3)  # of a crop, at most, wide or high
JITTER_SHARE, GREY_SHARE = 0.8, 0.2  # shares of views
JITTER_STRENGTHS = (0.8, 0.8, 0.8, 0.2)  # of brightness, contrast, saturation and hue, at strength 1
NUM_DRAWS = 11  # uniform numbers a view: 4 for the crop, mirrored?, jittered?, 4 for the jitter, grey?
LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue
MOMENTUM = 0.9
CONSTANT_LR_PREFIX = "predictor."  # parameters of the heads whose learning rate is not decayed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an encoder is trained; the parameters that all have. Each has its own defaults.

    Common deviations from the papers: the views of a batch share the order of their changes of colour, crops longer
    than the image are cut and not drawn again, an epoch's batches have equal sizes (give or take one image) and leave
    no image out, the learning rate falls at every step, pixels are normalised by the pool's own moments.
    """

    encoder: str  # its name
    version: int
    model: str | None  # any that tasks take; None: small_cnn for images of fewer than 16 pixels a side, else resnet18
    width: int  # channels of the first of resnet18's four stages
    size: int | None  # pixels a side; None: images of at most 64 a side as they are, others squashed to 64 x 64
    epochs: int
    batch_size: int  # images of two views each
    lr: float  # at the start, a 256 images of a batch
    weight_decay: float  # of all parameters
    smallest: float  # area of a crop, as a share of the image's
    flip: bool  # mirror half of the views: not where left and right have a meaning, as in digits
    colour: float  # strength of jitter, on 0.8 of the views; 0: neither jitter nor grey (else 0.2 of the views)
    precision: Precision  # of the backbone in training
    seed: int  # of weights, order and views, whatever the seed of a run: one encoder serves a grid

    def check(self, **more_ranges: tuple[float, bool, str]) -> None:
        """ValueError names a value out of range; `more`: value, whether it is in range, and that range."""
        ranges = {
            "width": (self.width, self.width >= 1, "at least 1"),
            "size": (self.size or 0, self.size is None or self.size >= 2, "null or at least 2"),
            "epochs": (self.epochs, self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size, self.batch_size >= 2, "at least 2"),
            "lr": (self.lr, self.lr > 0, "positive"),
            "weight_decay": (self.weight_decay, self.weight_decay >= 0, "at least 0"),
            "smallest": (self.smallest, 0 < self.smallest <= 1, "in (0, 1]"),
            "colour": (self.colour, 0 <= self.colour <= 1, "in [0, 1]"),
            "seed": (self.seed, self.seed >= 0, "at least 0"),
            **more_ranges,
        }
        for name, (value, good, words) in ranges.items():
            if not good:
                raise ValueError(f"{self.encoder}[{name}={value}]: must be {words}")

    def image_size(self, pool: Pool) -> tuple[int, int]:
        """Height and width of the images."""
        if self.size is not None:
            return self.size, self.size
        return pool.size if max(pool.size) <= MAX_SIDE else (MAX_SIDE, MAX_SIDE)

    def network_name(self, image_size: tuple[int, int]) -> str:
        """The network's name. ValueError where it is none, or `width` has no effect on it."""
        model = self.model or ("small_cnn" if max(image_size) < MIN_RESNET_SIDE else "resnet18")
        if model == PROBE:
            raise ValueError(f"{self.encoder}[model={model}]: is no network of its own")
        if model != "resnet18" and self.width != 64:
            raise ValueError(f"{self.encoder}[width={self.width}]: has no effect with model={model}")
        return model


@dataclass(frozen=True)
class FrozenBackbone:
    """The encoder: a trained backbone in eval mode."""

    size: tuple[int, int]
    backbone: nn.Module
    map_layer: nn.Module  # whose output is the map of patches
    mean_311: Tensor  # of the pool's pixels, on the scale 0..1
    deviation_311: Tensor
    seconds: float = 0.0  # that training took, whenever that was

    @torch.no_grad()
    def __call__(self, images_N3HW: Tensor) -> Encoding:
        """Patches: the places of the backbone's last map of 2 x 2 or more. Attention: the norm of a patch's features as
        a share of the image's; all are equal where all norms are zero. Global: the input of the last linear layer."""
        with record_outputs(self.map_layer) as maps:
            features_ND = self.backbone(self.normalise(images_N3HW.float() / 255))
        patches_NTK = maps[-1].flatten(2).transpose(1, 2)
        norm_NT = patches_NTK.norm(dim=2)
        without_N1 = (norm_NT.sum(1, keepdim=True) == 0).float()
        return Encoding(patches_NTK, F.normalize(norm_NT + without_N1, p=1, dim=1), features_ND)

    def normalise(self, views_N3HW: Tensor) -> Tensor:
        """(N, 3, H, W): views in 0..1, by the pool's mean and deviation."""
        return (views_N3HW - self.mean_311) / self.deviation_311


def train_encoder(machine: Machine, pool: Pool, settings: Settings, heads: partial[Heads]) -> FrozenBackbone:
    """An encoder trained from scratch, or with the weights that equal arguments gave before, kept in `machine.scratch`.

    Equal arguments give equal weights on a device whose operations repeat themselves (`deterministic=true`); elsewhere
    the kept ones see to it. No gradient need be switched on around it.
    heads: from the number of the backbone's features, a module that is called with `Features` and two batches of views
        and gives the loss.
    Raises ValueError for fewer than two images, a network that does not take them or has no map, and a diverging loss.
    """
    if pool.num_images < 2:
        raise ValueError(f"{settings.encoder}: a pool of {pool.num_images} images is nothing to train on")
    size = settings.image_size(pool)
    weights, draws, dropout = (int(seed) for seed in np.random.default_rng(settings.seed).integers(2**63, size=3))
    with seeded(weights):
        network = build_network(settings.network_name(size), 1, size, settings.width, "none", 0.0)
        module = heads(network.head.in_features).to(machine.device)
    backbone, stage = network.backbone, find_last_map(network.backbone, size)
    backbone.to(machine.device)
    images_N3HW = load_pool(pool, size)
    mean_311, deviation_311 = (
        (values_3 / 255).float().view(3, 1, 1).to(images_N3HW.device) for values_3 in channel_moments(images_N3HW)
    )
    frozen = FrozenBackbone(size, backbone, stage, mean_311, deviation_311)
    path = weights_path(machine, images_N3HW, settings, heads.keywords)
    with exclusive_lock(path), torch.enable_grad(), seeded(dropout):
        seconds, began = restore_weights(backbone, path), working_seconds()
        if seconds is None:
            train(frozen, module, images_N3HW, settings, torch.Generator().manual_seed(draws))
            seconds = working_seconds() - began
            save_weights(backbone, path, seconds)
    backbone.eval().requires_grad_(False)
    return replace(frozen, seconds=seconds)


def load_pool(pool: Pool, size: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) uint8: the whole pool, on its device."""
    parts = np.array_split(np.arange(pool.num_images), -(-pool.num_images // 256))
    return torch.cat([pool.images(part, size) for part in parts])


# --- weights on disk ------------------------------------------------------------------------------
def weights_path(
    machine: Machine, images_N3HW: Tensor, settings: Settings, head_parameters: Mapping[str, Any]
) -> Path | None:
    """The file of the weights, named by all that decides them; None without a folder for it."""
    if machine.scratch is None:
        return None
    pixels = hashlib.sha256(images_N3HW.cpu().numpy().data).hexdigest()
    code = encoder_code_hash(settings.encoder)
    words = f"{pixels} {settings} {code} {sorted(head_parameters.items())} {torch.__version__} {machine.device.type}"
    return machine.scratch / "encoders" / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.safetensors"


@contextmanager
def exclusive_lock(path: Path | None) -> Iterator[None]:
    """Runs a block while no other process runs it for this file."""
    if path is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):  # a disk that takes none: then two may train the same
            tensor_files.make_parent(path)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
        yield


def restore_weights(backbone: nn.Module, path: Path | None) -> float | None:
    """Loads the kept weights; the seconds that their training took, None where there are none that can be used.

    Memory that runs out or a disk that does not answer is raised: training anew would cost what is there.
    """
    stored = None if path is None else tensor_files.read(path, path.stem)
    if path is None or stored is None:
        return None
    weights, seconds = stored
    if {n: one.shape for n, one in weights.items()} != {n: one.shape for n, one in backbone.state_dict().items()}:
        tensor_files.discard(path, "it is of another network")
        return None
    backbone.load_state_dict(weights)
    return seconds


def save_weights(backbone: nn.Module, path: Path | None, seconds: float) -> None:
    """Keeps the weights, whole or not at all; a full disk loses them, not the run."""
    if path is not None:
        tensor_files.write(path, path.stem, backbone.state_dict(), seconds)


# --- the map of patches ---------------------------------------------------------------------------
@contextmanager
def record_outputs(*modules: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of these modules while the block runs, in order."""
    outputs: list[Tensor] = []
    handles = [one.register_forward_hook(lambda module, given, output: outputs.append(output)) for one in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def find_last_map(backbone: nn.Module, size: tuple[int, int]) -> nn.Module:
    """The module whose output is the last map (N, K, h, w) of the images' shape and of 2 x 2 places or more.

    ValueError where there is none.
    """
    found: list[nn.Module] = []

    def look(module: nn.Module, given: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            height, width = output.shape[2:]
            if min(height, width) > 1 and abs(height * size[1] - width * size[0]) < max(size):
                found.append(module)

    handles = [module.register_forward_hook(look) for module in backbone.modules()]
    backbone.eval()(torch.zeros(1, 3, *size))
    for handle in handles:
        handle.remove()
    if not found:
        raise ValueError(f"this model has no map of 2x2 places or more for images of {size[0]}x{size[1]} pixels")
    return found[-1]


# --- training -------------------------------------------------------------------------------------
def train(
    frozen: FrozenBackbone, heads: nn.Module, images_N3HW: Tensor, settings: Settings, generator: torch.Generator
) -> None:
    """SGD on the loss of two views: the learning rate, `lr` a 256 images of a batch, falls along a cosine to zero.

    Trains the backbone and the heads in place.
    """
    num_images, device = len(images_N3HW), images_N3HW.device
    num_batches = max(1, min(-(-num_images // settings.batch_size), num_images // 2))
    total, features = settings.epochs * num_batches, build_extractor(frozen, settings.precision)
    lr = settings.lr * num_images / num_batches / 256
    schedule = LearningRateSchedule(lr=lr, shape="cosine")
    sgd = build_optimiser(frozen.backbone, heads, lr, settings.weight_decay)
    frozen.backbone.train()
    heads.train()
    loss = torch.zeros(())
    for epoch in activity.track(range(settings.epochs), f"training {settings.encoder}", "epochs"):
        which_N = torch.randperm(num_images, generator=generator).to(device)
        drawn_2UN = torch.rand(2, NUM_DRAWS, num_images, generator=generator).to(device)
        batches = zip(which_N.tensor_split(num_batches), drawn_2UN.tensor_split(num_batches, 2), strict=True)
        for step, (part_N, uniform_2UN) in enumerate(batches):
            progress = (epoch * num_batches + step) / total
            sgd.param_groups[0]["lr"] = schedule.rate_at(progress)
            first, second = (random_view(images_N3HW[part_N], one_UN, settings, generator) for one_UN in uniform_2UN)
            loss = heads(features, first, second)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    frozen.backbone.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as when it is restored
    if not math.isfinite(loss.item()):
        raise ValueError(f"{settings.encoder}[lr={settings.lr}]: training diverged (loss {loss.item()}): lower lr")


def build_optimiser(backbone: nn.Module, heads: nn.Module, lr: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with momentum, weight decay on everything; the second group is what keeps its learning rate."""
    named = [*backbone.named_parameters(), *heads.named_parameters()]
    groups = [
        {"params": [one for name, one in named if name.startswith(CONSTANT_LR_PREFIX) == steady]}
        for steady in (False, True)
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM, weight_decay=weight_decay)


def build_extractor(frozen: FrozenBackbone, precision: Precision) -> Features:
    """The backbone on normalised views; float32 out, whatever the precision inside."""
    short = precision == "bfloat16"
    last = short and suits_channels_last(frozen.backbone, next(frozen.backbone.parameters()).device)
    layout = torch.channels_last if last else torch.contiguous_format
    frozen.backbone.to(memory_format=layout)  # type: ignore[call-overload]

    def features(views_N3HW: Tensor) -> Tensor:
        with in_precision(precision, views_N3HW.device):
            output_ND: Tensor = frozen.backbone(frozen.normalise(views_N3HW).contiguous(memory_format=layout))
        return output_ND.float()

    return features


# --- views ----------------------------------------------------------------------------------------
def random_view(images_N3HW: Tensor, uniform_UN: Tensor, settings: Settings, generator: torch.Generator) -> Tensor:
    """(N, 3, H, W) in 0..1: a random crop at the images' size, mirrored, its colours jittered, or grey.

    The four changes of colour come in one random order a call.
    """
    boxes_N4 = crop_boxes(uniform_UN[:4], (images_N3HW.shape[2], images_N3HW.shape[3]), settings.smallest)
    views_N3HW = crop_images(images_N3HW.float() / 255, boxes_N4, uniform_UN[4] < 0.5 * settings.flip)
    if not settings.colour:
        return views_N3HW
    spread_4N = (2 * uniform_UN[6:10] - 1) * settings.colour * (uniform_UN[5] < JITTER_SHARE)
    for number in torch.randperm(4, generator=generator).tolist():
        views_N3HW = COLOUR_CHANGES[number](
            views_N3HW, (spread_4N[number] * JITTER_STRENGTHS[number]).view(-1, 1, 1, 1)
        )
    return torch.where((uniform_UN[10] < GREY_SHARE).view(-1, 1, 1, 1), to_grey(views_N3HW), views_N3HW)


def crop_boxes(uniform_4N: Tensor, size: tuple[int, int], smallest: float) -> Tensor:
    """(N, 4): y, x, height and width of crops in whole pixels.

    Their area is uniform in smallest..1 of the image's, the logarithm of their aspect uniform; what is longer than the
    image is cut to it.
    """
    most_2 = torch.tensor(size, device=uniform_4N.device, dtype=uniform_4N.dtype)
    area_N = (smallest + (1 - smallest) * uniform_4N[0]) * most_2.prod()
    aspect_N = ((2 * uniform_4N[1] - 1) * MAX_LOG_ASPECT).exp()
    sides_N2 = torch.stack([(area_N / aspect_N).sqrt(), (area_N * aspect_N).sqrt()], 1).round().clamp(min=1)
    sides_N2 = sides_N2.minimum(most_2)
    corner_N2 = (uniform_4N[2:].T * (most_2 - sides_N2 + 1)).floor().minimum(most_2 - sides_N2)
    return torch.cat([corner_N2, sides_N2], 1)


def crop_images(images_N3HW: Tensor, boxes_N4: Tensor, flip_N: Tensor) -> Tensor:
    """(N, 3, H, W): each crop at the size of the images (bilinear, no pixel from beyond the crop), some mirrored."""
    height, width = images_N3HW.shape[2:]
    rows_NH = sample_positions(boxes_N4[:, 0], boxes_N4[:, 2], height)
    columns_NW = sample_positions(boxes_N4[:, 1], boxes_N4[:, 3], width)
    columns_NW = torch.where(flip_N[:, None], columns_NW.flip(1), columns_NW)
    grid = torch.broadcast_tensors(columns_NW[:, None], rows_NH[:, :, None])
    return F.grid_sample(images_N3HW, torch.stack(grid, 3), padding_mode="border", align_corners=False)


def sample_positions(start_N: Tensor, length_N: Tensor, num: int) -> Tensor:
    """(N, num): where `num` even steps from `start` on for `length` pixels read a side of `num` pixels, as -1..1."""
    steps_num = torch.arange(num, device=start_N.device) + 0.5
    inside_Nn = (steps_num * (length_N[:, None] / num) - 0.5).clamp(min=0).minimum(length_N[:, None] - 1)
    return (2 * (start_N[:, None] + inside_Nn) + 1) / num - 1


def to_grey(images_N3HW: Tensor) -> Tensor:
    """(N, 3, H, W): three times the luma."""
    luma_3 = torch.tensor(LUMA, device=images_N3HW.device, dtype=images_N3HW.dtype)
    return torch.einsum("nchw,c->nhw", images_N3HW, luma_3)[:, None].expand(-1, 3, -1, -1)


def adjust_brightness(images_N3HW: Tensor, by_N111: Tensor) -> Tensor:
    """Away from black."""
    return (images_N3HW * (1 + by_N111)).clamp(0, 1)


def adjust_contrast(images_N3HW: Tensor, by_N111: Tensor) -> Tensor:
    """Away from the mean of the grey image."""
    mean_N111 = to_grey(images_N3HW)[:, :1].mean((2, 3), keepdim=True)
    return (images_N3HW + by_N111 * (images_N3HW - mean_N111)).clamp(0, 1)


def adjust_saturation(images_N3HW: Tensor, by_N111: Tensor) -> Tensor:
    """Away from the grey image."""
    return (images_N3HW + by_N111 * (images_N3HW - to_grey(images_N3HW))).clamp(0, 1)


def adjust_hue(images_N3HW: Tensor, by_N111: Tensor) -> Tensor:
    """The hue turned by a share of the full circle, value and chroma as they are."""
    red, green, blue = images_N3HW.unbind(1)
    value = images_N3HW.amax(1)
    chroma = value - images_N3HW.amin(1)
    some = torch.where(chroma == 0, 1, chroma)
    sixths = torch.where(value == green, (blue - red) / some + 2, (red - green) / some + 4)
    sixths = torch.where(value == red, (green - blue) / some, sixths)
    offset_311 = torch.tensor([5.0, 3.0, 1.0], device=value.device).view(3, 1, 1)
    angle_N3HW = (offset_311 + sixths[:, None] + 6 * by_N111).remainder(6)
    return value[:, None] - chroma[:, None] * angle_N3HW.minimum(4 - angle_N3HW).clamp(0, 1)


COLOUR_CHANGES = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
