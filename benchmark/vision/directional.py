"""Directional derivatives of per-image losses along a direction in weight space.

The derivative of every image's loss in a batch costs about as much as three predictions. Let s be the change of a
layer's weights w along the direction, and give each image a scalar e that multiplies this change. A convolution or
linear layer then outputs op(x, w) + e op(x, s), and dL/de at e = 0, summed over layers, is the derivative of that
image's loss along s. One forward pass with both products and one backward pass to e give the derivatives of the whole
batch in any precision, without forming a gradient of the weights. A Jacobian-vector product gives the same number, but
in PyTorch it takes two to three times as long and does not support autocast.

Shapes: N images of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function


class DirectionLayers:
    """The layers of a model whose weights a direction changes.

    Args:
        model: the model.
        direction: a tensor for each changed parameter, by parameter name.
    """

    def __init__(self, model: nn.Module, direction: Mapping[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        changes = {id(parameters[name]): tangent for name, tangent in direction.items()}
        users = {
            module: id(module.weight) for module in model.modules() if id(getattr(module, "weight", None)) in changes
        }
        self.tangents = {module: changes[weight] for module, weight in users.items()}
        are_plain = all(type(module) in (nn.Conv2d, nn.Linear) for module in users)
        # Whether each changed parameter is the weight of a plain convolution or linear layer.
        self.are_supported = are_plain and set(users.values()) == changes.keys()
        self._called, self._has_extra_rows = set[nn.Module](), False

    @property
    def were_all_called(self) -> bool:
        """Whether the last pass under `inject_tangents` called every layer with one row per image.

        A model may use a layer's weight without calling the layer, or feed it several rows per image. If the number of
        rows happens to equal the number of images, the second case is not detected.
        """
        return self._called == self.tangents.keys() and not self._has_extra_rows

    @contextmanager
    def inject_tangents(self, strength_N: Tensor) -> Iterator[None]:
        """Adds to each layer's output, inside the block, strength x (the layer's product with the change of its
        weights).

        The strength is zero, so no output changes; the gradient of `strength_N` is the derivative along the direction.
        """
        self._called, self._has_extra_rows = set(), False

        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            self._called.add(module)
            if len(output) != len(strength_N):
                self._has_extra_rows = True
                return output
            with torch.no_grad():
                product = apply_weight(module, inputs[0], self.tangents[module])
            result: Tensor = AddTangent.apply(output, product, strength_N)  # type: ignore[no-untyped-call]
            return result

        with ExitStack() as stack:
            for module in self.tangents:
                stack.callback(module.register_forward_hook(hook).remove)
            yield


def apply_weight(layer: nn.Module, inputs: Tensor, weight: Tensor) -> Tensor:
    """Applies a layer's linear map with other weights and without a bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight)
    assert isinstance(layer, nn.Conv2d)
    product: Tensor = layer._conv_forward(inputs, weight, None)
    return product


class AddTangent(Function):
    """Computes output + strength_N * product for a strength of zero, so the output itself is returned."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, product: Tensor, strength_N: Tensor) -> Tensor:
        """Returns the output unchanged."""
        ctx.save_for_backward(product)
        ctx.dtype = strength_N.dtype
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor]:
        """Returns the gradient of the output, and each image's inner product of the gradient with `product`."""
        (gradient,) = gradients
        (product,) = ctx.saved_tensors
        return gradient, None, (gradient * product).sum(tuple(range(1, product.ndim)), dtype=ctx.dtype)
