"""What frozen encoders make of a task's images, kept on disk by content.

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

SHARD_SIZE = 256  # images a file
BATCH_SIZE = 64  # images that an encoder sees at once
TENSOR_FIELDS = tuple(one.name for one in fields(Encoding) if one.name not in ("seconds", "seconds_now"))


@dataclass(frozen=True)
class InMemoryPool:
    """The pool of a task whose images are on the device."""

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
        """(N, 3, *size) uint8."""
        picked = self.images_NKHW[torch.from_numpy(np.array(indices)).to(self.images_NKHW.device)]
        return resize_images(picked, size).expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class StreamedPool:
    """The pool of a task whose images are read when they are needed."""

    num_images: int
    size: tuple[int, int]  # of the first
    read_images: Callable[[list[int]], Iterator[Tensor]]  # (3, H, W) uint8 each
    device: torch.device

    def images(self, indices: Indices, size: tuple[int, int]) -> Tensor:
        """(N, 3, *size) uint8."""
        parts = [
            resize_images(one[None].to(self.device), size) for one in self.read_images(np.asarray(indices).tolist())
        ]
        return torch.cat([torch.empty(0, 3, *size, dtype=torch.uint8, device=self.device), *parts])


def resize_images(images_NKHW: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, K, *size) uint8: bilinear, antialiased; as they are where they have that size."""
    if tuple(images_NKHW.shape[2:]) == tuple(size):
        return images_NKHW
    pixels = F.interpolate(images_NKHW.float(), size, mode="bilinear", antialias=True, align_corners=False)
    return pixels.round().clamp(0, 255).byte()


@dataclass
class Encodings:
    """The encodings of a split's images by encoders that are built on a pool.

    A shard of images is encoded when one of them is asked for, and then kept: in `machine.scratch`, under a name that
    tells the images, the encoder and PyTorch's version, or in memory without such a folder. Patches are kept in
    float16, and are what that makes of them also when they are fresh.
    """

    images: Pool
    pool: Pool
    fingerprint: str  # of both
    machine: Machine
    encoders: dict[tuple[str, str], LazyEncoder] = field(default_factory=dict)  # by label and identity
    shards: dict[Path, Encoding] = field(default_factory=dict)

    def encode(self, indices: Indices, label: EncoderName) -> Iterator[Encoding]:
        """The encodings of these images, in order, at most SHARD at a time."""
        for part in np.array_split(indices, range(SHARD_SIZE, len(indices), SHARD_SIZE)):
            numbers, rows = np.divmod(part, SHARD_SIZE)
            shards = np.unique(numbers) if len(part) else np.zeros(1, np.int64)  # one encoding also of no image
            found = [self.load_rows(int(number), rows[numbers == number], label) for number in shards]
            back = torch.from_numpy(np.argsort(np.argsort(numbers, kind="stable"), kind="stable"))
            yield select_images(concatenate(found), back.to(self.machine.device))

    def features(self, label: EncoderName) -> Tensor:
        """(N, E): the features of every image of the split."""
        return torch.cat([part.global_NE for part in self.encode(np.arange(self.images.num_images), label)])

    def load_rows(self, number: int, rows: Indices, label: EncoderName) -> Encoding:
        """Some rows of a shard, which is made now where it is not there."""
        built = self.get_encoder(label)
        path = (self.machine.scratch or Path()) / "encodings" / built.folder_name / f"{number}.safetensors"
        which = torch.from_numpy(rows)
        if path in self.shards:
            return move_to(select_images(self.shards[path], which), self.machine.device)
        known = None if self.machine.scratch is None else load_shard(path, which)
        if known is None:
            began = working_seconds()
            shard = self.encode_shard(number, built)
            if self.machine.scratch is None:
                self.shards[path] = shard
            else:
                save_shard(path, shard)
            known = replace(select_images(shard, which), seconds_now=working_seconds() - began)
        return move_to(known, self.machine.device)

    def get_encoder(self, label: EncoderName) -> LazyEncoder:
        """The encoder of that name; it is trained when a shard needs it."""
        told = encoder_identity(label, self.machine)
        if (label, told) not in self.encoders:
            parts = (
                label,
                told,
                encoder_code_hash(label),
                self.fingerprint,
                torch.__version__,
                self.machine.device.type,
            )
            name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
            self.encoders[label, told] = LazyEncoder(label, told, name)
        return self.encoders[label, told]

    @torch.no_grad()
    def encode_shard(self, number: int, encoder: LazyEncoder) -> Encoding:
        """A shard, on the CPU, and the seconds of the work; its share of the encoder's training is in them."""
        encode = encoder.build(self.pool, self.machine)
        began = working_seconds()
        which = np.arange(number * SHARD_SIZE, min((number + 1) * SHARD_SIZE, self.images.num_images))
        batches = np.array_split(which, -(-len(which) // BATCH_SIZE))
        done = activity.track(batches, f"encoding images with {encoder.label}", "batches")
        parts = [encode(self.images.images(part, encode.size)) for part in done]
        shard = concatenate([Encoding(part.patches_NTD.half(), part.attention_NT, part.global_NE) for part in parts])
        training = encoder.seconds * len(which) / self.pool.num_images
        shard = move_to(shard, torch.device("cpu"), to_float32=False)
        return replace(shard, seconds=working_seconds() - began + training)


@dataclass
class LazyEncoder:
    """An encoder that is built when it is first used."""

    label: EncoderName
    identity: str
    folder_name: str  # of its folder
    encoder: Encoder | None = None
    seconds: float = 0.0  # of building it, and of its training though that was earlier

    def build(self, pool: Pool, machine: Machine) -> Encoder:
        """The encoder. ValueError where its file of weights is no longer the one that `identity` tells."""
        if self.encoder is None:
            began = working_seconds()
            made = build_encoder(self.label, pool, machine)
            if encoder_identity(self.label, machine) != self.identity:
                raise ValueError(f"{self.label}: its file of weights was exchanged while it was read")
            self.encoder, self.seconds = made, max(working_seconds() - began, getattr(made, "seconds", 0.0))
        return self.encoder


def select_images(encoding: Encoding, which: Tensor) -> Encoding:
    """The encodings of these images; seconds of making them by their number."""
    parts = {name: getattr(encoding, name)[which] for name in TENSOR_FIELDS}
    return Encoding(
        **parts, seconds=encoding.seconds * len(which) / max(1, len(encoding)), seconds_now=encoding.seconds_now
    )


def concatenate(encodings: Sequence[Encoding]) -> Encoding:
    """One after the other."""
    parts = {name: torch.cat([getattr(one, name) for one in encodings]) for name in TENSOR_FIELDS}
    seconds, now = sum(one.seconds for one in encodings), sum(one.seconds_now for one in encodings)
    return Encoding(**parts, seconds=seconds, seconds_now=now)


def move_to(encoding: Encoding, device: torch.device, to_float32: bool = True) -> Encoding:
    """On a device; whole: in float32."""
    parts = {name: getattr(encoding, name).to(device) for name in TENSOR_FIELDS}
    return replace(encoding, **{name: one.float() if to_float32 else one for name, one in parts.items()})


def save_shard(path: Path, shard: Encoding) -> None:
    """Stores a shard, whole or not at all; a full disk loses the cache, not the run."""
    tensor_files.write(path, shard_key(path), {name: getattr(shard, name) for name in TENSOR_FIELDS}, shard.seconds)


def shard_key(path: Path) -> str:
    """What names a shard: the encoder and the images, and which of them."""
    return f"{path.parent.name}/{path.stem}"


def load_shard(path: Path, which: Tensor) -> Encoding | None:
    """Some rows of a stored shard; None where there is none that can be used.

    A damaged file is removed, and nothing else is: memory that runs out or a disk that does not answer is raised.
    """
    if not tensor_files.is_sound(path, shard_key(path)):
        return None
    try:
        with safe_open(path, "pt") as handle:
            parts = {name: handle.get_slice(name) for name in TENSOR_FIELDS}
            num_images = parts["global_NE"].get_shape()[0]
            lengths = {one.get_shape()[0] for one in parts.values()}
            if lengths != {num_images} or num_images <= max(which.tolist(), default=0):
                raise KeyError("rows are missing")
            few = 0 < len(which) * 8 < num_images
            rows = {
                n: torch.cat([one[i : i + 1] for i in which.tolist()]) if few else one[:][which]
                for n, one in parts.items()
            }
            seconds = float(handle.metadata()["seconds"])
    except FileNotFoundError:
        return None
    except tensor_files.DAMAGE_ERRORS as error:
        tensor_files.discard(path, str(error))
        return None
    return Encoding(rows["patches_NTD"], rows["attention_NT"], rows["global_NE"], seconds * len(which) / num_images)
