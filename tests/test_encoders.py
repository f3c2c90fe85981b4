"""Encoders: their features compared with manual computations, the cache on disk, and the seconds that are recorded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from torch import Tensor

from benchmark.api import Encoding, Indices, Machine
from benchmark.encoders.patch_pca import extract_patches, patch_pca
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.vision.encoding.encodings import SHARD_SIZE, Encodings, InMemoryPool, StreamedPool, resize_images
from benchmark.vision.encoding.feature_maps import class_attention
from benchmark.vision.encoding.vit import Vit
from tests._cells import cell, run

discovery.discover()
CPU = Machine(torch.device("cpu"))


def photographs(number: int = 40, side: int = 12) -> Tensor:
    """Smooth random images."""
    small = torch.rand(number, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(small, (side, side), mode="bilinear") * 255).byte()


# --- patch_pca ------------------------------------------------------------------------------
def test_patches_are_cut_by_rows() -> None:
    images = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    assert (extract_patches(images, 2) * 255).round().tolist() == [
        [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    ]
    assert extract_patches(torch.zeros(1, 3, 5, 7, dtype=torch.uint8), 2).shape == (1, 6, 12)


def test_patch_pca_is_scikit_learns_whitened_pca() -> None:
    images = photographs()
    encoding = patch_pca(CPU, InMemoryPool(images), patch=3, dims=5)(images)
    rows_PV = extract_patches(images, 3).flatten(0, 1).double().numpy()
    twin = PCA(5, whiten=True, svd_solver="full").fit(rows_PV)
    expected = twin.transform(rows_PV) * (len(rows_PV) / (len(rows_PV) - 1)) ** 0.5  # theirs divides by P - 1
    mine = encoding.patches_NTD.flatten(0, 1).numpy()
    np.testing.assert_allclose(np.abs(mine), np.abs(expected), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(mine.var(0), 1, rtol=1e-3)


def test_the_saliency_of_patch_pca_is_the_variance_of_pixels() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[0, :, :2, :2] = torch.tensor([[0, 200], [0, 200]], dtype=torch.uint8)
    images[0, :, 2:, 2:] = torch.tensor([[0, 100], [0, 100]], dtype=torch.uint8)
    encoding = patch_pca(CPU, InMemoryPool(images), patch=2)(images)
    torch.testing.assert_close(encoding.attention_NT, torch.tensor([[0.8, 0, 0, 0.2], [0.25] * 4]))
    assert encoding.patches_NTD.shape == (2, 4, 1)  # grey images of one pattern: one direction has all the variance
    assert encoding.global_NE.shape == (2, 16)


def test_a_pool_of_one_colour_has_one_component_which_is_nothing() -> None:
    encoding = patch_pca(CPU, InMemoryPool(torch.full((3, 1, 8, 8), 7, dtype=torch.uint8)))(
        torch.full((2, 3, 8, 8), 7).byte()
    )
    assert encoding.patches_NTD.shape == (2, 16, 1)
    assert not encoding.global_NE.any()


def test_a_size_that_a_transformer_cannot_take_is_said_in_one_line() -> None:
    with pytest.raises(ValueError, match="model=vit_tiny_patch16_224,size=8: ") as error:
        Vit(CPU, "vit_tiny_patch16_224", "none", 8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("parameters", [{"patch": 0}, {"patch": 13}, {"dims": 0}])
def test_patch_pca_refuses_patches_that_are_none(parameters: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"patch_pca\[patch="):
        patch_pca(CPU, InMemoryPool(photographs()), **parameters)


# --- transformers ---------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tiny() -> Vit:
    """A small transformer with random weights."""
    return Vit(CPU, "vit_tiny_patch16_224", "none", 64)


def test_dino_tells_196_patches_and_attention_of_six_heads() -> None:
    label = Spec.read("strategy", "geal[encoder=dino[weights=none]]").values["encoder"]
    assert label == "dino[weights=none]"
    dino = Vit(CPU, "vit_small_patch16_224.dino", "none", 224)
    assert dino.network.blocks[-1].attn.num_heads == 6
    encoding = dino(resize_images(photographs(2), (224, 224)))
    assert (encoding.patches_NTD.shape, encoding.attention_NT.shape, encoding.global_NE.shape) == (
        (2, 196, 384),
        (2, 196),
        (2, 384),
    )
    torch.testing.assert_close(encoding.attention_NT.sum(1), torch.ones(2))


def test_a_transformers_features_are_those_of_its_layers(tiny: Vit) -> None:
    """Compared with running its blocks one by one."""
    images = resize_images(photographs(3), (64, 64))
    encoding, network = tiny(images), tiny.network
    pixels = images.float().sub(torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1))
    tokens = network.patch_embed(pixels / torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1))
    tokens = network.norm_pre(network.patch_drop(network._pos_embed(tokens)))
    for number, block in enumerate(network.blocks):
        if number == len(network.blocks) - 1:
            torch.testing.assert_close(encoding.patches_NTD, network.norm(tokens)[:, 1:])
            attention = block.attn
            qkv = attention.qkv(block.norm1(tokens)).reshape(3, 17, 3, attention.num_heads, -1)
            weights = torch.stack(
                [
                    ((qkv[:, :1, 0, head] @ qkv[:, :, 1, head].mT) * attention.head_dim**-0.5).softmax(-1)[:, 0]
                    for head in range(attention.num_heads)
                ]
            ).mean(0)
            torch.testing.assert_close(class_attention(attention, block.norm1(tokens)), weights)
            torch.testing.assert_close(encoding.attention_NT, weights[:, 1:] / weights[:, 1:].sum(1, keepdim=True))
        tokens = block(tokens)
    torch.testing.assert_close(encoding.global_NE, network.norm(tokens)[:, 0])


def test_a_file_of_weights_takes_the_same_way(tiny: Vit, tmp_path: Path) -> None:
    """A state dict of the backbone, as the authors of DINO publish it, in both formats; the head in it is ignored."""
    images = resize_images(photographs(2), (64, 64))
    state = {name: value + 0.01 for name, value in tiny.network.state_dict().items()}
    torch.save(state | {"head.weight": torch.zeros(5, 192)}, tmp_path / "own.pth")
    save_file(state, tmp_path / "own.safetensors")
    machine = replace(CPU, data=tmp_path)
    from_pth, from_safetensors = (
        Vit(machine, "vit_tiny_patch16_224", f"own.{kind}", 64)(images) for kind in ("pth", "safetensors")
    )
    assert torch.equal(from_pth.global_NE, from_safetensors.global_NE)
    assert not torch.allclose(from_pth.global_NE, tiny(images).global_NE, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        ("vit_tiny_patch16_224", "gone.pth", "no such file"),
        ("resnet18", "none", "model=resnet18: .*vision transformer"),
        ("no_such_model", "none", "no_such_model"),
        ("vit_tiny_patch16_224", "own.npz", "own.npz: must end in .safetensors, .pth, .pt"),
    ],
)
def test_what_is_no_transformer_or_no_file_is_said_in_one_line(
    model: str, weights: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        Vit(replace(CPU, data=tmp_path), model, weights, 64)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_file({"cls_token": torch.zeros(1, 1, 7)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"does not fit the model"):
        Vit(replace(CPU, data=tmp_path), "vit_tiny_patch16_224", "other.safetensors", 64)


# --- kept on disk ---------------------------------------------------------------------------
def encodings(machine: Machine, images: Tensor, name: str = "data") -> Encodings:
    pool = InMemoryPool(images)
    return Encodings(pool, pool, name, machine)


def concatenate(parts: Iterator[Encoding]) -> list[Tensor]:
    encodings = list(parts)
    return [
        torch.cat([getattr(encoding, name) for encoding in encodings])
        for name in ("patches_NTD", "attention_NT", "global_NE")
    ]


def test_any_order_of_images_gets_the_rows_of_the_pool(tmp_path: Path) -> None:
    images = photographs(2 * SHARD_SIZE + 30, 8)
    machine = replace(CPU, scratch=tmp_path)
    order = np.random.default_rng(0).permutation(len(images))[:400]
    whole = concatenate(encodings(CPU, images).encode(np.arange(len(images)), "patch_pca"))
    for where in (CPU, machine, machine):  # in memory, written, read back
        for indices in (order, order[:3], order[:0]):
            for part, all_ in zip(
                concatenate(encodings(where, images).encode(indices, "patch_pca")), whole, strict=True
            ):
                assert torch.equal(part, all_[indices])
    assert len(list(tmp_path.glob("encodings/*/*.safetensors"))) == 3


@pytest.mark.parametrize("on_disk", [True, False])
def test_asked_again_it_gives_the_same_and_no_image_costs_nothing(on_disk: bool, tmp_path: Path) -> None:
    """Fresh and cached encodings are equal and in float32, in memory and on disk; no images need no shard."""
    cache = encodings(replace(CPU, scratch=tmp_path) if on_disk else CPU, photographs(20, 8))
    first = concatenate(cache.encode(np.arange(20), "patch_pca"))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("encodings/*/*")}
    again = concatenate(cache.encode(np.arange(20), "patch_pca"))
    assert all(map(torch.equal, first, again))
    assert {part.dtype for part in [*first, *again]} == {torch.float32}
    assert [len(part) for part in concatenate(cache.encode(np.arange(0), "patch_pca"))] == [0, 0, 0]
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("encodings/*/*")}


def test_a_damaged_shard_is_made_anew_and_other_images_have_their_own(tmp_path: Path) -> None:
    machine, images = replace(CPU, scratch=tmp_path), photographs(20, 8)
    first = concatenate(encodings(machine, images).encode(np.arange(20), "patch_pca"))
    [path] = tmp_path.glob("encodings/*/*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    again = concatenate(encodings(machine, images).encode(np.arange(20), "patch_pca"))
    assert all(map(torch.equal, first, again))
    concatenate(encodings(machine, images, "other data").encode(np.arange(20), "patch_pca"))
    concatenate(encodings(machine, images).encode(np.arange(20), "patch_pca[dims=3]"))
    assert len(list(tmp_path.glob("encodings/*"))) == 3


def tiny_network(size: int) -> torch.nn.Module:
    network: torch.nn.Module = Vit(CPU, "vit_tiny_patch16_224", "none", size).network
    return network


def keep(network: torch.nn.Module, shift: float, path: Path) -> None:
    save_file({name: value + shift for name, value in network.state_dict().items()}, path)


def test_weights_name_the_cache_by_their_content(tmp_path: Path) -> None:
    machine, images = replace(CPU, scratch=tmp_path, data=tmp_path), photographs(3, 8)
    label = "vit[model=vit_tiny_patch16_224,size=32,weights=own.safetensors]"
    features, network = [], tiny_network(32)
    for shift in (0.0, 0.1):
        keep(network, shift, tmp_path / "own.safetensors")
        features.append(concatenate(encodings(machine, images).encode(np.arange(3), label))[2])
    assert not torch.equal(*features)
    assert len(list(tmp_path.glob("encodings/*"))) == 2


def test_weights_that_are_exchanged_are_read_anew_or_refused(tmp_path: Path) -> None:
    machine, images = replace(CPU, scratch=tmp_path, data=tmp_path), photographs(3, 8)
    label, network = "vit[model=vit_tiny_patch16_224,size=32,weights=own.safetensors]", tiny_network(32)
    shards, features = encodings(machine, images), []
    for shift in (0.0, 0.1):
        keep(network, shift, tmp_path / "own.safetensors")
        os.utime(tmp_path / "own.safetensors", ns=(1, 1))  # of the same size and time, as `cp -p` makes them
        features.append(concatenate(shards.encode(np.arange(3), label))[2])
    assert not torch.equal(*features)
    encoder = shards.get_encoder(label)
    encoder.encoder = None
    keep(network, 0.2, tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="its file of weights was replaced while it was read"):
        encoder.build(InMemoryPool(images), machine)


def test_images_of_any_size_are_squashed() -> None:
    images = [torch.full((3, 10 + number, 20), number, dtype=torch.uint8) for number in range(4)]

    def read(indices: list[int]) -> Iterator[Tensor]:
        return (images[index] for index in indices)

    pool = StreamedPool(4, (10, 20), read, CPU.device)
    assert [int(image.max()) for image in pool.images(np.array([2, 0]), (6, 5))] == [2, 0]
    assert pool.images(np.array([], np.int64), (6, 5)).shape == (0, 3, 6, 5)
    grey = InMemoryPool(torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2))
    assert grey.images(np.array([1]), (2, 2))[0, 2].tolist() == [[4, 5], [6, 7]]


def test_the_seconds_of_training_an_encoder_outlive_the_process_that_did_it(tmp_path: Path) -> None:
    """The test set's shard is computed with stored weights, and its seconds include a share of their training."""
    machine, images = replace(CPU, scratch=tmp_path), photographs(20, 8)
    label = "simsiam[batch_size=10,dim=8,epochs=3]"
    first, other = (encodings(machine, images, name) for name in ("pool", "tests"))
    seconds, seconds_again = (
        sum(part.seconds for part in cache.encode(np.arange(20), label)) for cache in (first, other)
    )
    trained = first.get_encoder(label).encoder.seconds  # type: ignore[union-attr]
    assert trained > 0
    assert other.get_encoder(label).encoder.seconds == trained  # type: ignore[union-attr]
    assert min(seconds, seconds_again) >= trained


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_was_made_before_takes_no_seconds_now(on_disk: bool, tmp_path: Path) -> None:
    machine = replace(CPU, scratch=tmp_path if on_disk else None)
    shards = encodings(machine, photographs(20, 8), "pool")
    [first] = shards.encode(np.arange(12), "patch_pca")
    [again] = shards.encode(np.arange(6), "patch_pca")
    assert first.seconds_now >= first.seconds > 0
    assert (again.seconds_now, again.seconds) == (0, pytest.approx(first.seconds / 2))


# --- in a run -------------------------------------------------------------------------------
def test_the_seconds_of_an_encoding_are_told_once_made_and_again_from_the_cache(tmp_path: Path) -> None:
    """The second cell reads what the first has computed, and records the seconds of the computation."""
    cells = [cell("geal[encoder=patch_pca,k=3]", seed=seed) for seed in (0, 1)]
    events = run(cells, tmp_path)
    seconds = [event.measured.seconds for event in events if event.record.round > 0]  # type: ignore[union-attr]
    assert len(seconds) == 4
    assert min(measured["encode"] for measured in seconds) > 0
    assert max(measured["encode"] for measured in seconds) == pytest.approx(
        min(measured["encode"] for measured in seconds), rel=0.5
    )
    assert min(measured["select"] for measured in seconds) >= 0


def test_what_makes_an_encoding_is_no_selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that advances only while a shard is computed."""
    encode_shard, clock = Encodings.encode_shard, [0.0]

    def slow(self: Encodings, *arguments: Any) -> Encoding:
        shard = encode_shard(self, *arguments)
        clock[0] += 1
        return replace(shard, seconds=1.0)

    monkeypatch.setattr(Encodings, "encode_shard", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    events = run([cell("geal[encoder=patch_pca,k=3]", rounds=2, seed=seed) for seed in (0, 1)], tmp_path)
    seconds = [event.measured.seconds for event in events if event.record.round]  # type: ignore[union-attr]
    assert [measured["select"] for measured in seconds] == [0, 0]  # the first makes them, the second reads them
    assert min(measured["encode"] for measured in seconds) > 0.9 * clock[0] > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("geal[encoder=dina]", "no encoder is called 'dina' \\(did you mean 'dino'\\?\\)"),
        ("geal[encoder=patch_pca[path=2]]", "patch_pca has no parameter 'path' \\(did you mean 'patch'\\?\\)"),
        ("geal[encoder=patch_pca[patch=big]]", "must be a whole number or null"),
        ("coreset[encoder=5]", "'5' is not a name"),
        ("geal[encoder=null]", r"geal\[encoder=null\]: must name an encoder"),
        ("geal[encoder=vit]", r"vit\[model=...\] must be given"),
    ],
)
def test_an_encoder_is_checked_with_the_grid(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Spec.read("strategy", text)


def test_an_encoder_has_one_spelling_and_its_version_is_in_the_key() -> None:
    plain, with_default = (
        Spec.read("strategy", f"geal[encoder={label}]") for label in ("patch_pca", "patch_pca[dims=16]")
    )
    assert plain == with_default
    assert plain.identity()["encoders"] == {"patch_pca": 1}
    assert "encoders" not in Spec.read("strategy", "coreset").identity()


def test_every_task_kind_encodes_by_the_images_alone() -> None:
    """Scrambled labels change nothing."""
    for name in ("digits[epochs=1]", "scenes[epochs=1]"):
        spec = Spec.read("task", name)
        task: Any = spec.plugin.build(CPU, spec.values)
        indices: Indices = np.array([5, 900 % task.num_pool, 3])
        tensors = concatenate(task.encode(None, indices, "patch_pca"))
        scrambled_tensors = concatenate(task.scrambled(indices[:1], 1).encode(None, indices, "patch_pca"))
        assert all(map(torch.equal, tensors, scrambled_tensors))
        assert len(tensors[0]) == 3
