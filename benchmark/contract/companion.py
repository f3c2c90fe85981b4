"""What a strategy trains beside the model: the protocol of a companion. Shapes: N images.

A companion is written in the file of its strategy, which passes it to `@register(companion=...)`;
`strategies/learning_loss.py` is an example. `vision/training.py` trains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn


class Companion(Protocol):
    """What a strategy trains beside the model: a frozen dataclass, whose repr is part of the fit's identity."""

    @property
    def detach_after(self) -> float:
        """The share of training after which the companion's gradient no longer reaches the model (0: it never does)."""

    def module(self, channels: Sequence[int]) -> nn.Module:
        """Builds a new module that maps feature maps, (N, channels[i], H_i, W_i) from stage i of the model, to (N,).

        Args:
            channels: the number of channels of each stage's feature map.
        """

    def loss(self, output_N: Tensor, losses_N: Tensor) -> Tensor:
        """Returns the scalar that is added to the training loss.

        Args:
            output_N: (N,) the output of the module for a batch.
            losses_N: (N,) the model's losses on that batch, without a gradient.
        """
