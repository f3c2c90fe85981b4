"""Encodes a task's images with frozen encoders and caches the encodings on disk, named by their content.

Shapes: N images, H x W pixels, K channels, T patches, D and E features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from benchmark.api import (
    Encoder,
    EncoderName,
    Encoding,
    Indices,
    Machine,
    Pool,
    activity,
    build_encoder,
    encoder_code_hash,
    encoder_identity,
    tensor_files,
    working_seconds,
)

SHARD_SIZE = 256  # images per file
BATCH_SIZE = 64  # images that are encoded at once
TENSOR_FIELDS = tuple(part.name for part in fields(Encoding) if part.name not in ("seconds", "seconds_now"))


@dataclass(frozen=True)
class InMemoryPool:
    """A pool whose images are on the device."""

    images_NKHW: Tensor  # uint8

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.images_NKHW)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of all images."""
        return self.images_NKHW.shape[2], self.images_NKHW.shape[3]

    def images(self, indices: Indices, size: tuple[int, int]) -> Tensor:
        """Images in RGB at one size.

        Args:
            indices: N positions in the pool.
            size: Height and width; images of another size are resized.

        Returns:
            (N, 3, *size) uint8 on the device.
        """
        selected_NKHW = self.images_NKHW[torch.from_numpy(np.array(indices)).to(self.images_NKHW.device)]
        return resize_images(selected_NKHW, size).expand(-1, 3, -1, -1)

    def originals(self, indices: Indices) -> Iterator[Tensor]:
        """Yields images in RGB at their own size, (3, H, W) uint8 each.

        Args:
            indices: N positions in the pool.
        """
        yield from self.images(indices, self.size)


@dataclass(frozen=True)
class StreamedPool:
    """A pool whose images are read when they are needed."""

    num_images: int
    size: tuple[int, int]  # height and width of the first image
    read_images: Callable[[list[int]], Iterator[Tensor]]  # from positions to (3, H, W) uint8 each
    device: torch.device

    def images(self, indices: Indices, size: tuple[int, int]) -> Tensor:
        """Images in RGB at one size.

        Args:
            indices: N positions in the pool.
            size: Height and width; images of another size are resized.

        Returns:
            (N, 3, *size) uint8 on the device.
        """
        images = self.read_images(np.asarray(indices).tolist())
        parts = [resize_images(image[None].to(self.device), size) for image in images]
        return torch.cat([torch.empty(0, 3, *size, dtype=torch.uint8, device=self.device), *parts])

    def originals(self, indices: Indices) -> Iterator[Tensor]:
        """Yields images at their own sizes, (3, H, W) uint8 each.

        Args:
            indices: N positions in the pool.
        """
        return self.read_images(np.asarray(indices).tolist())


def resize_images(images_NKHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes images bilinearly with antialiasing, without regard to their aspect.

    Args:
        images_NKHW: (N, K, H, W) uint8.
        size: Height and width.

    Returns:
        (N, K, *size) uint8; the same tensor if it has that size already.
    """
    if tuple(images_NKHW.shape[2:]) == tuple(size):
        return images_NKHW
    pixels = F.interpolate(images_NKHW.float(), size, mode="bilinear", antialias=True, align_corners=False)
    return pixels.round().clamp(0, 255).byte()


@dataclass
class Encodings:
    """The encodings of images by encoders that are built on a pool, cached in shards of SHARD_SIZE images.

    A shard is computed when one of its images is needed, and then cached: in `machine.scratch`, in a folder named by a
    hash of the images, the encoder and PyTorch's version, or in memory if there is no such folder. Patches are cached
    in float16; fresh ones are rounded to float16 too, so that both are equal.

    Args:
        images: The images to encode.
        pool: The pool that encoders are built on.
        fingerprint: A hash of both.
        machine: Has the device and the folder of the cache.
    """

    images: Pool
    pool: Pool
    fingerprint: str
    machine: Machine
    encoders: dict[tuple[str, str], LazyEncoder] = field(default_factory=dict)  # by label and identity
    shards: dict[Path, Encoding] = field(default_factory=dict)

    def encode(self, indices: Indices, label: EncoderName) -> Iterator[Encoding]:
        """Encodes images in order.

        Args:
            indices: Positions of the images.
            label: The encoder with its parameters.

        Returns:
            Encodings of at most SHARD_SIZE images each; one of no image if `indices` is empty.
        """
        for part in np.array_split(indices, range(SHARD_SIZE, len(indices), SHARD_SIZE)):
            numbers, rows = np.divmod(part, SHARD_SIZE)
            shards = np.unique(numbers) if len(part) else np.zeros(1, np.int64)
            encodings = [self.load_rows(int(number), rows[numbers == number], label) for number in shards]
            original_order = torch.from_numpy(np.argsort(np.argsort(numbers, kind="stable"), kind="stable"))
            yield select_images(concatenate(encodings), original_order.to(self.machine.device))

    def features(self, label: EncoderName) -> Tensor:
        """Encodes all images for a linear probe.

        Args:
            label: The encoder with its parameters.

        Returns:
            (N, E): the global features.
        """
        return torch.cat([part.global_NE for part in self.encode(np.arange(self.images.num_images), label)])

    def load_rows(self, number: int, rows: Indices, label: EncoderName) -> Encoding:
        """Loads some rows of a shard; computes and caches the shard if needed."""
        encoder = self.get_encoder(label)
        path = (self.machine.scratch or Path()) / "encodings" / encoder.folder_name / f"{number}.safetensors"
        positions = torch.from_numpy(rows)
        if path in self.shards:
            return move_to(select_images(self.shards[path], positions), self.machine.device)
        encoding = None if self.machine.scratch is None else load_shard(path, positions)
        if encoding is None:
            start = working_seconds()
            shard = self.encode_shard(number, encoder)
            if self.machine.scratch is None:
                self.shards[path] = shard
            else:
                save_shard(path, shard)
            encoding = replace(select_images(shard, positions), seconds_now=working_seconds() - start)
        return move_to(encoding, self.machine.device)

    def get_encoder(self, label: EncoderName) -> LazyEncoder:
        """The encoder of that label, which is built when a shard needs it."""
        identity = encoder_identity(label, self.machine)
        if (label, identity) not in self.encoders:
            code, device = encoder_code_hash(label), self.machine.device.type
            parts = (label, identity, code, self.fingerprint, torch.__version__, device)
            name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
            self.encoders[label, identity] = LazyEncoder(label, identity, name)
        return self.encoders[label, identity]

    @torch.no_grad()
    def encode_shard(self, number: int, encoder: LazyEncoder) -> Encoding:
        """Computes a shard, on the CPU. Its `seconds` include the shard's share of the encoder's training."""
        encode = encoder.build(self.pool, self.machine)
        start = working_seconds()
        indices = np.arange(number * SHARD_SIZE, min((number + 1) * SHARD_SIZE, self.images.num_images))
        batches = np.array_split(indices, -(-len(indices) // BATCH_SIZE))
        tracked = activity.track(batches, f"encoding images with {encoder.label}", "batches")
        parts = [encode(self.load_images(batch, encode)) for batch in tracked]
        shard = concatenate([Encoding(part.patches_NTD.half(), part.attention_NT, part.global_NE) for part in parts])
        training_seconds = encoder.seconds * len(indices) / self.pool.num_images
        shard = move_to(shard, torch.device("cpu"), to_float32=False)
        return replace(shard, seconds=working_seconds() - start + training_seconds)

    def load_images(self, indices: Indices, encoder: Encoder) -> Tensor:
        """(N, 3, *size) uint8: images as an encoder takes them, by its own preprocessing if it has one."""
        prepare = getattr(encoder, "prepare", None)
        if prepare is None:
            return self.images.images(indices, encoder.size)
        images_N3HW: Tensor = prepare(self.images.originals(indices)).to(self.machine.device)
        return images_N3HW


@dataclass
class LazyEncoder:
    """An encoder that is built when it is first used."""

    label: EncoderName
    identity: str  # a hash of its file of weights
    folder_name: str  # of its cached shards
    encoder: Encoder | None = None
    seconds: float = 0.0  # of building it, including a training that took place earlier

    def build(self, pool: Pool, machine: Machine) -> Encoder:
        """Returns the encoder. Raises ValueError if its file of weights changed since `identity` was computed."""
        if self.encoder is None:
            start = working_seconds()
            encoder = build_encoder(self.label, pool, machine)
            if encoder_identity(self.label, machine) != self.identity:
                raise ValueError(f"{self.label}: its file of weights was replaced while it was read")
            self.encoder, self.seconds = encoder, max(working_seconds() - start, getattr(encoder, "seconds", 0.0))
        return self.encoder


def select_images(encoding: Encoding, positions: Tensor) -> Encoding:
    """The encodings of some images, with `seconds` in proportion to their number."""
    parts = {name: getattr(encoding, name)[positions] for name in TENSOR_FIELDS}
    seconds = encoding.seconds * len(positions) / max(1, len(encoding))
    return Encoding(**parts, seconds=seconds, seconds_now=encoding.seconds_now)


def concatenate(encodings: Sequence[Encoding]) -> Encoding:
    """Concatenates encodings and adds up their seconds."""
    parts = {name: torch.cat([getattr(part, name) for part in encodings]) for name in TENSOR_FIELDS}
    seconds, seconds_now = sum(part.seconds for part in encodings), sum(part.seconds_now for part in encodings)
    return Encoding(**parts, seconds=seconds, seconds_now=seconds_now)


def move_to(encoding: Encoding, device: torch.device, to_float32: bool = True) -> Encoding:
    """Moves an encoding to a device, and to float32 unless `to_float32` is False."""
    parts = {name: getattr(encoding, name).to(device) for name in TENSOR_FIELDS}
    return replace(encoding, **{name: part.float() if to_float32 else part for name, part in parts.items()})


def save_shard(path: Path, shard: Encoding) -> None:
    """Writes a shard completely or not at all; with a full disk it is not cached, and the run goes on."""
    tensor_files.write(path, shard_key(path), {name: getattr(shard, name) for name in TENSOR_FIELDS}, shard.seconds)


def shard_key(path: Path) -> str:
    """The name that is stored in a shard's file: the encoder and the images, and the number of the shard."""
    return f"{path.parent.name}/{path.stem}"


def load_shard(path: Path, positions: Tensor) -> Encoding | None:
    """Loads some rows of a cached shard; None if there is no usable one.

    Only a damaged file is removed; running out of memory or a disk that does not answer raises an error.
    """
    if not tensor_files.is_sound(path, shard_key(path)):
        return None
    try:
        with safe_open(path, "pt") as handle:
            parts = {name: handle.get_slice(name) for name in TENSOR_FIELDS}
            num_images = parts["global_NE"].get_shape()[0]
            lengths = {part.get_shape()[0] for part in parts.values()}
            if lengths != {num_images} or num_images <= max(positions.tolist(), default=0):
                raise KeyError("rows are missing")
            few = 0 < len(positions) * 8 < num_images
            rows = {
                name: torch.cat([part[i : i + 1] for i in positions.tolist()]) if few else part[:][positions]
                for name, part in parts.items()
            }
            seconds = float(handle.metadata()["seconds"])
    except FileNotFoundError:
        return None
    except tensor_files.DAMAGE_ERRORS as error:
        tensor_files.discard(path, str(error))
        return None
    seconds = seconds * len(positions) / num_images
    return Encoding(rows["patches_NTD"], rows["attention_NT"], rows["global_NE"], seconds)
