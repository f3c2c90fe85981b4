"""The classifier: its networks, its fits and its capabilities, on random images.

Shapes: N images, C classes, D features, H x W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark import api
from benchmark.api import Machine
from benchmark.vision import networks, training
from benchmark.vision.classification import PUBLISHED, Classifier, Recipe, Split, check_weights
from benchmark.vision.classification.augment import draw_epoch
from benchmark.vision.classification.scores import accuracy_scores
from benchmark.vision.classification.training import compile_features
from benchmark.vision.networks import Network, QuarterMeans, build_network
from benchmark.vision.training import uses_batch_statistics

QUICK = Recipe(model="small_cnn", epochs=2, batch_size=16, dropout=0.25)
TINY = Recipe(width=4, epochs=2, batch_size=16, dropout=0.25)


def images(num_images: int, size: int, seed: int, num_classes: int = 10) -> Split:
    rng = np.random.default_rng(seed)
    return Split(
        rng.integers(0, 256, (num_images, 3, size, size), dtype=np.uint8), rng.integers(0, num_classes, num_images)
    )


def task(machine: Machine, recipe: Recipe = QUICK, size: int = 8, num_pool: int = 60) -> Classifier:
    return Classifier(machine, recipe, images(num_pool, size, 0), images(20, size, 1), num_classes=10)


def test_sets_without_an_image_are_refused() -> None:
    full, empty = images(20, 8, 0), images(0, 8, 1)
    with pytest.raises(ValueError, match=r"^the test set has no image: there is nothing to score$"):
        Classifier(Machine(torch.device("cpu")), QUICK, full, empty, num_classes=10)
    with pytest.raises(ValueError, match=r"^the pool has no image: there is nothing to learn from$"):
        Classifier(Machine(torch.device("cpu")), QUICK, empty, full, num_classes=10)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Mean(nn.Module):
    """A companion's module: a linear layer on the channel means of all stage maps."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.last = nn.Linear(sum(channels), 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        output_N: Tensor = self.last(torch.cat([stage.mean((2, 3)) for stage in maps], 1)).squeeze(1)
        return output_N


@dataclass(frozen=True)
class Regress:
    """A companion that regresses the losses, `weight` times."""

    detach_after: float
    weight: float = 1.0

    def module(self, channels: Sequence[int]) -> nn.Module:
        return Mean(channels)

    def loss(self, output_N: Tensor, losses_N: Tensor) -> Tensor:
        assert not losses_N.requires_grad
        return self.weight * (output_N - losses_N).square().mean()


# --- networks --------------------------------------------------------------------------------------
def test_resnet18_has_the_published_size_and_stages() -> None:
    network = build_network("resnet18", 10, (32, 32), 64, "none", 0.0)
    assert sum(p.numel() for p in network.parameters()) == 11_173_962
    assert sum(p.numel() for p in network.parameters() if p.ndim != 1) == 11_164_352
    channels: list[int] = []
    network.attach_companion(Spy(channels), (32, 32))
    _, maps = network.features(torch.zeros(2, 3, 32, 32))
    assert [tuple(stage.shape) for stage in maps] == [(2, 64, 32, 32), (2, 128, 16, 16), (2, 256, 8, 8), (2, 512, 4, 4)]
    assert channels == [64, 128, 256, 512]


def test_stage_maps_are_the_outputs_of_the_four_layers() -> None:
    network = build_network("resnet18", 10, (32, 32), 8, "none", 0.0)
    network.attach_companion(Regress(0.0), (32, 32))
    batch = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs: list[Tensor] = []
    for stage in range(1, 5):
        layer = network.backbone.get_submodule(f"layer{stage}")
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    _, maps = network.features(batch)
    assert all(torch.equal(a, b) for a, b in zip(maps, outputs, strict=True))


def test_a_size_that_comes_again_gives_its_last_map() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.Flatten())
    network = Network(backbone, 256, 2, 0.0)
    network.attach_companion(Regress(0.0), (8, 8))
    features_ND, maps = network.features(torch.rand(2, 3, 8, 8))
    assert [stage.shape[2] for stage in maps] == [4, 8]
    assert torch.equal(maps[1].flatten(1), features_ND)


@dataclass(frozen=True)
class Spy:
    """A companion that records the channels it receives."""

    channels: list[int]
    detach_after: float = 0.0

    def module(self, channels: Sequence[int]) -> nn.Module:
        self.channels.extend(channels)
        return Mean(channels)

    def loss(self, output_N: Tensor, losses_N: Tensor) -> Tensor:
        return output_N.mean()


@pytest.mark.parametrize(
    ("model", "size", "num_features", "channels"),
    [
        ("small_cnn", 8, 64, [32, 64, 64]),
        ("torchvision:resnet18", 32, 512, [64, 64, 128, 256]),
        ("torchvision:resnet18", 64, 512, [64, 128, 256, 512]),
        ("resnet50", 64, 2048, [256, 512, 1024, 2048]),
        ("mobilenet_v3_small", 32, 1024, [16, 16, 24, 48]),
        ("regnet_y_400mf", 32, 440, [32, 48, 104, 208]),
        ("timm:resnet10t", 32, 512, [64, 64, 128, 256]),
    ],
)
def test_networks_by_name(model: str, size: int, num_features: int, channels: list[int]) -> None:
    if model.startswith("timm"):
        pytest.importorskip("timm")
    network = build_network(model, 7, (size, size), 64, "none", 0.1)
    companion_channels: list[int] = []
    network.attach_companion(Spy(companion_channels), (size, size))
    features_ND, maps = network.features(torch.zeros(2, 3, size, size))
    assert features_ND.shape == (2, num_features)
    assert network.logits(features_ND).shape == (2, 7)
    assert [stage.shape[1] for stage in maps] == channels == companion_channels


@pytest.mark.parametrize("size", [(4, 4), (5, 8), (6, 6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_means_of_quarters_are_those_of_adaptive_pooling(size: tuple[int, int], layout: torch.memory_format) -> None:
    generator, results = torch.Generator().manual_seed(0), []
    maps = torch.randn(3, 64, *size, generator=generator).contiguous(memory_format=layout)
    for pooling in (QuarterMeans(2), nn.AdaptiveAvgPool2d(2)):
        leaf = maps.clone().requires_grad_()
        means = pooling(leaf)
        (means * torch.arange(4.0).view(2, 2)).sum().backward()
        results.append((means, leaf.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[0][0].shape == (3, 64, 2, 2)


def test_maps_with_channels_last_are_no_stage_maps() -> None:
    network = build_network("swin_t", 10, (32, 32), 64, "none", 0.0)
    channels: list[int] = []
    network.attach_companion(Spy(channels), (32, 32))
    assert channels == [96]  # of its convolution alone


@pytest.mark.parametrize(
    ("model", "message"),
    [("vit_b_16", "does not take 32x32 images"), ("squeezenet1_0", "has no linear layer to replace")],
)
def test_networks_that_do_not_fit(model: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_network(model, 10, (32, 32), 64, "none", 0.0)


@pytest.mark.parametrize("model", ["pycls:RegNetX-200MF", "RegNetX-200MF-CIFAR", "pycls:ResNet-56"])
def test_a_network_of_pycls_without_pycls_is_one_line(
    model: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe is valid, so that grids can be listed and estimated; the check before data are read refuses it."""
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
    recipe = replace(QUICK, model=model)
    for build in (lambda: check_weights(machine, recipe), lambda: build_network(model, 10, (32, 32), 64, "none", 0.0)):
        with pytest.raises(ValueError, match=rf"^model={model} needs pycls: pip install 'al-benchmark\[pycls\]'$"):
            build()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_from_a_file(tmp_path: Path, machine: Machine, suffix: str) -> None:
    from safetensors.torch import save_file

    from benchmark.vision.networks import small_cnn

    state, path = small_cnn().state_dict(), tmp_path / f"weights.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    first, other = (task(machine, replace(QUICK, weights=str(path))) for _ in range(2))
    assert torch.equal(first.model().backbone[0].weight, state["0.weight"])
    assert first.fingerprint == other.fingerprint != task(machine).fingerprint
    with pytest.raises(ValueError, match=r"does not fit the model: 0.bias holds nothing, the model \(64,\)|holds"):
        task(machine, replace(QUICK, model="resnet18", weights=str(path)))


class Evil:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_nothing_in_a_weights_file_is_run(tmp_path: Path, machine: Machine) -> None:
    torch.save({"0.weight": Evil(tmp_path / "hacked")}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth: cannot be read"):
        task(machine, replace(QUICK, weights=str(tmp_path / "weights.pth")))
    assert not (tmp_path / "hacked").exists()


def test_bad_weights_are_one_line(tmp_path: Path, machine: Machine) -> None:
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    for name, says in (("weights.pth", "cannot be read"), ("missing.safetensors", "no such file")):
        with pytest.raises(ValueError, match=f"{name}: {says}"):
            task(machine, replace(QUICK, weights=str(tmp_path / name)))
    with pytest.raises(ValueError, match=r"looked for in the folder of your data sets: set data=DIR"):
        task(Machine(machine.device), replace(QUICK, weights="weights.pth"))


# --- fits ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("recipe", [QUICK, TINY])
def test_a_fit_depends_on_the_set_and_the_seed_alone(machine: Machine, recipe: Recipe) -> None:
    classifier, other = (task(machine, recipe, size=8) for _ in range(2))
    labelled = np.arange(40)
    state = torch.random.get_rng_state()
    first = classifier.fit(labelled, 3)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(7)
    assert same(first, other.fit(labelled[::-1], 3))
    assert not same(first, classifier.fit(labelled, 4))
    assert not same(first, classifier.fit(labelled + 1, 3))
    assert not first.training


@pytest.mark.parametrize(
    "change", [{"precision": "float32"}, {"precise_bn": True}, {"decay_all": True}, {"flip": False}, {"epochs": 3}]
)
def test_every_option_reaches_training(machine: Machine, change: dict[str, object]) -> None:
    labelled = np.arange(40)
    assert not same(task(machine, QUICK).fit(labelled, 0), task(machine, replace(QUICK, **change)).fit(labelled, 0))


def test_layouts_and_precisions_agree_roughly(machine: Machine) -> None:
    labelled, answers = np.arange(40), []
    for change in ({}, {"channels_last": True}, {"precision": "bfloat16"}):
        base = replace(TINY, epochs=1, lr=0.01, precision="float32", channels_last=False)
        classifier = task(machine, replace(base, **change), size=8)
        answers.append(classifier.predict(classifier.fit(labelled, 0), labelled).scores_PC)
    assert torch.allclose(answers[0], answers[1], atol=1e-3)
    assert torch.allclose(answers[0], answers[2], atol=0.05)
    assert not torch.equal(answers[0], answers[2])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile warns of its own code
def test_compiled_fits(machine: Machine) -> None:
    recipe = replace(QUICK, dropout=0.0, lr=0.01, precision="float32")
    eager, compiled = (task(machine, replace(recipe, compile=compile)) for compile in (False, True))
    labelled = np.arange(41)
    first, other, again = (t.fit(labelled, 0) for t in (eager, compiled, compiled))
    assert same(other, again)
    for a, b in zip(first.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


@pytest.mark.filterwarnings("default")
def test_a_gpu_has_a_program_for_each_size_of_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: torch.compile gives up after a few unless it is told to go on."""
    torch._dynamo.reset()
    programs, build = list[torch.fx.GraphModule](), torch.compile

    def note(program: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        programs.append(program)
        return program.forward

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: build(function, dynamic=dynamic, backend=note))
    network = build_network("small_cnn", 10, (8, 8), 64, "none", 0.0)
    features = compile_features(network, torch.device("cuda"))
    for num_images in [*range(40, 60), *range(40, 60)]:
        images_N3HW = torch.rand(num_images, 3, 8, 8)
        assert torch.equal(features(images_N3HW)[0], network.features(images_N3HW)[0])
    assert len(programs) == 20


def test_compile_and_a_companion_are_refused(machine: Machine) -> None:
    with pytest.raises(ValueError, match="compile=true cannot train a companion"):
        task(machine, replace(QUICK, compile=True)).fit(np.arange(40), 0, Regress(0.5))


@pytest.mark.parametrize("after", [1, 3, 6], ids=["in the first epoch", "between epochs", "after the last step"])
def test_a_killed_fit_ends_in_the_same_bytes(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Dropout and batches continue where they stopped: both draw from one stream of random numbers."""
    recipe, companion = replace(TINY, drop_last=True, precise_bn=True), Regress(0.5)
    classifier = task(replace(machine, scratch=tmp_path), recipe)
    whole = classifier.fit(np.arange(52), 0, companion)  # two epochs of three batches
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    write, steps = training.save_checkpoint, list[int]()

    def dying(*args: Any) -> None:
        write(*args)
        steps.append(args[-1])
        if len(steps) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", dying)
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(np.arange(52), 0, companion)
    assert len(list(tmp_path.glob("*.checkpoint"))) == 1
    torch.rand(3)
    resumed = classifier.fit(np.arange(52), 0, companion)
    assert steps == list(range(1, 7))
    assert same(whole, resumed)
    assert not list(tmp_path.iterdir())


def test_a_resumed_fit_leaves_the_global_generator_alone(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = task(replace(machine, scratch=tmp_path))
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    with monkeypatch.context() as patched:
        patched.setattr(api.tensor_files, "remove_file", lambda path: None)
        classifier.fit(np.arange(40), 0)
    before = torch.get_rng_state()
    classifier.fit(np.arange(40), 0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_fit_that_diverges_says_so(machine: Machine) -> None:
    with pytest.raises(ValueError, match="the fit on 40 images diverged"):
        task(machine, replace(QUICK, lr=1e30)).fit(np.arange(40), 0)


def test_too_few_images_for_drop_last(machine: Machine) -> None:
    classifier = task(machine, replace(PUBLISHED, model="small_cnn"))
    with pytest.raises(ValueError, match="60 labelled images do not fill a batch of 128"):
        classifier.fit(np.arange(60), 0)


# --- the companion ---------------------------------------------------------------------------------
def test_a_companion_travels_with_the_model(machine: Machine) -> None:
    classifier, labelled = task(machine), np.arange(33)
    fitted = classifier.fit(labelled, 0, Regress(0.5))
    copy = classifier.model(Regress(0.5))
    copy.load_state_dict(fitted.state_dict())
    indices = np.arange(50, 60)
    outputs_N = classifier.companion(fitted, indices)
    assert outputs_N.shape == (10,)
    assert torch.equal(outputs_N, classifier.companion(copy, indices))
    assert not any(name.startswith("companion") for name in classifier.weights(fitted))


def test_a_detached_companion_leaves_the_model_alone(machine: Machine) -> None:
    classifier, labelled = task(machine), np.arange(40)
    plain = classifier.fit(labelled, 0)
    detached, half, attached = (classifier.fit(labelled, 0, Regress(share, 0.1)) for share in (0.0, 0.5, 1.0))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, detached.state_dict()[name])
    assert not torch.equal(plain.head.weight, half.head.weight)
    assert not torch.equal(half.head.weight, attached.head.weight)
    fresh = classifier.model(Regress(0.0))
    assert not torch.equal(fresh.companion.last.weight, detached.companion.last.weight)


# --- capabilities ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fitted(machine: Machine) -> tuple[Classifier, Network]:
    classifier = task(machine)
    return classifier, classifier.fit(np.arange(40), 0)


def test_predict_and_embed_share_a_pass(fitted: tuple[Classifier, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, model = fitted
    passes = []
    features = Network.features
    monkeypatch.setattr(Network, "features", lambda *args: passes.append(1) or features(*args))
    indices = np.arange(10, 60)
    predictions, features_ND = classifier.predict(model, indices), classifier.embed(model, indices)
    assert len(passes) == 1
    assert torch.equal(model.head(features_ND).softmax(1), predictions.scores_PC)
    assert predictions.scores_PC.dtype == torch.float32
    assert predictions.image_P.tolist() == list(range(50))
    other = classifier.fit(np.arange(30), 0)
    assert not torch.equal(classifier.embed(other, indices), features_ND)
    assert torch.equal(classifier.embed(model, indices[::-1]), features_ND.flip(0))
    assert classifier.predict(model, np.arange(0)).scores_PC.shape == (0, 10)


def test_score_counts_per_cent_of_the_test_set(fitted: tuple[Classifier, Network]) -> None:
    classifier, model = fitted
    losses_N = classifier.losses(model, np.arange(20), test=True)
    right = sum(
        classifier.losses(model, np.array([i]), torch.tensor([c]), test=True).item()
        == min(classifier.losses(model, np.array([i]), torch.tensor([k]), test=True).item() for k in range(10))
        for i, c in enumerate(classifier._test_labels.tolist())
    )
    score = classifier.score(model)
    assert score["accuracy"] == pytest.approx(100 * right / 20)
    assert score["nll"] == pytest.approx(losses_N.mean().item(), rel=0.02)
    assert classifier.num_test() == 20
    assert classifier.cost(np.arange(7)) == {"images": 7.0}


def test_a_model_of_one_class_is_told_by_its_score() -> None:
    """Three of four images are of class 0: a model that always predicts 0 is right on 75 % of the images, but on one of
    three classes."""
    labels_N = np.array([0] * 9 + [1] * 2 + [2])
    test = Split(images(12, 8, 1).images_NKHW, labels_N)
    classifier = Classifier(Machine(torch.device("cpu")), QUICK, images(60, 8, 0), test, num_classes=10)
    network = classifier.model()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([1.0] + [0.0] * 9))
    score = classifier.score(network)
    assert score["accuracy"] == 75.0
    assert score["balanced_accuracy"] == pytest.approx(100 / 3)
    assert (score["num_predicted_classes"], score["num_test_classes"]) == (1, 3)


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_smallest_batch_is_that_of_an_epoch(drop_last: bool) -> None:
    classifier = task(Machine(torch.device("cpu")), replace(QUICK, drop_last=drop_last))
    for num_images in (16, 17, 33, 60, 65):
        batches = draw_epoch(num_images, classifier._recipe, torch.Generator().manual_seed(0), torch.device("cpu"))
        assert classifier.batch_sizes(num_images).smallest == min(len(batch.positions_N) for batch in batches)


def test_batches_matter_where_a_layer_takes_its_statistics_from_them() -> None:
    class Still(nn.BatchNorm2d):
        """A batch normalisation that always uses its running statistics."""

        def train(self, mode: bool = True) -> Still:
            return super().train(False)

    assert uses_batch_statistics(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval())
    assert not uses_batch_statistics(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)))
    assert not uses_batch_statistics(nn.Sequential(nn.Conv2d(3, 4, 1), Still(4)))


def test_balanced_accuracy_is_sklearns() -> None:
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    true_N, predicted_N = rng.choice([0, 1, 3], 50, p=[0.7, 0.2, 0.1]), rng.choice([0, 1, 3], 50)
    score = accuracy_scores(torch.from_numpy(predicted_N), torch.from_numpy(true_N), ["a", "b", "c", "d", "e"])
    assert score["balanced_accuracy"] == pytest.approx(100 * balanced_accuracy_score(true_N, predicted_N))
    assert (score["num_predicted_classes"], score["num_test_classes"]) == (3, 3)
    right_N, named = predicted_N == true_N, {"a": 0, "b": 1, "d": 3}
    expected = {name: 100 * right_N[true_N == number].mean() for name, number in named.items()}
    assert score.by_class == {"accuracy": pytest.approx(expected)}


def test_losses_are_true_labels_or_weighted_targets(fitted: tuple[Classifier, Network]) -> None:
    classifier, model = fitted
    indices, targets = np.arange(5), torch.rand(5, 10, generator=torch.Generator().manual_seed(0))
    logits_NC = model(classifier._prepare_inputs(classifier._images[:5]))
    want_N = -(targets * logits_NC.log_softmax(1)).sum(1)
    assert torch.allclose(classifier.losses(model, indices, targets), want_N)
    assert torch.allclose(
        classifier.losses(model, indices), F.cross_entropy(logits_NC, classifier._labels[:5], reduction="none")
    )
    assert classifier.losses(model, indices).requires_grad


def test_pseudo_labels_are_not_renormalised(fitted: tuple[Classifier, Network]) -> None:
    classifier, model = fitted
    indices = np.arange(40, 60)
    p_NC = classifier.predict(model, indices).scores_PC
    assert torch.equal(classifier.pseudo_labels(model, indices, 1), F.one_hot(p_NC.argmax(1), 10).float())
    q_NC = classifier.pseudo_labels(model, indices, 3)
    assert torch.equal(q_NC.sort(1).values[:, -3:], p_NC.sort(1).values[:, -3:])
    assert (q_NC > 0).sum(1).tolist() == [3] * 20
    for k in (0, 11):
        with pytest.raises(ValueError, match=r"must be in 1\.\.10"):
            classifier.pseudo_labels(model, indices, k)


def test_samples_scatter_around_the_prediction(fitted: tuple[Classifier, Network]) -> None:
    classifier, model = fitted
    indices = np.arange(40, 60)
    samples, again, others = (
        [sample.scores_PC for sample in classifier.sample(model, indices, 400, seed)] for seed in (5, 5, 6)
    )
    mean_NC, p_NC = torch.stack(samples).mean(0), classifier.predict(model, indices).scores_PC
    assert not torch.equal(samples[0], samples[1])
    assert torch.equal(samples[7], again[7])
    assert not torch.equal(samples[7], others[7])
    assert (mean_NC - p_NC).abs().max() < 0.05
    mean_log_NC = torch.stack([sample.log() for sample in samples]).mean(0)
    got_NC, want_NC = (log_NC - log_NC.mean(1, keepdim=True) for log_NC in (mean_log_NC, p_NC.log()))
    assert (got_NC * want_NC).sum() / want_NC.square().sum() == pytest.approx(1, abs=0.05)  # unbiased logits


@pytest.fixture(scope="module")
def resnet(machine: Machine) -> Classifier:
    """ResNet-18 of full width, with three images per batch."""
    classifier = task(machine, Recipe(epochs=1, precision="float32"), size=32)
    classifier.batch_size = 3
    return classifier


@pytest.mark.parametrize("k", [1, 2, 5])
def test_directional_is_each_gradient_times_the_direction(resnet: Classifier, k: int) -> None:
    model, indices = resnet.model(), np.arange(4)
    weights = resnet.weights(model)
    assert sum(weight.numel() for weight in weights.values()) == 11_164_352
    generator = torch.Generator().manual_seed(0)
    direction = {name: torch.randn(weight.shape, generator=generator) for name, weight in weights.items()}
    targets = resnet.pseudo_labels(model, indices, k)
    want = []
    for i in indices:
        loss_1 = resnet.losses(model, indices[i : i + 1], targets[i : i + 1])
        gradients = torch.autograd.grad(loss_1, list(weights.values()))
        want.append(sum((g * direction[name]).sum() for name, g in zip(weights, gradients, strict=True)))
    got_N, want_N = resnet.directional(model, indices, targets, direction), torch.stack(want)
    assert not got_N.requires_grad
    assert (got_N - want_N).abs().max() < 1e-4 * want_N.abs().max()
    assert got_N.argsort().tolist() == want_N.argsort().tolist()


@pytest.mark.parametrize("k", [1, 2, 5])
def test_each_directional_is_right_on_its_own_in_double_precision(
    resnet: Classifier, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, model, indices = resnet._prepare_inputs, resnet.model(), np.arange(4)
    targets = resnet.pseudo_labels(model, indices, k).double()
    monkeypatch.setattr(resnet, "_prepare_inputs", lambda images: prepared(images).double())
    weights = resnet.weights(model.double())
    generator = torch.Generator().manual_seed(0)
    direction = {name: torch.randn(weight.shape, generator=generator).double() for name, weight in weights.items()}
    got_N = resnet.directional(model, indices, targets, direction)
    for i in indices:
        loss_1 = resnet.losses(model, indices[i : i + 1], targets[i : i + 1])
        gradients = torch.autograd.grad(loss_1, list(weights.values()))
        want = sum((g * direction[name]).sum() for name, g in zip(weights, gradients, strict=True))
        torch.testing.assert_close(got_N[i], want, rtol=1e-8, atol=0)


def test_directional_takes_classes_and_some_of_the_weights(fitted: tuple[Classifier, Network]) -> None:
    classifier, model = fitted
    indices, classes = np.arange(6), torch.arange(6)
    direction = {"head.weight": torch.ones_like(model.head.weight)}
    got_N = classifier.directional(model, indices, classes, direction)
    features_ND = classifier.embed(model, indices)
    error_NC = model.logits(features_ND).softmax(1) - F.one_hot(classes, 10)
    assert torch.allclose(got_N, error_NC.sum(1) * features_ND.sum(1), atol=1e-4)
    got_N = classifier.directional(
        model, indices, classes, {"head.weight": F.one_hot(torch.tensor([2] * 64), 10).T.float()}
    )
    assert torch.allclose(got_N, error_NC[:, 2] * features_ND.sum(1), rtol=1e-4)


def test_scrambled_touches_unpaid_labels_alone(machine: Machine) -> None:
    classifier, paid = task(machine, num_pool=600), np.arange(0, 600, 2)
    other, again = classifier.scrambled(paid, 1), classifier.scrambled(paid, 1)
    unpaid = np.setdiff1d(np.arange(600), paid)
    assert torch.equal(classifier._labels[paid], other._labels[paid])
    assert 0.05 < (classifier._labels[unpaid] == other._labels[unpaid]).double().mean() < 0.2
    assert not torch.equal(classifier._test_labels, other._test_labels)
    assert other._labels.unique().tolist() == list(range(10))
    assert other._images is classifier._images
    assert again.fingerprint == other.fingerprint != classifier.fingerprint
    assert other.fingerprint != classifier.scrambled(paid, 2).fingerprint
    assert same(classifier.fit(paid[:40], 0), other.fit(paid[:40], 0))
