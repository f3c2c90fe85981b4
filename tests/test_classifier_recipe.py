"""The recipe: settings that it refuses, its learning rates, its batches and its augmentation, for the default and the
published one."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import nn

from benchmark.vision.classification import PUBLISHED, Recipe, missing_capabilities
from benchmark.vision.classification.augment import Batch, Normaliser, crop_and_flip, draw_epoch, split_batches
from benchmark.vision.classification.training import (
    LabelledImages,
    build_optimiser,
    learning_rate_schedule,
    refresh_statistics,
)
from benchmark.vision.fingerprints import derive_seed
from benchmark.vision.networks import build_network
from benchmark.vision.pixels import CHANNEL_STATISTICS, channel_moments

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0: must be in [0, 1)"),
        ({"width": 16, "model": "small_cnn"}, "width=16 has no effect with model=small_cnn"),
        ({"decay": 0.2}, "decay=0.2 has no effect with schedule=cosine"),
        ({"pad": 0, "full_crop": False}, "full_crop=False has no effect with pad=0"),
        ({"weights": "default"}, "weights=default has no effect with model=resnet18: no pretrained weights"),
        ({"momentum": 0.0}, "momentum=0.0: must be positive with nesterov=true"),
        ({"model": "resnet81"}, "model=resnet81: no such network (did you mean resnet18"),
        ({"model": "timm:resnet_10t"}, "did you mean timm:resnet10t"),
        ({"model": "googlenet"}, "no such network"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe(**settings)


def test_lacks_checks_the_recipe_and_names_sample_without_dropout() -> None:
    values = {**vars(Recipe()), "published": False, "root": "a folder"}
    assert missing_capabilities(**values) == {"sample"}
    assert missing_capabilities(**{**values, "dropout": 0.2}) == set()
    with pytest.raises(ValueError, match="lr=-1"):
        missing_capabilities(**{**values, "lr": -1.0})


def test_published_schedule_drops_tenfold_after_160_of_200_epochs() -> None:
    rates = [
        learning_rate_schedule(PUBLISHED).rate_at((number + step) / 200)
        for number in range(200)
        for step in (0.01, 0.99)
    ]
    assert rates == pytest.approx([0.1] * 320 + [0.01] * 80)


def test_cosine_warms_up_and_ends_at_zero() -> None:
    recipe = Recipe(warmup=0.1, lr=0.4)
    assert [learning_rate_schedule(recipe).rate_at(share) for share in (0.0, 0.05, 0.1, 0.55, 1.0)] == pytest.approx(
        [0, 0.2, 0.4, 0.2, 0]
    )


@pytest.mark.parametrize("num_images", [1, 127, 128, 129, 257, 1000])
def test_batches_never_leave_a_tail(num_images: int) -> None:
    sizes = [len(part) for part in split_batches(torch.arange(num_images), Recipe())]
    assert sum(sizes) == num_images
    assert max(sizes) <= 128
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-num_images // 128)


def test_drop_last_drops_the_tail() -> None:
    assert [len(part) for part in split_batches(torch.arange(1000), PUBLISHED)] == [128] * 7


def draws(recipe: Recipe, num_images: int = 4000) -> list[Batch]:
    return list(draw_epoch(num_images, recipe, torch.Generator().manual_seed(1), CPU))


def test_published_crop_never_starts_at_8_and_ours_does() -> None:
    for recipe, offsets in ((PUBLISHED, range(8)), (Recipe(), range(9))):
        offset_N2 = torch.cat([batch.offset_N2 for batch in draws(recipe)])
        for axis in (0, 1):
            counts = Counter(offset_N2[:, axis].tolist())
            assert set(counts) == set(offsets)
            assert min(counts.values()) > 0.7 * len(offset_N2) / len(offsets)


def test_an_epoch_holds_every_image_once_and_mirrors_half() -> None:
    batches = draws(Recipe())
    assert sorted(torch.cat([batch.positions_N for batch in batches]).tolist()) == list(range(4000))
    assert 0.45 < torch.cat([batch.flip_N for batch in batches]).double().mean() < 0.55
    assert not torch.cat([batch.flip_N for batch in draws(Recipe(flip=False))]).any()


def test_crop_mirrors_the_padded_image_first() -> None:
    image_HW = torch.arange(1.0, 7.0).view(2, 3)
    padded = torch.nn.functional.pad(image_HW, (1, 1, 1, 1)).expand(3, 1, 4, 5)
    offset_N2, flip_N = torch.tensor([[1, 1], [0, 2], [1, 0]]), torch.tensor([False, False, True])
    got = crop_and_flip(padded, offset_N2, flip_N, pad=1)[:, 0]
    assert got.tolist() == [[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [2, 3, 0]], [[0, 3, 2], [0, 6, 5]]]


def test_padding_has_the_mean_colour_or_is_black() -> None:
    images_N1HW = torch.full((1, 1, 4, 4), 200, dtype=torch.uint8)
    normaliser = Normaliser(torch.full((1, 1, 1), 100.0), torch.full((1, 1, 1), 50.0))
    batch = Batch(torch.tensor([0]), torch.tensor([[0, 0]]), torch.tensor([False]))
    for colour, value in (("mean", 0.0), ("black", -2.0)):
        got = batch.augment(images_N1HW, normaliser, Recipe(pad=1, pad_colour=colour))
        assert got.shape == (1, 3, 4, 4)
        assert got[0, 0, 0].tolist() == [value] * 4
        assert got[0, 2, 1:, 1:].unique().tolist() == [2.0]


def test_statistics_are_those_of_the_pool_or_as_published() -> None:
    images = torch.randint(0, 256, (1500, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean_K, deviation_K = channel_moments(images)
    assert torch.allclose(mean_K, images.double().mean((0, 2, 3)))
    assert torch.allclose(deviation_K, images.double().std((0, 2, 3), correction=0))
    assert channel_moments(torch.zeros_like(images))[1].tolist() == [1, 1, 1]
    assert Normaliser.from_name("cifar10", images).mean_K11.flatten().tolist() == pytest.approx([125.3, 123.0, 113.9])
    assert CHANNEL_STATISTICS["cifar100"][1] == (68.2, 65.4, 70.4)


def test_precise_statistics_are_the_mean_over_64_batches() -> None:
    network = build_network("small_cnn", 3, (8, 8), 64, "none", 0.0).train()
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(6, 3, 8, 8, generator=generator) for _ in range(70)]
    refresh_statistics(network, iter(batches), Recipe(model="small_cnn", precision="float32"))
    first = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    inputs = [network.backbone[0](batch).transpose(0, 1).flatten(1) for batch in islice(batches, 64)]
    assert torch.allclose(first.running_mean, torch.stack([x.mean(1) for x in inputs]).mean(0), atol=1e-6)
    assert torch.allclose(first.running_var, torch.stack([x.var(1) for x in inputs]).mean(0), atol=1e-5)
    assert first.momentum == 0.1


def test_weight_decay_leaves_out_normalisation_and_biases_unless_told() -> None:
    network = build_network("small_cnn", 3, (8, 8), 64, "none", 0.0)
    ours, published = (build_optimiser(network, replace(recipe, model="small_cnn")) for recipe in (Recipe(), PUBLISHED))
    decays = {id(p): group["weight_decay"] for group in ours.param_groups for p in group["params"]}
    assert {decays[id(p)] for p in network.parameters() if p.ndim > 1} == {5e-4}
    assert {decays[id(p)] for p in network.parameters() if p.ndim == 1} == {0.0}
    decays = {id(p): group["weight_decay"] for group in published.param_groups for p in group["params"]}
    assert {decays[id(p)] for p in network.parameters()} == {5e-4}


def test_seeds_are_derived_by_name() -> None:
    assert len({derive_seed(seed, name) for seed in range(3) for name in ("network", "batches", "dropout")}) == 9
    assert derive_seed(1, "batches") == derive_seed(1, "batches")


def test_grey_images_are_repeated() -> None:
    grey = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    labelled = LabelledImages(grey, torch.arange(5), Normaliser.from_name("pool", grey))
    batch = Batch(torch.arange(5), torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5, dtype=torch.bool))
    images_N3HW, labels_N = labelled.prepare_batch(batch, Recipe(pad=0))
    assert torch.equal(images_N3HW[:, 0], images_N3HW[:, 2])
    assert labels_N.tolist() == [0, 1, 2, 3, 4]
