"""SimSiam (Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021)."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Machine, Pool, register_encoder
from benchmark.vision.encoding.self_supervised import Features, FrozenBackbone, train_encoder
from benchmark.vision.encoding.settings import Settings
from benchmark.vision.training import Precision

VERSION = 1
MAX_DIM = 2048  # outputs, if `dim` is not set
BOTTLENECK = 4  # how many times the predictor's hidden layer is narrower than its output


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

    Default values are the paper's for CIFAR-10 (appendix D), unless marked as this project's; views are those of its
    appendix A, without blur as for CIFAR-10. `FrozenBackbone` describes patches, their attention and the global
    feature.

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
        lr: Learning rate at the start, per 256 images of a batch; constant for the predictor (table 1c).
        weight_decay: Of all parameters.
        layers: Layers of the projector (the paper has 3 on ImageNet).
        dim: Hidden units and outputs of the projector; null for four times the features, at most the paper's 2048.
        smallest: The smallest area of a crop, as a share of the image's.
        flip: Whether half of the views are mirrored; false if left and right have a meaning, as in digits.
        colour: Strength of the colour jitter on 0.8 of the views; 0 turns off the jitter and the greyscale conversion,
            which otherwise 0.2 of the views undergo.
        precision: Of the backbone in training (this project's).
        seed: Of weights, order and views (this project's); it does not depend on the seed of a run.

    Raises:
        ValueError: A value is out of range, the pool or the network is unsuitable, or training diverges.

    Deviations: Those of `Settings`; the last normalisations of residual blocks start with PyTorch's default, not at
        zero.
    """
    settings = Settings(
        encoder="simsiam", version=VERSION, model=model, width=width, size=size, epochs=epochs, batch_size=batch_size,
        lr=lr, weight_decay=weight_decay, smallest=smallest, flip=flip, colour=colour, precision=precision, seed=seed,
    )  # fmt: skip
    settings.check(layers=(layers, layers >= 1, "at least 1"), dim=(dim or 0, dim is None or dim >= 4, "at least 4"))
    return train_encoder(machine, pool, settings, partial(SimSiamHeads, layers=layers, dim=dim))


class SimSiamHeads(nn.Module):
    """The projector, the predictor and the loss.

    Args:
        num_features: Outputs of the backbone.
        layers: Layers of the projector.
        dim: Outputs of the projector; None for four times the features, at most MAX_DIM.
    """

    def __init__(self, num_features: int, layers: int, dim: int | None) -> None:
        super().__init__()
        dim = dim or min(MAX_DIM, 4 * num_features)
        bottleneck = dim // BOTTLENECK
        hidden = [part for number in range(layers - 1) for part in hidden_layer(dim if number else num_features, dim)]
        last = nn.Linear(dim if hidden else num_features, dim, bias=False)
        self.projector = nn.Sequential(*hidden, last, nn.BatchNorm1d(dim, affine=False))
        self.predictor = nn.Sequential(*hidden_layer(dim, bottleneck), nn.Linear(bottleneck, dim))

    def forward(self, features: Features, first_N3HW: Tensor, second_N3HW: Tensor) -> Tensor:
        """The loss, symmetric in the views (eq. 4); each view is a batch of its own for batch normalisation."""
        first_ND, second_ND = (self.projector(features(view_N3HW)) for view_N3HW in (first_N3HW, second_N3HW))
        losses = (
            negative_cosine(self.predictor(first_ND), second_ND),
            negative_cosine(self.predictor(second_ND), first_ND),
        )
        return (losses[0] + losses[1]) / 2


def hidden_layer(num_inputs: int, num_outputs: int) -> list[nn.Module]:
    """A linear layer with batch normalisation and ReLU."""
    return [nn.Linear(num_inputs, num_outputs, bias=False), nn.BatchNorm1d(num_outputs), nn.ReLU()]


def negative_cosine(predicted_ND: Tensor, target_ND: Tensor) -> Tensor:
    """The negative cosine similarity (eq. 1), the mean over images.

    Args:
        predicted_ND: The predictor's outputs for one view.
        target_ND: The projector's outputs for the other view; no gradient reaches them.
    """
    return -F.cosine_similarity(predicted_ND, target_ND.detach(), dim=1).mean()
