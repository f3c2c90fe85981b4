"""Directional derivatives, compared with Jacobian-vector products and with one backward pass per image."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from benchmark.api import Machine
from benchmark.tasks.digits import DEFAULT, digits
from benchmark.vision.classification import Classifier
from benchmark.vision.classification.task import jvp_derivatives
from benchmark.vision.directional import DirectionLayers
from benchmark.vision.networks import Network


class Standardised(nn.Conv2d):
    """A subclass of a convolution, which may do anything with its weight."""

    def forward(self, inputs: Tensor) -> Tensor:
        """A product with the weight less its mean."""
        return self._conv_forward(inputs, self.weight - self.weight.mean(), self.bias)


class Aside(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's product."""
        return F.linear(inputs, self.inner.weight, self.inner.bias)


class Folded(nn.Module):
    """Feeds a layer three rows per image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's products, put together again."""
        rows: Tensor = self.inner(inputs.reshape(-1, 2))
        return rows.reshape(inputs.shape)


class Twice(nn.Module):
    """Calls one layer twice, and a second layer that shares its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """Three products with one weight."""
        return self.second(self.first(self.first(inputs).relu()).relu())


def network(kind: str) -> Network:
    """Convolutions with strides, groups, dilation, padding by reflection and in-place activations, then `kind`."""
    last = {
        "plain": nn.Linear(6, 6), "aside": Aside(), "folded": Folded(), "twice": Twice(),
        "kind of its own": nn.Identity(),
    }[kind]  # fmt: skip
    third = (Standardised if kind == "kind of its own" else nn.Conv2d)(6, 6, 3, bias=False)
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, padding="same", groups=3, padding_mode="reflect"),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        third,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        last,
    )
    return Network(backbone, 6, 10, dropout=0.5).eval()


@pytest.fixture(scope="module")
def small_classifier(machine: Machine) -> Classifier:
    """Digits for a ResNet-18, in bfloat16."""
    recipe = dataclasses.replace(DEFAULT, model="resnet18", width=8, epochs=10, precision="bfloat16", dropout=0.0)
    return digits(machine, recipe)


def in_float32(task: Classifier) -> Classifier:
    """The same task, everything in float32."""
    other = copy.copy(task)
    other._recipe, other._memo = dataclasses.replace(task._recipe, precision="float32"), None
    return other


@pytest.mark.parametrize("kind", ["plain", "aside", "folded", "twice", "kind of its own"])
def test_every_network_has_the_derivatives_of_a_jacobian_vector_product(
    small_classifier: Classifier, kind: str
) -> None:
    torch.manual_seed(0)
    task, model = in_float32(small_classifier), network(kind)
    task.batch_size = 20
    indices, targets = np.arange(50), torch.rand(50, 10)
    direction = {name: torch.randn_like(weight) for name, weight in task.weights(model).items()}
    images_N3HW = task._prepare_inputs(task._images[:50])
    got_N, want_N = (
        task.directional(model, indices, targets, direction),
        jvp_derivatives(model, images_N3HW, targets, direction),
    )
    assert want_N.std() > 0.1
    torch.testing.assert_close(got_N, want_N, rtol=1e-4, atol=1e-5 * want_N.abs().max().item())


def test_layers_of_a_kind_of_their_own_are_told_from_plain_ones() -> None:
    supported = {}
    for kind in ("plain", "aside", "folded", "twice", "kind of its own"):
        model = network(kind)
        layers = DirectionLayers(model, {name: p for name, p in model.named_parameters() if p.ndim > 1})
        with layers.inject_tangents(torch.zeros(2, requires_grad=True)):
            model(torch.rand(2, 3, 16, 16))
        supported[kind] = layers.are_supported, layers.were_all_called
    assert supported == {
        "plain": (True, True),
        "aside": (True, False),
        "folded": (True, False),
        "twice": (True, True),
        "kind of its own": (False, True),
    }


def test_a_probe_changes_no_output_and_is_gone_afterwards() -> None:
    model, images_N3HW = network("plain"), torch.rand(4, 3, 16, 16)
    before = model(images_N3HW)
    layers = DirectionLayers(model, {"head.weight": torch.ones_like(model.head.weight)})
    with layers.inject_tangents(torch.zeros(4, requires_grad=True)):
        assert torch.equal(model(images_N3HW), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_ranking_survives_bfloat16(small_classifier: Classifier) -> None:
    """At least 97 % of the most helpful quarter of images are the same as in float32."""
    order_N = np.random.default_rng(0).permutation(small_classifier.num_pool)
    model, pool, held_out = small_classifier.fit(np.sort(order_N[:300]), 0), np.sort(order_N[400:]), order_N[300:400]
    weights = small_classifier.weights(model)
    gradients = torch.autograd.grad(small_classifier.losses(model, held_out).sum(), list(weights.values()))
    direction, targets = dict(zip(weights, gradients, strict=True)), small_classifier.pseudo_labels(model, pool, 1)
    half_N, full_N = (
        task.directional(model, pool, targets, direction).numpy()
        for task in (small_classifier, in_float32(small_classifier))
    )
    assert not np.array_equal(half_N, full_N)
    assert spearmanr(half_N, full_N).statistic > 0.98  # values near zero swap places
    quarter = len(pool) // 4
    best = [set((-values_N).argsort()[:quarter].tolist()) for values_N in (half_N, full_N)]
    assert len(best[0] & best[1]) >= 0.97 * quarter
