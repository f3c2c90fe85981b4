"""The derivative of each image's loss along one direction of the weights, for about three times the price of a
prediction.

Multiply the change s of a layer's weights w by a number e of its own for each image: the output of a convolution or a
linear layer is op(x, w) + e op(x, s), and dL/de at e = 0 is the derivative along s of that image's loss, summed over
layers. So one forward pass with both products and one backward pass to e alone give those of a whole batch, in any
precision; no gradient of a weight is formed. A Jacobian-vector product is the same number; in PyTorch it takes two to
three times as long and knows no autocast.

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
    """The layers whose weights a direction changes."""

    def __init__(self, model: nn.Module, direction: Mapping[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        change = {id(parameters[name]): tangent for name, tangent in direction.items()}
        users = {
            module: id(module.weight) for module in model.modules() if id(getattr(module, "weight", None)) in change
        }
        self.tangents = {module: change[weight] for module, weight in users.items()}
        plain = all(type(module) in (nn.Conv2d, nn.Linear) for module in users)
        self.are_supported = plain and set(users.values()) == change.keys()
        self._called, self._folded = set[nn.Module](), False

    @property
    def were_all_called(self) -> bool:
        """Whether the last probed pass went through all of them, an image a row: a layer may be used without being
        called, or see an image in several rows (where those happen to be as many as there are images, it is missed)."""
        return self._called == self.tangents.keys() and not self._folded

    @contextmanager
    def inject_tangents(self, strength_N: Tensor) -> Iterator[None]:
        """In here each layer adds strength x (its product with the change), where strength is zero: no value differs,
        and the gradient of `strength_N` is the derivative along the direction."""
        self._called, self._folded = set(), False

        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            self._called.add(module)
            if len(output) != len(strength_N):
                self._folded = True
                return output
            with torch.no_grad():
                product = apply_weight(module, inputs[0], self.tangents[module])
            added: Tensor = AddTangent.apply(output, product, strength_N)  # type: ignore[no-untyped-call]
            return added

        with ExitStack() as stack:
            for module in self.tangents:
                stack.callback(module.register_forward_hook(hook).remove)
            yield


def apply_weight(layer: nn.Module, inputs: Tensor, weight: Tensor) -> Tensor:
    """A layer's linear map with other weights."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight)
    assert isinstance(layer, nn.Conv2d)
    product: Tensor = layer._conv_forward(inputs, weight, None)
    return product


class AddTangent(Function):
    """output + strength_N product, where strength is zero: the output as it is."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, product: Tensor, strength_N: Tensor) -> Tensor:
        """The output, unchanged."""
        ctx.save_for_backward(product)
        ctx.dtype = strength_N.dtype
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor]:
        """That of the output, and the inner product with `product` of each image."""
        (gradient,) = gradients
        (product,) = ctx.saved_tensors
        return gradient, None, (gradient * product).sum(tuple(range(1, product.ndim)), dtype=ctx.dtype)
