"""Networks of pycls, the library of ISAL's code: their stages and initial weights, our ResNet-18 beside pycls's, and
grid=model_agnostic on digits. Slow, because CI installs pycls with the other extras, after the fast tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark import config
from benchmark.api import Machine
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.vision.classification.task import jvp_derivatives
from benchmark.vision.networks import build_network, resnet18
from tests._cells import cell, run

pytest.importorskip("pycls.models.regnet")
pytestmark = pytest.mark.slow
discovery.discover()
CPU = Machine(torch.device("cpu"))
MODELS = ("pycls:RegNetX-200MF-CIFAR", "pycls:ResNet-20")


class Widths(nn.Module):
    """A companion's module that records the channels of the stage maps."""

    def module(self, channels: list[int]) -> nn.Module:
        self.channels = channels
        return nn.Identity()


def test_regnets_have_the_published_sizes() -> None:
    sizes = {"X-200MF": 2.7, "X-400MF": 5.2, "Y-200MF": 3.2, "Y-800MF": 6.3}  # millions, in pycls's model zoo
    for name, millions in sizes.items():
        network = build_network(f"pycls:RegNet{name}", 1000, (224, 224), 64, "none", 0.0)
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("model", "millions", "num_features", "channels", "sides"),
    [
        ("pycls:RegNetX-200MF-CIFAR", 2.32, 368, [24, 56, 152, 368], [16, 8, 4, 2]),
        ("pycls:RegNetX-200MF", 2.32, 368, [32, 24, 56, 152], [16, 8, 4, 2]),  # on 1x1 ends s4: its stem counts
        ("pycls:ResNet-56", 0.856, 64, [16, 32, 64], [32, 16, 8]),
        ("pycls:ResNet-20", 0.272, 64, [16, 32, 64], [32, 16, 8]),
    ],
)
def test_stages_of_networks_on_cifar(
    model: str, millions: float, num_features: int, channels: list[int], sides: list[int]
) -> None:
    network, widths = build_network(model, 10, (32, 32), 64, "none", 0.0), Widths()
    network.attach_companion(widths, (32, 32))  # type: ignore[arg-type]
    features_ND, maps = network.features(torch.zeros(2, 3, 32, 32))
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.003)
    assert features_ND.shape == (2, num_features)
    assert [stage.shape[1] for stage in maps] == channels == widths.channels
    assert [stage.shape[2] for stage in maps] == sides
    if channels[-1] == num_features:  # the last map is what the last layer takes the mean of
        torch.testing.assert_close(maps[-1].mean((2, 3)), features_ND)


@pytest.mark.parametrize("model", MODELS)
def test_initial_weights_are_drawn_as_pycls_does(model: str) -> None:
    """Convolutions from a normal distribution of variance 2 / fan-out, linear layers of deviation 0.01, biases zero."""
    network = build_network(model, 1000, (32, 32), 64, "none", 0.0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 5000:
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert network.head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not network.head.bias.any()


LAYERS = {
    "proj": "downsample.0", "bn": "downsample.1", "f.a": "conv1", "f.a_bn": "bn1", "f.b": "conv2", "f.b_bn": "bn2",
}  # fmt: skip
NAMES = {"stem.conv": "conv1", "stem.bn": "bn1", "head.fc": "fc"} | {
    f"s{stage}.b{block}.{theirs}": f"layer{stage}.{block - 1}.{ours}"
    for stage in (1, 2, 3, 4) for block in (1, 2) for theirs, ours in LAYERS.items()
}  # fmt: skip


def pycls_resnet18() -> nn.Module:
    """ResNet-18 for CIFAR of pycls's own stem, stages and head."""
    from pycls.models.anynet import AnyNet

    network: nn.Module = AnyNet(
        stem_type="res_stem_cifar", stem_w=64, block_type="res_basic_block", ds=[2, 2, 2, 2], ws=[64, 128, 256, 512],
        ss=[1, 2, 2, 2], bms=None, gws=None, se_r=None, nc=1,
    )  # fmt: skip
    return network


def test_our_resnet18_is_pycls_layer_by_layer() -> None:
    """With pycls's weights, stem, four stages and head have pycls's outputs, in training and in evaluation, and its
    gradients. Initial weights are all that differs."""
    theirs, ours = pycls_resnet18(), resnet18(64)
    named = (name.rpartition(".") for name in theirs.state_dict())
    ours.load_state_dict({f"{NAMES[layer]}.{kind}": theirs.state_dict()[f"{layer}.{kind}"] for layer, _, kind in named})
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs: dict[nn.Module, Tensor] = {}
    pairs = [("stem", "relu"), *((f"s{n}", f"layer{n}") for n in range(1, 5)), ("head", "fc")]
    modules = [(theirs.get_submodule(first), ours.get_submodule(second)) for first, second in pairs]
    for module in (module for pair in modules for module in pair):
        module.register_forward_hook(lambda module, inputs, output: outputs.update({module: output}))
    for mode in (True, False):
        theirs.train(mode)(images).sum().backward()
        ours.train(mode)(images).sum().backward()
        for first, second in modules:
            torch.testing.assert_close(outputs[first], outputs[second], rtol=1e-5, atol=1e-5)
    gradients = [network.get_submodule(name).weight.grad for network, name in ((theirs, "stem.conv"), (ours, "conv1"))]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_derivatives_along_a_direction_beside_gradients(model: str) -> None:
    spec = Spec.read("task", f"digits[epochs=1,model={model}]")
    task: Any = spec.plugin.build(CPU, spec.values)
    network = task.fit(np.arange(64), 0)
    generator, indices = torch.Generator().manual_seed(0), np.arange(5)
    direction = {name: torch.randn(p.shape, generator=generator) for name, p in task.weights(network).items()}
    targets = task.pseudo_labels(network, indices, 1)
    derivatives = []
    for i in range(5):
        loss = task.losses(network, indices[i : i + 1], targets[i : i + 1]).sum()
        gradients = torch.autograd.grad(loss, list(task.weights(network).values()))
        derivatives.append(sum((g * d).sum() for g, d in zip(gradients, direction.values(), strict=True)))
    inputs = task._prepare_inputs(task._inputs[:5])
    for fast in (
        task.directional(network, indices, targets, direction),
        jvp_derivatives(network, inputs, targets, direction),
    ):
        torch.testing.assert_close(fast.detach(), torch.stack(derivatives), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_the_grids_strategies_run_on_digits(model: str, tmp_path: Path) -> None:
    """Two rounds each; the networks, the strategies and their parameters are those of the grid but for the depth."""
    grid = config.build_grid(config.compose_settings(["grid=model_agnostic"]))
    labels = [strategy.label for strategy in grid.experiments[0].strategies]
    assert [label.partition("[")[0] for label in labels] == ["random", "coreset", "learning_loss", "isal"]
    labels[-1] = "isal[depth=5,order=file,reference=test,repeats=2]"
    task = f"digits[epochs=2,model={model}]"
    events = run([cell(label, rounds=2, task=task) for label in labels], tmp_path)
    assert [len(event.record.bought) for event in events] == [20, 5] * 4  # type: ignore[union-attr]
