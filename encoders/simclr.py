"""SimCLR (Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020)."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Machine, Pool, register_encoder
from benchmark.vision.encoding.self_supervised import Features, FrozenBackbone, Settings, train_encoder
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
    """A network that learned to tell views of one image from views of others.

    The defaults are those of TypiClust's and ProbCover's code for CIFAR-10, but for what is called ours. What an
    image's patches, their attention and its global feature are: `Frozen`.
    epochs, batch_size: of training; a batch has two views of each image. lr: at the start, a 256 images of a batch:
        theirs is 0.4 for 512. weight_decay: of all parameters.
    temperature: of the loss. dim: outputs of the head; its hidden layer is as wide as the features.
    All others: `Settings`, where what null stands for, precision and seed are ours.
    Deviations from that code: those of `Settings`; the cosine ends at zero, not at a thousandth of lr. SimCLR's own has
    blur, LARS and more images in a batch.
    """
    settings = Settings(
        encoder="simclr", version=VERSION, model=model, width=width, size=size, epochs=epochs, batch_size=batch_size,
        lr=lr, weight_decay=weight_decay, smallest=smallest, flip=flip, colour=colour, precision=precision, seed=seed,
    )  # fmt: skip
    settings.check(temperature=(temperature, temperature > 0, "positive"), dim=(dim, dim >= 1, "at least 1"))
    return train_encoder(machine, pool, settings, partial(SimClrHead, temperature=temperature, dim=dim))


class SimClrHead(nn.Module):
    """The head, for a backbone of so many features."""

    def __init__(self, num_features: int, temperature: float, dim: int) -> None:
        super().__init__()
        self.temperature = temperature
        self.head = nn.Sequential(nn.Linear(num_features, num_features), nn.ReLU(), nn.Linear(num_features, dim))

    def forward(self, features: Features, first_N3HW: Tensor, second_N3HW: Tensor) -> Tensor:
        """The loss. Batch normalisation sees both views at once."""
        return nt_xent(self.head(features(torch.cat([first_N3HW, second_N3HW]))), self.temperature)


def nt_xent(output_MD: Tensor, temperature: float) -> Tensor:
    """The normalised, temperature-scaled cross-entropy (eq. 1) of M views, the mean over them.

    View i and view i + M/2 are of one image: each must be told from all other views by its cosine.
    """
    unit_MD = F.normalize(output_MD, dim=1)
    itself_MM = torch.eye(len(unit_MD), dtype=torch.bool, device=unit_MD.device)
    logits_MM = (unit_MD @ unit_MD.T / temperature).masked_fill(itself_MM, -torch.inf)
    partner_M = torch.arange(len(unit_MD), device=unit_MD.device).roll(len(unit_MD) // 2)
    return F.cross_entropy(logits_MM, partner_M)
