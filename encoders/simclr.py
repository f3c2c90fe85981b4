"""SimCLR (Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020)."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Machine, Pool, register_encoder
from benchmark.vision.encoding.self_supervised import Features, FrozenBackbone, train_encoder
from benchmark.vision.encoding.settings import Settings
from benchmark.vision.training import Precision

VERSION = 1


@register_encoder(version=VERSION)
def simclr(
    machine: Machine,
    pool: Pool,
    *,
    model: str | None = None,
    width: int = 64,
    size: int | None = None,
    epochs: int = 500,
    batch_size: int = 512,
    lr: float = 0.2,
    weight_decay: float = 1e-4,
    temperature: float = 0.1,
    dim: int = 128,
    smallest: float = 0.2,
    flip: bool = True,
    colour: float = 0.5,
    precision: Precision = "bfloat16",
    seed: int = 0,
) -> FrozenBackbone:
    """A network that learned to distinguish the views of one image from those of other images.

    Default values are those of TypiClust's and ProbCover's code for CIFAR-10, unless marked as this project's.
    `FrozenBackbone` describes patches, their attention and the global feature.

    Args:
        machine: Has the device, and the folder for the trained weights.
        pool: The images to train on.
        model: The network, any that tasks accept; null for small_cnn below 16 pixels per side, else resnet18 (this
            project's).
        width: Channels of the first of resnet18's four stages.
        size: Pixels per side; null keeps images of at most 64 pixels per side and resizes others to 64 x 64 (this
            project's).
        epochs: Number of epochs.
        batch_size: Images per batch; each has two views.
        lr: Learning rate at the start, per 256 images of a batch; the authors' 0.4 is for 512.
        weight_decay: Of all parameters.
        temperature: Of the loss.
        dim: Outputs of the head; its hidden layer is as wide as the features.
        smallest: The smallest area of a crop, as a share of the image's.
        flip: Whether half of the views are mirrored; false if left and right have a meaning, as in digits.
        colour: Strength of the colour jitter on 0.8 of the views; 0 turns off the jitter and the greyscale conversion,
            which otherwise 0.2 of the views undergo.
        precision: Of the backbone in training (this project's).
        seed: Of weights, order and views (this project's); it does not depend on the seed of a run.

    Raises:
        ValueError: A value is out of range, the pool or the network is unsuitable, or training diverges.

    Deviations: From that code: those of `Settings`; the cosine schedule ends at zero, not at a thousandth of lr. The
        paper also has blur, LARS and larger batches.
    """
    settings = Settings(
        encoder="simclr", version=VERSION, model=model, width=width, size=size, epochs=epochs, batch_size=batch_size,
        lr=lr, weight_decay=weight_decay, smallest=smallest, flip=flip, colour=colour, precision=precision, seed=seed,
    )  # fmt: skip
    settings.check(temperature=(temperature, temperature > 0, "positive"), dim=(dim, dim >= 1, "at least 1"))
    return train_encoder(machine, pool, settings, partial(SimClrHead, temperature=temperature, dim=dim))


class SimClrHead(nn.Module):
    """The projection head and the loss.

    Args:
        num_features: Outputs of the backbone.
        temperature: Of the loss.
        dim: Outputs of the head.
    """

    def __init__(self, num_features: int, temperature: float, dim: int) -> None:
        super().__init__()
        self.temperature = temperature
        self.head = nn.Sequential(nn.Linear(num_features, num_features), nn.ReLU(), nn.Linear(num_features, dim))

    def forward(self, features: Features, first_N3HW: Tensor, second_N3HW: Tensor) -> Tensor:
        """The loss of a batch; both views are in one batch for batch normalisation."""
        return nt_xent(self.head(features(torch.cat([first_N3HW, second_N3HW]))), self.temperature)


def nt_xent(output_MD: Tensor, temperature: float) -> Tensor:
    """The normalised, temperature-scaled cross-entropy (eq. 1), the mean over M views.

    Views i and i + M/2 are of one image; each must have a larger cosine with the other than with all further views.

    Args:
        output_MD: The outputs of the head for M views.
        temperature: Divides the cosines.
    """
    unit_MD = F.normalize(output_MD, dim=1)
    is_itself_MM = torch.eye(len(unit_MD), dtype=torch.bool, device=unit_MD.device)
    logits_MM = (unit_MD @ unit_MD.T / temperature).masked_fill(is_itself_MM, -torch.inf)
    partner_M = torch.arange(len(unit_MD), device=unit_MD.device).roll(len(unit_MD) // 2)
    return F.cross_entropy(logits_MM, partner_M)
