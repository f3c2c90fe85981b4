"""Backbones of timm and torchvision as encoders: preprocessing beside the library's, features, files of weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.data.config import resolve_data_config, resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor

from benchmark.api import Encoding, Machine, build_encoder
from benchmark.plugins import discovery
from benchmark.vision.encoding.backbones import load_backbone
from benchmark.vision.encoding.encodings import Encodings, InMemoryPool, StreamedPool
from tests._cells import cell, run

discovery.discover()
CPU = Machine(torch.device("cpu"))
SMALL = {  # architectures of the foundation models, on small images and with random weights
    "dinov2": "dinov2[size=56,weights=none]",
    "dinov3": "dinov3[size=64,weights=none]",
    "clip": "clip[model=vit_base_patch32_clip_224.openai,size=64,weights=none]",
    "siglip": "siglip[model=vit_base_patch32_siglip_256.v2_webli,size=64,weights=none]",
}


def odd_picture(height: int = 37, width: int = 91) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8))


def as_pillow(image_3HW: Tensor) -> Image.Image:
    return Image.fromarray(image_3HW.permute(1, 2, 0).numpy())


def build(label: str, machine: Machine = CPU) -> Any:
    return build_encoder(label, InMemoryPool(odd_picture()[None]), machine)


# --- preprocessing --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "model",
    [
        "vit_small_patch16_dinov3.lvd1689m",
        "vit_small_patch16_224.dino",
        "resnet10t.c3_in1k",
        "convnext_atto.d2_in1k",
        "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m",  # with CLIP's statistics
        "tf_efficientnet_b0.ns_jft_in1k",
        "convnextv2_nano.fcmae_ft_in22k_in1k_384",  # squashed
    ],
)
@pytest.mark.parametrize("shape", [(37, 91), (300, 211)])
def test_an_odd_picture_is_prepared_as_by_timm(model: str, shape: tuple[int, int]) -> None:
    encoder, picture = load_backbone(CPU, model, "none", None), odd_picture(*shape)
    config = resolve_model_data_config(timm.create_model(model, pretrained=False))
    expected_3HW = create_transform(**config, is_training=False)(as_pillow(picture))
    prepared_N3HW = encoder.prepare([picture, picture])
    assert prepared_N3HW.dtype == torch.uint8
    assert tuple(prepared_N3HW.shape) == (2, *config["input_size"])
    assert torch.equal(encoder.preprocessing.normalise(prepared_N3HW)[1], expected_3HW)


@pytest.mark.parametrize("name", [*SMALL, "vit"])
def test_encoders_by_name_have_the_preprocessing_of_their_weights(name: str) -> None:
    """At another size too; CLIP's and SigLIP's statistics are not ImageNet's."""
    label = SMALL.get(name, "vit[model=vit_tiny_patch16_224.augreg_in21k,size=64,weights=none]")
    encoder = build(label)
    models = {"dinov2": "vit_small_patch14_dinov2.lvd142m", "dinov3": "vit_small_patch16_dinov3.lvd1689m"}
    model = models.get(name) or label.partition("model=")[2].partition(",")[0]
    size = encoder.size[0]
    config = resolve_data_config(
        {"input_size": (3, size, size)}, pretrained_cfg=timm.get_pretrained_cfg(model).to_dict()
    )
    expected_3HW = create_transform(**config, is_training=False)(as_pillow(odd_picture()))
    assert torch.equal(encoder.preprocessing.normalise(encoder.prepare([odd_picture()]))[0], expected_3HW)
    assert (config["mean"] == (0.485, 0.456, 0.406)) == (name in ("dinov2", "dinov3"))


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small"])
def test_an_odd_picture_is_prepared_as_by_torchvision(model: str) -> None:
    encoder = load_backbone(CPU, f"torchvision:{model}", "none", None)
    transform = torchvision.models.get_model_weights(model).DEFAULT.transforms()
    prepared_N3HW = encoder.preprocessing.normalise(encoder.prepare([odd_picture()]))
    assert torch.equal(prepared_N3HW[0], transform(as_pillow(odd_picture())))


def test_a_pool_of_pictures_of_many_sizes_is_cropped_and_not_squashed(tmp_path: Path) -> None:
    """Encodings of a pool are those of its images, each prepared by itself, in memory and from disk."""
    pictures = [odd_picture(30 + number, 90 - number) for number in range(5)]

    def read(indices: list[int]) -> Iterator[Tensor]:
        return (pictures[index] for index in indices)

    pool = StreamedPool(5, (30, 90), read, CPU.device)
    label = "vit[model=vit_tiny_patch16_224,size=32,weights=none]"
    encoder = build(label)
    expected = torch.cat([encoder(encoder.prepare([pictures[index]])).global_NE for index in (3, 1)])
    for _ in range(2):
        shards = Encodings(pool, pool, "pictures", replace(CPU, scratch=tmp_path))
        [part] = shards.encode(np.array([3, 1]), label)
        torch.testing.assert_close(part.global_NE, expected, atol=1e-5, rtol=1e-5)
    squashed = encoder(pool.images(np.array([3, 1]), encoder.size)).global_NE
    assert not torch.allclose(squashed, expected, atol=1e-3)


# --- features -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("label", "num_patches", "num_features", "has_class_token"),
    [
        (SMALL["dinov2"], 16, 384, True),
        (SMALL["dinov3"], 16, 384, False),  # has one, but its attention depends on positions
        (SMALL["clip"], 4, 768, True),
        (SMALL["siglip"], 4, 768, False),
        ("backbone[model=resnet10t,size=64,weights=none]", 4, 512, False),
        ("backbone[model=convnext_atto,size=64,weights=none]", 4, 320, False),
        ("backbone[model=swin_tiny_patch4_window7_224,size=64,weights=none]", 4, 768, False),
        ("backbone[model=torchvision:resnet18,size=64,weights=none]", 4, 512, False),
        pytest.param("backbone[model=torchvision:vit_b_16,weights=none]", 1, 768, False, marks=pytest.mark.slow),
    ],
)
def test_architectures_with_random_weights(
    label: str, num_patches: int, num_features: int, has_class_token: bool
) -> None:
    encoder = build(label)
    images_N3HW = encoder.prepare([odd_picture(), odd_picture(50, 50)])
    encoding: Encoding = encoder(images_N3HW)
    assert tuple(encoding.patches_NTD.shape) == (2, num_patches, num_features)
    assert tuple(encoding.global_NE.shape) == (2, num_features)
    assert encoding.global_NE.isfinite().all()
    torch.testing.assert_close(encoding.attention_NT.sum(1), torch.ones(2))
    shares_NT = encoding.patches_NTD.norm(dim=2)
    by_norm_NT = shares_NT / shares_NT.sum(1, keepdim=True)
    if num_patches > 1:
        assert torch.allclose(encoding.attention_NT, by_norm_NT, atol=1e-5) != has_class_token
    assert torch.equal(build(label)(images_N3HW).global_NE, encoding.global_NE)


@pytest.mark.parametrize("name", SMALL)
def test_the_global_feature_is_the_librarys_pooled_feature(name: str) -> None:
    encoder = build(SMALL[name])
    images_N3HW = encoder.prepare([odd_picture()])
    [network] = encoder.describe.args
    with torch.no_grad():
        pooled_NE = network(encoder.preprocessing.normalise(images_N3HW))
    torch.testing.assert_close(encoder(images_N3HW).global_NE, pooled_NE)


# --- files of weights -----------------------------------------------------------------------------
def test_positions_in_a_file_are_resized_to_other_images(tmp_path: Path) -> None:
    """As timm does: DINOv2's file holds the positions of images of 518 pixels, and 224 are the default here."""
    model, machine = "vit_tiny_patch16_224", replace(CPU, data=tmp_path)
    network = timm.create_model(model, img_size=64)
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    images_N3HW = torch.stack([odd_picture(96, 96)])
    [loaded] = load_backbone(machine, model, "own.safetensors", 96).describe.args
    assert torch.equal(loaded.blocks[3].mlp.fc1.weight, network.blocks[3].mlp.fc1.weight)
    assert loaded.pos_embed.shape[1] == 1 + 36
    torch.testing.assert_close(loaded.pos_embed[:, 0], network.pos_embed[:, 0])
    [same] = load_backbone(machine, model, "own.safetensors", 64).describe.args
    assert torch.equal(same.pos_embed, network.pos_embed)
    assert load_backbone(machine, model, "own.safetensors", 96)(images_N3HW).global_NE.isfinite().all()


def test_only_the_classifier_of_a_file_is_left_out(tmp_path: Path) -> None:
    """ConvNeXt's last normalisation has a name that begins like that of its classifier."""
    network = timm.create_model("convnext_atto")
    with torch.no_grad():
        network.head.norm.weight.fill_(2.0)
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    [loaded] = load_backbone(replace(CPU, data=tmp_path), "convnext_atto", "own.safetensors", 64).describe.args
    assert loaded.head.norm.weight.unique().tolist() == [2.0]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("backbone[model=no_such_model,weights=none]", "model=no_such_model: .*give a model of timm"),
        ("backbone[model=torchvision:resnet19,weights=none]", "model=torchvision:resnet19: no such network"),
        ("dinov2[weights=gone.pth]", "no such file"),
        ("dinov2[weights=own.npz]", "own.npz: must end in .safetensors, .pth, .pt"),
        ("dinov2[weights=other.safetensors]", "other.safetensors: does not fit the model"),
        ("siglip[size=3,weights=none]", "model=vit_base_patch16_siglip_224.webli"),
    ],
)
def test_mistakes_are_one_line(label: str, words: str, tmp_path: Path) -> None:
    save_file({"patch_embed.proj.weight": torch.zeros(1, 1, 7)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=words) as error:
        build(label, replace(CPU, data=tmp_path))
    assert "\n" not in str(error.value)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise FileNotFoundError("no connection\nand more")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        ValueError, match=r"^model=vit_small\S+: its weights cannot be fetched \(no connection\): give w"
    ):
        build("dinov2")


# --- the grid -------------------------------------------------------------------------------------
@pytest.mark.parametrize("encoder", ["patch_pca", "vit[model=vit_tiny_patch16_224,size=32,weights=none]"])
@pytest.mark.parametrize("model", ["linear_probe", "mlp_probe", "knn_probe"])
def test_probes_on_digits(encoder: str, model: str, tmp_path: Path) -> None:
    task = f"digits[encoder={encoder},epochs=5,model={model}]"
    events = run([cell(name, rounds=2, task=task) for name in ("random", "margin", "badge")], tmp_path)
    assert [len(event.record.bought) for event in events] == [20, 5] * 3  # type: ignore[union-attr]
