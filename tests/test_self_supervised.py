"""SimSiam and SimCLR: losses and views against simple implementations, reproducible training, quality of features."""

from __future__ import annotations

import hashlib
import math
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from torch import Tensor, nn

from benchmark.api import Encoding, Machine, seeded
from benchmark.encoders.simclr import SimClrHead, nt_xent, simclr
from benchmark.encoders.simsiam import SimSiamHeads, negative_cosine, simsiam
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery, registry
from benchmark.system import tensor_files
from benchmark.text import notation
from benchmark.vision.encoding import self_supervised
from benchmark.vision.encoding.encodings import InMemoryPool
from benchmark.vision.encoding.random_views import (
    COLOUR_CHANGES,
    JITTER_STRENGTHS,
    MAX_LOG_ASPECT,
    NUM_DRAWS,
    crop_boxes,
    crop_images,
    random_view,
)
from benchmark.vision.encoding.self_supervised import (
    FrozenBackbone,
    build_extractor,
    build_optimiser,
    find_last_map,
    train_encoder,
)
from benchmark.vision.encoding.settings import Settings
from benchmark.vision.pixels import channel_moments

discovery.discover()
CPU = Machine(torch.device("cpu"))
SETTINGS = Settings(
    encoder="simclr", version=1, model="small_cnn", width=64, size=None, epochs=2, batch_size=8, lr=0.1,
    weight_decay=0.0, smallest=0.3, flip=True, colour=0.5, precision="float32", seed=0,
)  # fmt: skip
BRIEF: dict[str, Any] = {"epochs": 2, "batch_size": 16, "precision": "float32"}


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(number: int, side: int = 8) -> Tensor:
    """Smooth random images in colour, as bytes."""
    small = torch.rand(number, 3, 4, 4, generator=numbers())
    return (F.interpolate(small, (side, side), mode="bilinear") * 255).byte()


# --- losses -----------------------------------------------------------------------------------
def test_the_negative_cosine_by_hand() -> None:
    predicted, target = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[8.0, 6.0], [0.0, 5.0]])
    assert negative_cosine(predicted, target).item() == pytest.approx(-(24 / 25 + 0) / 2)


def test_no_gradient_reaches_a_target() -> None:
    """The gradient of SimSiam's loss equals that of eq. 4 with the projections of the other view as constants."""
    images = torch.randn(2, 12, 6, generator=numbers())
    with seeded(0):
        backbone, heads = nn.Linear(6, 5), SimSiamHeads(5, 2, 8)
    heads(backbone, *images).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in (*backbone.parameters(), *heads.parameters())])

    def by_hand(stop: bool) -> Tensor:
        first, second = (heads.projector(backbone(tensor)) for tensor in images)
        loss = torch.zeros(())
        for mine, other in ((first, second), (second, first)):
            aim = torch.from_numpy(other.detach().numpy().copy()) if stop else other
            guess = heads.predictor(mine)
            loss = loss - ((guess / guess.norm(dim=1, keepdim=True)) * (aim / aim.norm(dim=1, keepdim=True))).sum() / 24
        parts = torch.autograd.grad(loss, [*backbone.parameters(), *heads.parameters()])
        return torch.cat([tensor.flatten() for tensor in parts])

    torch.testing.assert_close(gradient, by_hand(stop=True))
    assert (gradient - by_hand(stop=False)).norm() > 0.1 * gradient.norm()


@pytest.mark.parametrize(("layers", "sizes"), [(1, [(8, 5)]), (2, [(8, 5), (8, 8)]), (3, [(8, 5), (8, 8), (8, 8)])])
def test_simsiams_heads(layers: int, sizes: list[tuple[int, int]]) -> None:
    """The projector ends with a normalisation without weights, the predictor with a linear layer after a bottleneck."""
    heads = SimSiamHeads(5, layers, 8)
    assert [tuple(layer.weight.shape) for layer in heads.projector if isinstance(layer, nn.Linear)] == sizes
    assert isinstance(heads.projector[-1], nn.BatchNorm1d)
    assert heads.projector[-1].weight is None
    assert [type(layer).__name__ for layer in heads.predictor] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert (heads.predictor[0].out_features, heads.predictor[3].out_features) == (2, 8)
    widths = [SimSiamHeads(number, 2, None).predictor[3].out_features for number in (64, 512, 2048)]
    assert widths == [256, 2048, 2048]


def test_nt_xent_by_hand() -> None:
    """Two images along two axes: one positive pair of cosine 1, two negative pairs of cosine 0."""
    views = torch.tensor([[2.0, 0.0], [0.0, 1.0], [7.0, 0.0], [0.0, 3.0]])
    assert nt_xent(views, 1.0).item() == pytest.approx(math.log(1 + 2 / math.e))
    assert nt_xent(views, 0.5).item() == pytest.approx(math.log(1 + 2 / math.e**2))


def test_nt_xent_beside_loops() -> None:
    views, temperature = torch.randn(10, 4, generator=numbers(), dtype=torch.float64), 0.3
    losses = []
    for i in range(10):
        closeness = [math.exp(F.cosine_similarity(views[i], views[j], dim=0).item() / temperature) for j in range(10)]
        losses.append(-math.log(closeness[(i + 5) % 10] / (sum(closeness) - closeness[i])))
    assert nt_xent(views, temperature).item() == pytest.approx(np.mean(losses))


def test_simclr_sees_both_views_in_one_batch_and_simsiam_one_at_a_time() -> None:
    images, batch_sizes = torch.randn(2, 6, 5, generator=numbers()), []

    def features(views: Tensor) -> Tensor:
        batch_sizes.append(len(views))
        return views

    SimClrHead(5, 0.1, 3)(features, *images)
    SimSiamHeads(5, 2, 8)(features, *images)
    assert batch_sizes == [12, 6, 6]


# --- views ------------------------------------------------------------------------------------
def test_boxes_by_hand() -> None:
    """Random numbers for area, aspect, y and x; images of 12 x 20 pixels."""
    square = 0.5  # the draw for it
    draws = [
        (1.0, square, 0.0, 0.0),  # 240 pixels: 15.5 x 15.5, cut to 12 rows
        (0.0, square, 0.0, 0.0),  # 60 pixels: 7.7 x 7.7
        (0.0, square, 0.999999, 0.999999),  # the last place
        (0.0, 1.0, 0.5, 0.5),  # wide: sqrt(60 * 3/4) x sqrt(60 * 4/3); 6 and 12 places are left
        (0.0, 0.0, 0.5, 0.5),  # high
    ]
    boxes = crop_boxes(torch.tensor(draws).T, (12, 20), 0.25)
    assert boxes.tolist() == [[0, 0, 12, 15], [0, 0, 8, 8], [4, 12, 8, 8], [3, 6, 7, 9], [2, 7, 9, 7]]


def test_boxes_stay_inside_and_have_the_areas_asked_for() -> None:
    size, smallest = (40, 60), 0.2
    boxes = crop_boxes(torch.rand(4, 4000, generator=numbers()), size, smallest)
    y, x, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all()
    assert (y + height).max() == 40
    assert (x + width).max() == 60
    assert torch.equal(boxes, boxes.round())
    small = (height < 40) & (height * width < 0.5 * 2400)
    share = (height * width / 2400)[small]
    assert share.min() > smallest - 0.02
    assert share.mean().item() == pytest.approx(0.35, abs=0.01)
    aspect = (width / height)[small].log()
    assert aspect.abs().max() < MAX_LOG_ASPECT + 0.1
    assert aspect.mean().item() == pytest.approx(0, abs=0.01)
    assert aspect.std().item() == pytest.approx(MAX_LOG_ASPECT / 3**0.5, rel=0.03)


def one_crop(image: Tensor, box: list[float], flip: bool) -> Tensor:
    """The reference for one image: cut, resize, mirror."""
    y, x, height, width = map(int, box)
    part = F.interpolate(image[None, :, y : y + height, x : x + width], image.shape[1:], mode="bilinear")[0]
    return part.flip(2) if flip else part


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (1, 5)])
def test_crops_beside_one_image_at_a_time(size: tuple[int, int]) -> None:
    images = torch.rand(50, 3, *size, generator=numbers())
    boxes, flip = crop_boxes(torch.rand(4, 50, generator=numbers(1)), size, 0.1), torch.arange(50) % 2 == 0
    crops = crop_images(images, boxes, flip)
    for image, box, mirrored, mine in zip(images, boxes.tolist(), flip.tolist(), crops, strict=True):
        torch.testing.assert_close(mine, one_crop(image, box, mirrored), atol=2e-5, rtol=0)


TWINS: list[Callable[[Tensor, float], Tensor]] = [
    lambda image, by: TF.adjust_brightness(image, 1 + by),
    lambda image, by: TF.adjust_contrast(image, 1 + by),
    lambda image, by: TF.adjust_saturation(image, 1 + by),
    lambda image, by: TF.adjust_hue(image, by),
]


@pytest.mark.parametrize("number", range(4))
def test_changes_of_colour_beside_torchvisions(number: int) -> None:
    images, by = torch.rand(40, 3, 5, 6, generator=numbers()), torch.linspace(-0.5, 0.5, 40)
    images[0], images[1, 1:], images[2, :, 0] = 0.5, 0, torch.tensor([[1.0], [1.0], [0.0]])  # grey, red, yellow
    changed = COLOUR_CHANGES[number](images, by.view(-1, 1, 1, 1))
    for image, how, mine in zip(images, by.tolist(), changed, strict=True):
        torch.testing.assert_close(mine, TWINS[number](image, how), atol=1e-5, rtol=0)
    torch.testing.assert_close(COLOUR_CHANGES[number](images, torch.zeros(40, 1, 1, 1)), images, atol=1e-6, rtol=0)


def test_a_view_beside_one_image_at_a_time() -> None:
    """Checks that every random number has its effect: crop, mirroring, jitter, four strengths in one order, grey."""
    images = photographs(60, 10)
    uniform = torch.rand(NUM_DRAWS, 60, generator=numbers())
    views = random_view(images, uniform, SETTINGS, numbers(5))
    order = torch.randperm(4, generator=numbers(5)).tolist()
    boxes = crop_boxes(uniform[:4], (10, 10), SETTINGS.smallest)
    num_jittered = num_grey = 0
    for number, image in enumerate(images):
        mirrored, jittered, is_grey = uniform[4, number] < 0.5, uniform[5, number] < 0.8, uniform[10, number] < 0.2
        twin = one_crop(image / 255, boxes[number].tolist(), bool(mirrored))
        for change in order if jittered else []:
            by = (2 * uniform[6 + change, number] - 1).item() * 0.5 * JITTER_STRENGTHS[change]
            twin = TWINS[change](twin, by)
        twin = TF.rgb_to_grayscale(twin, 3) if is_grey else twin
        torch.testing.assert_close(views[number], twin, atol=5e-5, rtol=0)
        num_jittered, num_grey = num_jittered + bool(jittered), num_grey + bool(is_grey)
    assert 40 < num_jittered < 58
    assert 5 < num_grey < 20


def test_colour_and_mirroring_are_switched_off() -> None:
    images, uniform = photographs(20, 10), torch.rand(NUM_DRAWS, 20, generator=numbers())
    views = random_view(images, uniform, replace(SETTINGS, flip=False, colour=0.0), numbers())
    whole = crop_images(images / 255, crop_boxes(uniform[:4], (10, 10), 0.3), torch.zeros(20, dtype=torch.bool))
    torch.testing.assert_close(views, whole, atol=1e-6, rtol=0)


def test_moments_are_those_of_the_pixels() -> None:
    images = photographs(1500)
    mean, deviation = channel_moments(images)
    values = images.numpy().astype(float)
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviation, values.std((0, 2, 3)), rtol=1e-9)
    assert channel_moments(torch.zeros(3, 3, 2, 2, dtype=torch.uint8))[1].tolist() == [1, 1, 1]


# --- training ---------------------------------------------------------------------------------
class Witness(nn.Module):
    """Heads that record the views they get and train nothing but a number."""

    def __init__(self) -> None:
        super().__init__()
        self.predictor, self.other = nn.Linear(1, 1), nn.Linear(1, 1)
        self.views: list[tuple[Tensor, Tensor]] = []

    def forward(self, features: Callable[[Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
        self.views.append((first, second))
        return features(first).mean() + self.predictor.weight.sum() + self.other.weight.sum()


def train_witness(pool: Tensor, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Witness, list[list[float]]]:
    """Trains with such heads; returns them and the learning rates of the steps."""
    witness, rates = Witness(), []
    step = torch.optim.SGD.step

    def record_step(self: torch.optim.SGD, closure: None = None) -> None:
        rates.append([group["lr"] for group in self.param_groups])
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", record_step)
    train_encoder(CPU, InMemoryPool(pool), replace(SETTINGS, **changes), partial(lambda number: witness))
    return witness, rates


@pytest.mark.parametrize(
    ("num_images", "batch_size", "sizes"),
    [(20, 8, [7, 7, 6]), (16, 8, [8, 8]), (3, 2, [3]), (5, 2, [3, 2]), (4, 9, [4])],
)
def test_batches_are_of_equal_size_and_take_every_image(
    num_images: int, batch_size: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image has one colour, by which both of its views are recognised."""
    pool = (torch.arange(num_images) * 10).byte().view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    witness, _ = train_witness(pool, monkeypatch, batch_size=batch_size, colour=0.0)
    numbers_by_view = [[(255 * part[:, 0, 0, 0] / 10).round().int().tolist() for part in two] for two in witness.views]
    first, second = zip(*numbers_by_view, strict=True)
    assert first == second
    assert [len(part) for part in first] == 2 * sizes
    epochs = [list(chain(*first[: len(sizes)])), list(chain(*first[len(sizes) :]))]
    assert [sorted(part) for part in epochs] == [list(range(num_images))] * 2
    assert epochs[0] != epochs[1]  # another order


def test_the_two_views_are_drawn_each_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    witness, _ = train_witness(photographs(40), monkeypatch, batch_size=40)
    (first, second), _ = witness.views
    assert ((first - second).abs().amax((1, 2, 3)) > 0.01).all()


def test_the_rate_falls_along_a_cosine_but_for_the_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 images make batches of 6 2/3 on average, and lr is per 256 images."""
    _, rates = train_witness(photographs(20), monkeypatch)
    full = 0.1 * 20 / 3 / 256
    cosine = [full * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert [rate for rate, _ in rates] == pytest.approx(cosine)
    assert [rate for _, rate in rates] == pytest.approx([full] * 6)


@pytest.mark.parametrize(("precision", "inside"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_the_backbones_alone(precision: Any, inside: torch.dtype) -> None:
    network, ones, dtypes = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), torch.ones(3, 1, 1), []
    network[0].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    features = build_extractor(FrozenBackbone((4, 4), network, network[0], ones, ones), precision)
    assert features(torch.rand(2, 3, 4, 4)).dtype == torch.float32
    assert dtypes == [inside]


def test_everything_is_trained_and_the_predictor_is_what_keeps_its_rate() -> None:
    backbone, heads = nn.Linear(3, 5), SimSiamHeads(5, 2, 8)
    falling, steady = (
        set(map(id, group["params"])) for group in build_optimiser(backbone, heads, 0.1, 0.2).param_groups
    )
    assert steady == set(map(id, heads.predictor.parameters()))
    assert falling == set(map(id, [*backbone.parameters(), *heads.projector.parameters()]))


@pytest.mark.parametrize("train", [simsiam, simclr])
def test_equal_arguments_give_equal_weights_and_disturb_no_generator(train: Callable[..., FrozenBackbone]) -> None:
    images = photographs(40)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    first, again = (train(CPU, InMemoryPool(images), **BRIEF)(images) for _ in range(2))
    with torch.no_grad():  # as where a strategy asks for encodings
        without = train(CPU, InMemoryPool(images), **BRIEF)(images)
    for other in (again, without):
        assert torch.equal(first.patches_NTD, other.patches_NTD)
        assert torch.equal(first.global_NE, other.global_NE)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    changed: list[dict[str, Any]] = [{"seed": 1}, {"epochs": 3}, {"flip": False}, {"smallest": 0.5}, {"colour": 1.0}]
    for parameters in [*changed, {"precision": "bfloat16"}, {"lr": 0.5}, {"weight_decay": 0.1}]:
        assert not torch.equal(
            first.global_NE, train(CPU, InMemoryPool(images), **BRIEF | parameters)(images).global_NE
        ), parameters


@pytest.mark.parametrize("train", [simsiam, simclr])
def test_weights_are_trained_once_and_kept(
    train: Callable[..., FrozenBackbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored weights, fresh ones and those trained without a folder give bit-identical features."""
    images, machine = photographs(40), replace(CPU, scratch=tmp_path)
    settings = BRIEF | {"precision": "bfloat16"}
    calls, through = [], self_supervised.train
    monkeypatch.setattr(self_supervised, "train", lambda *arguments: (calls.append(1), through(*arguments)))

    def encode(where: Machine = machine, pool: Tensor = images, **changes: Any) -> Tensor:
        return train(where, InMemoryPool(pool), **settings | changes)(images).patches_NTD

    first, without = encode(), encode(CPU)
    assert len(calls) == 2
    assert torch.equal(first, encode())
    assert torch.equal(first, without)
    assert len(calls) == 2
    [path] = tmp_path.glob("encoders/*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(first, encode())
    assert len(calls) == 3
    changed: list[dict[str, Any]] = [{"dim": 8}, {"seed": 1}, {"lr": 0.5}, {"pool": images.flip(0)}]
    for more in changed:
        assert not torch.equal(first, encode(**more)), more
    assert len(calls) == 3 + len(changed)
    assert len([*tmp_path.glob("encoders/*")]) == 2 * (1 + len(changed))  # weights and locks, no draft


def test_a_version_has_weights_of_its_own(tmp_path: Path) -> None:
    machine = replace(CPU, scratch=tmp_path)
    for version, temperature in ((1, 0.1), (2, 0.1), (1, 0.2)):
        heads = partial(SimClrHead, temperature=temperature, dim=3)
        train_encoder(machine, InMemoryPool(photographs(4)), replace(SETTINGS, version=version), heads)
    assert len([*tmp_path.glob("encoders/*.safetensors")]) == 3


def test_a_full_disk_loses_the_weights_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full)
    encoder = simclr(replace(CPU, scratch=tmp_path), InMemoryPool(photographs(4)), **BRIEF)
    assert encoder.size == (8, 8)
    assert [path.suffix for path in tmp_path.glob("encoders/*")] == [".lock"]


SCRIPT = """
import hashlib, numpy, torch
from benchmark.api import Machine
from benchmark.encoders.{name} import {name}
from benchmark.vision.encoding.encodings import InMemoryPool
images = torch.from_numpy(numpy.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=numpy.uint8))
encoding = {name}(Machine(torch.device("cpu")), InMemoryPool(images), epochs=2, batch_size=16)(images)
print(hashlib.sha256(encoding.patches_NTD.numpy().tobytes() + encoding.global_NE.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize("train", [simsiam, simclr])
def test_another_process_trains_the_same(train: Callable[..., FrozenBackbone]) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8))
    encoding = train(CPU, InMemoryPool(images), epochs=2, batch_size=16)(images)
    mine = hashlib.sha256(encoding.patches_NTD.numpy().tobytes() + encoding.global_NE.numpy().tobytes()).hexdigest()
    script = f"import torch; torch.set_num_threads({torch.get_num_threads()})\n{SCRIPT.format(name=train.__name__)}"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == mine


def accuracy(task: Any, label: str) -> float:
    """The accuracy in per cent of a nearest-neighbour classifier with 50 labelled images, the mean of ten draws."""
    encode = registry.get("encoder", notation.parse_label(label)[0])
    encoder: Callable[[Tensor], Encoding] = encode.build(
        CPU, encode.bind(notation.parse_label(label)[1]), task._encoder_pool
    )
    pool, tests = (
        F.normalize(encoder(images.expand(-1, 3, -1, -1)).global_NE) for images in (task._images, task._test_inputs)
    )
    labelled_sets = [np.random.default_rng(seed).permutation(task.num_pool)[:50] for seed in range(10)]
    predicted = [task._labels[which][(tests @ pool[which].T).argmax(1)] for which in labelled_sets]
    return 100 * float(np.mean([(predictions == task._test_labels).float().mean() for predictions in predicted]))


@pytest.mark.parametrize(
    ("label", "least"),
    [
        ("simsiam[{},lr={},smallest=0.5]", 75.0),
        ("simclr[{},lr={},temperature=0.5]", 78.0),
    ],
)
def test_features_of_digits_become_those_of_their_classes(label: str, least: float) -> None:
    spec = Spec.read("task", "digits")
    task, often = spec.plugin.build(CPU, spec.values), "batch_size=128,flip=false,precision=float32,epochs="
    untrained = accuracy(task, label.format(f"{often}1", 1e-9))
    learned = accuracy(task, label.format(f"{often}12", 0.2))
    assert learned > untrained + 10
    assert learned > least


# --- what is told of images ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("side", "parameters", "num_patches", "num_features"),
    [
        (8, {}, 4, 64),
        (15, {}, 4, 64),
        (16, {"width": 4}, 4, 32),
        (32, {"width": 4}, 16, 32),
        (72, {"width": 2, "size": 32}, 16, 16),
        (72, {"width": 2}, 64, 16),
        (64, {"model": "torchvision:resnet18"}, 4, 512),
    ],
)
def test_the_last_map_are_the_patches(
    side: int, parameters: dict[str, Any], num_patches: int, num_features: int
) -> None:
    """In networks that average over the last map, its mean is the global feature."""
    images = photographs(4, side)
    encoder = simclr(CPU, InMemoryPool(images), **{"epochs": 1, "precision": "float32", **parameters})
    assert encoder.size == ((side, side) if side <= 64 else (parameters.get("size", 64),) * 2)
    encoding = encoder(InMemoryPool(images).images(np.arange(4), encoder.size))
    assert encoding.patches_NTD.shape == (4, num_patches, num_features)
    torch.testing.assert_close(encoding.attention_NT.sum(1), torch.ones(4))
    lengths = np.linalg.norm(encoding.patches_NTD.numpy(), axis=2)
    np.testing.assert_allclose(encoding.attention_NT, lengths / lengths.sum(1, keepdims=True), rtol=1e-5)
    if side >= 16:
        torch.testing.assert_close(encoding.global_NE, encoding.patches_NTD.mean(1), atol=1e-5, rtol=1e-4)
    assert encoding.global_NE.shape == (4, num_features)


def test_patches_are_told_by_rows() -> None:
    """A network that passes its input through: each patch is its normalised pixel."""
    images = torch.arange(24, dtype=torch.uint8).view(1, 3, 2, 4)
    network = nn.Sequential(nn.Identity(), nn.Flatten())
    ones = torch.ones(3, 1, 1)
    encoding = FrozenBackbone((2, 4), network, network[0], 0 * ones, ones / 255)(images)
    assert encoding.patches_NTD[0].round().tolist() == [[at, at + 8, at + 16] for at in range(8)]


def test_images_without_features_have_even_attention() -> None:
    network = nn.Sequential(nn.Threshold(1e9, 0.0), nn.Flatten())
    ones = torch.ones(3, 1, 1)
    encoding = FrozenBackbone((2, 4), network, network[0], ones, ones)(photographs(3, 8)[:, :, :2, :4])
    assert encoding.attention_NT.tolist() == [[1 / 8] * 8] * 3


def test_the_last_map_is_the_last_of_the_images_shape() -> None:
    class Turned(nn.Module):
        """Its output has channels last, so that it is no feature map."""

        def forward(self, images: Tensor) -> Tensor:
            return images.permute(0, 2, 3, 1)

    network = nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.MaxPool2d(2), nn.Conv2d(5, 7, 1), Turned(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert find_last_map(network, (8, 12)) is network[2]
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(ValueError, match="no feature map of 2x2 positions or more for images of 8x8 pixels"):
        find_last_map(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), (8, 8))


def test_an_encoder_that_is_trained_is_a_strategys_encoder_like_any_other() -> None:
    """By its label, with gradients switched off, from a grid's task."""
    label = "simsiam[batch_size=64,epochs=1,flip=false]"
    assert Spec.read("strategy", f"coreset[encoder={label}]").values["encoder"] == label
    spec = Spec.read("task", "digits")
    task = spec.plugin.build(CPU, spec.values)
    with torch.no_grad():
        [part] = task.encode(None, np.array([3, 1]), label)
    own = simsiam(CPU, task._encoder_pool, batch_size=64, epochs=1, flip=False)(
        task._encoder_pool.images(np.array([3, 1]), (8, 8))
    )
    torch.testing.assert_close(part.global_NE, own.global_NE, atol=1e-4, rtol=1e-4)


# --- errors -------------------------------------------------------------------------------------
RANGES = {"width": 0, "size": 1, "epochs": 0, "batch_size": 1, "lr": -1.0, "weight_decay": -0.1, "smallest": 0.0,
          "colour": 1.5, "seed": -1, "dim": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("train", "parameters", "words"),
    [
        *((train, {name: value}, rf"{train.__name__}\[{name}={value}\]: must be ")
          for train in (simsiam, simclr) for name, value in RANGES.items()),
        (simsiam, {"layers": 0}, r"simsiam\[layers=0\]: must be at least 1"),
        (simsiam, {"dim": 3}, r"simsiam\[dim=3\]: must be at least 4"),
        (simclr, {"temperature": 0.0}, r"simclr\[temperature=0.0\]: must be positive"),
        (simclr, {"width": 8}, r"simclr\[width=8\]: has no effect with model=small_cnn"),
        (simclr, {"model": "resnet19"}, r"model=resnet19: no such network .did you mean resnet18"),
        (simclr, {"model": "linear_probe"}, r"simclr\[model=linear_probe\]: has no weights to train, choose another"),
        (simclr, {"model": "torchvision:alexnet"}, r"model=torchvision:alexnet does not take 8x8 images"),
        (simclr, {"lr": 1e30, "epochs": 3}, r"simclr\[lr=1e\+30\]: training diverged .*: lower lr"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(train: Callable[..., FrozenBackbone], parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}") as error:
        train(CPU, InMemoryPool(photographs(9)), **{"epochs": 1, **parameters})
    assert "\n" not in str(error.value)


def test_one_image_is_no_pool() -> None:
    with pytest.raises(ValueError, match=r"^simsiam: a pool of 1 images is too small"):
        simsiam(CPU, InMemoryPool(photographs(1)))
