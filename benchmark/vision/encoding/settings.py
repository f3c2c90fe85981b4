"""The settings that all self-supervised encoders share."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.api import Pool
from benchmark.vision.networks import PROBES
from benchmark.vision.training import Precision

MAX_SIDE = 64  # pixels per side, if `size` is not set
MIN_RESNET_SIDE = 16  # pixels per side; smaller images get small_cnn, if `model` is not set


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The training settings that all self-supervised encoders share. Each encoder has its own default values.

    Args:
        encoder: The name of the encoder.
        version: The version of the encoder.
        model: The network, any that tasks accept; None for small_cnn below 16 pixels per side, else resnet18.
        width: Channels of the first of resnet18's four stages.
        size: Pixels per side; None keeps images of at most 64 pixels per side and resizes others to 64 x 64.
        epochs: Number of epochs.
        batch_size: Images per batch; each has two views.
        lr: Learning rate at the start, per 256 images of a batch.
        weight_decay: Of all parameters.
        smallest: The smallest area of a crop, as a share of the image's.
        flip: Whether half of the views are mirrored; False if left and right have a meaning, as in digits.
        colour: Strength of the colour jitter on 0.8 of the views; 0 turns off the jitter and the greyscale conversion,
            which otherwise 0.2 of the views undergo.
        precision: Of the backbone in training.
        seed: Of weights, order and views. It does not depend on the seed of a run, so one encoder serves a whole grid.

    Deviations: Common to all encoders: the views of a batch share the order of their colour changes; crops longer than
        the image are cut and not drawn again; the sizes of an epoch's batches differ by at most one image, and no image
        is left out; the learning rate falls at every step; pixels are normalised by the statistics of the pool.
    """

    encoder: str
    version: int
    model: str | None
    width: int
    size: int | None
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    smallest: float
    flip: bool
    colour: float
    precision: Precision
    seed: int

    def check(self, **more_ranges: tuple[float, bool, str]) -> None:
        """Checks that all values are in range.

        Args:
            more_ranges: By name of a further parameter: its value, whether it is in range, and the range in words.

        Raises:
            ValueError: Names the first value that is out of range.
        """
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
        for name, (value, is_in_range, description) in ranges.items():
            if not is_in_range:
                raise ValueError(f"{self.encoder}[{name}={value}]: must be {description}")

    def image_size(self, pool: Pool) -> tuple[int, int]:
        """Height and width of the images that the encoder takes, from its settings or the pool."""
        if self.size is not None:
            return self.size, self.size
        return pool.size if max(pool.size) <= MAX_SIDE else (MAX_SIDE, MAX_SIDE)

    def network_name(self, image_size: tuple[int, int]) -> str:
        """The name of the network. Raises ValueError if it cannot be trained, or if `width` has no effect on it."""
        model = self.model or ("small_cnn" if max(image_size) < MIN_RESNET_SIDE else "resnet18")
        if model in PROBES:
            raise ValueError(f"{self.encoder}[model={model}]: has no weights to train, choose another model")
        if model != "resnet18" and self.width != 64:
            raise ValueError(f"{self.encoder}[width={self.width}]: has no effect with model={model}")
        return model
