"""SimSiam (Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021)."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Machine, Pool, register_encoder
from benchmark.vision.encoding.self_supervised import Features, FrozenBackbone, Settings, train_encoder
from benchmark.vision.training import Precision

VERSION = 1
MAX_DIM = 2048  # outputs, where their number is not given
BOTTLENECK = 4  # the predictor's hidden layer is so many times narrower than its output


@register_encoder(version=VERSION)
def simsiam(
    machine: Machine,
    pool: Pool,
    *,
    model: str | None = None,
    width: int = 64,
    size: int | None = None,
    epochs: int = 800,
    batch_size: int = 512,
    lr: float = 0.03,
    weight_decay: float = 5e-4,
    layers: int = 2,
    dim: int | None = None,
    smallest: float = 0.2,
    flip: bool = True,
    colour: float = 0.5,
    precision: Precision = "bfloat16",
    seed: int = 0,
) -> FrozenBackbone:
    """A network that learned to predict one view of an image from another.

    The defaults are the paper's for CIFAR-10 (appendix D), the views those of its appendix A without blur, as there,
    but for what is called ours. What an image's patches, their attention and its global feature are: `Frozen`.
    epochs, batch_size: of training; a batch has two views of each image. lr: at the start, a 256 images of a batch;
        constant for the predictor (table 1c). weight_decay: of all parameters.
    layers: of the projector (on ImageNet 3). dim: its hidden units and its outputs; null: four times the features, 2048
        (the paper's) at most.
    All others: `Settings`, where what null stands for, precision and seed are ours.
    Deviations: those of `Settings`; the last normalisations of residual blocks start as PyTorch has them, not at zero.
    """
    settings = Settings(
        encoder="simsiam", version=VERSION, model=model, width=width, size=size, epochs=epochs, batch_size=batch_size,
        lr=lr, weight_decay=weight_decay, smallest=smallest, flip=flip, colour=colour, precision=precision, seed=seed,
    )  # fmt: skip
    settings.check(layers=(layers, layers >= 1, "at least 1"), dim=(dim or 0, dim is None or dim >= 4, "at least 4"))
    return train_encoder(machine, pool, settings, partial(SimSiamHeads, layers=layers, dim=dim))


class SimSiamHeads(nn.Module):
    """Projector and predictor, for a backbone of so many features."""

    def __init__(self, num_features: int, layers: int, dim: int | None) -> None:
        super().__init__()
        dim = dim or min(MAX_DIM, 4 * num_features)
        narrow = dim // BOTTLENECK
        hidden = [part for number in range(layers - 1) for part in hidden_layer(dim if number else num_features, dim)]
        last = nn.Linear(dim if hidden else num_features, dim, bias=False)
        self.projector = nn.Sequential(*hidden, last, nn.BatchNorm1d(dim, affine=False))
        self.predictor = nn.Sequential(*hidden_layer(dim, narrow), nn.Linear(narrow, dim))

    def forward(self, features: Features, first_N3HW: Tensor, second_N3HW: Tensor) -> Tensor:
        """The loss, symmetric in the two views (eq. 4). Batch normalisation sees one view at a time."""
        first_ND, second_ND = (self.projector(features(one)) for one in (first_N3HW, second_N3HW))
        losses = (
            negative_cosine(self.predictor(first_ND), second_ND),
            negative_cosine(self.predictor(second_ND), first_ND),
        )
        return (losses[0] + losses[1]) / 2


def hidden_layer(num_inputs: int, num_outputs: int) -> list[nn.Module]:
    """Linear, normalised, rectified."""
    return [nn.Linear(num_inputs, num_outputs, bias=False), nn.BatchNorm1d(num_outputs), nn.ReLU()]


def negative_cosine(predicted_ND: Tensor, target_ND: Tensor) -> Tensor:
    """Minus the cosine of the angle between them (eq. 1), the mean over images; no gradient reaches the target."""
    return -F.cosine_similarity(predicted_ND, target_ND.detach(), dim=1).mean()
