"""The recipe of a detector: its fields and their meaning, and the published recipes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmark.vision.recipe_checks import build_recipe, check_recipe

SMALL = "small"  # our own backbone, for images of 64 x 64 pixels
DEFAULT_BACKBONE = "resnet50"
MMDET_PREFIX = "mmdet:"  # prefix of the models that mmdet builds
SSD, VGG, SSD_SIDE = "ssd300", "vgg16", 300  # SSD300, its backbone, and the side of its images in pixels
TORCHVISION_MODELS = ("fcos", "faster_rcnn", SSD)
BOX_FEATURE_MODELS = ("fcos", "faster_rcnn")  # models that implement `detect_with_features`


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """How a detector is built and trained. Every field is a parameter of every detection task.

    Raises:
        ValueError: a value is out of range, or a setting has no effect in combination with the others.
    """

    model: str = "fcos"  # fcos, faster_rcnn, ssd300 of torchvision, or mmdet:fcos, mmdet:faster_rcnn, mmdet:CONFIG
    backbone: str = DEFAULT_BACKBONE  # any ResNet or MobileNet of torchvision; for ssd300 vgg16; or `small`
    weights: str = "default"  # initial weights of the backbone: none, default (ImageNet), or a .safetensors/.pth file
    frozen_stages: int = 1  # number of backbone stages that stay fixed, besides the stem; -1: not even the stem
    norm: Literal["frozen", "batch"] = "frozen"  # the backbone's batch normalisation: fixed (frozen) or trained (batch)
    channels: int = 256  # channels of the feature maps; for ssd300, of the small backbone's last map
    convs: int | None = None  # convolutions in each tower of fcos; null: 4, or 1 with the small backbone
    head_norm: Literal["auto", "group", "none"] = (
        "auto"  # normalisation in the towers of fcos; auto: none, or group with the small backbone
    )

    default_boxes: Literal["coco", "voc"] = "coco"  # ssd300: sizes from 0.07 (coco) or 0.1 (voc) of the image's side

    dropout: float = 0.0  # rate of dropout before the classification layer; ssd300: of whole channels; not for mmdet

    center_sampling: float = 1.5  # fcos: locations within so many strides of a box's centre learn it; 0: any distance

    squash: int = 0  # resize every image to a square of this side in pixels; 0: keep the aspect ratio
    min_size: int = 800  # shorter side of the resized image, in pixels; 0: the stored size
    max_size: int = 1333  # upper limit of the longer side, in pixels
    flip: bool = True  # mirror half of the training images
    augment: Literal["none", "ssd"] = "none"  # further augmentation; ssd: colours, zooming out and crops

    epochs: int = 12
    batch_size: int = 8
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    bias_lr: float = 2.0  # learning rate of biases, as a multiple of lr
    bias_decay: bool = False  # apply weight decay to biases too
    schedule: Literal["step", "cosine"] = "cosine"
    milestones: str = "8/11"  # schedule=step: epochs after which the learning rate is divided by ten
    warmup: float = 0.05  # length of the warm-up: below 1 a share of training, otherwise a number of steps
    warmup_ratio: float = 0.1  # share of the learning rate at the first warm-up step
    warmup_kind: Literal["constant", "linear"] = "linear"
    clip: float = 10.0  # largest norm of the gradient; 0: no clipping
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # precision of the backbone, in training and prediction
    channels_last: bool = True

    def __post_init__(self) -> None:
        check_recipe(self, self._ranges(), self._ineffective())
        if self.schedule == "step" and any(epoch >= self.epochs for epoch in self.milestone_epochs):
            raise ValueError(f"milestones={self.milestones}: must come before the end, epochs={self.epochs}")
        if self.norm == "batch" and self.frozen_stages >= 0:
            raise ValueError(
                "norm=batch trains the batch normalisation of every stage, so none may be frozen: frozen_stages=-1"
            )
        if self.model == SSD and self.backbone == SMALL and self.min_size and not self.squash:
            raise ValueError(
                "model=ssd300 takes images of one size: set squash=PIXELS, or min_size=0 if all images have it already"
            )
        untrained = self.weights == "none" and self.is_from_torchvision and self.backbone != SMALL
        if untrained and ((self.norm == "frozen" and self.model != SSD) or self.frozen_stages >= 0):
            change = "frozen_stages=-1" if self.model == SSD else "norm=batch,frozen_stages=-1"
            raise ValueError(
                f"weights=none: the backbone starts from random weights, so all of it must be trained: set {change}"
            )

    def for_cpu(self) -> dict[str, Any]:
        """Settings of a fit that a few CPU cores finish in minutes; {} if the recipe is small enough already."""
        small = {"backbone": SMALL, "channels": 32, "epochs": 30, "lr": 0.02, "min_size": 96, "max_size": 256}
        return {} if self.backbone == SMALL else small | {"precision": "float32"}

    @property
    def revision(self) -> int:
        """How often this model's numbers have changed; it is added to the version of the task that has the recipe."""
        return {f"{MMDET_PREFIX}fcos": 1}.get(self.model, 0)

    @property
    def is_from_torchvision(self) -> bool:
        """Whether torchvision builds the model, and not mmdet."""
        return not self.model.startswith(MMDET_PREFIX)

    @property
    def num_convs(self) -> int:
        """Number of convolutions in each tower of FCOS."""
        return self.convs if self.convs is not None else 1 if self.backbone == SMALL else 4

    @property
    def has_group_norm(self) -> bool:
        """Whether the towers of FCOS use group normalisation."""
        return self.head_norm == "group" or (self.head_norm == "auto" and self.backbone == SMALL)

    def num_warmup_steps(self, num_steps: int) -> int:
        """Number of warm-up steps in a fit of `num_steps`.

        Raises:
            ValueError: the warm-up would take the whole fit.
        """
        steps = round(self.warmup * num_steps) if self.warmup < 1 else round(self.warmup)
        if steps >= num_steps:
            raise ValueError(
                f"warmup={self.warmup:g} steps, but training takes {num_steps}: set fewer, or a share below 1"
            )
        return steps

    @property
    def milestone_epochs(self) -> list[int]:
        """The epochs of `milestones`."""
        return [int(epoch) for epoch in self.milestones.split("/") if epoch]

    def _ranges(self) -> dict[str, bool]:
        """Each field and its condition, and whether the condition holds."""
        is_mmdet = self.model.startswith(MMDET_PREFIX) and self.model != MMDET_PREFIX
        is_known_model = is_mmdet or self.model in TORCHVISION_MODELS
        is_ssd, choices = self.model == SSD, "a ResNet or MobileNet of torchvision (resnet50, mobilenet_v3_large ...)"
        has_ssd_size = self.squash == SSD_SIDE or not is_ssd or self.backbone == SMALL
        return {
            "model fcos, faster_rcnn, ssd300, mmdet:fcos, mmdet:faster_rcnn or mmdet:CONFIG": is_known_model,
            f"backbone small, or {choices}": is_ssd or is_known_backbone(self.backbone),
            "backbone small or vgg16 with model=ssd300": not is_ssd or self.backbone in (SMALL, VGG),
            "frozen_stages from -1 to 4": -1 <= self.frozen_stages <= 4,
            "channels a positive multiple of 32": self.channels > 0 and self.channels % 32 == 0,
            "convs at least 1": self.num_convs >= 1,
            "dropout in [0, 1)": 0 <= self.dropout < 1,
            "squash at least 0": self.squash >= 0,
            f"squash {SSD_SIDE} with model=ssd300,backbone=vgg16": has_ssd_size,
            "min_size at least 0": self.min_size >= 0,
            "max_size at least min_size": self.max_size >= self.min_size,
            "epochs at least 1": self.epochs >= 1,
            "batch_size at least 1": self.batch_size >= 1,
            "lr positive": self.lr > 0,
            "momentum in [0, 1)": 0 <= self.momentum < 1,
            "weight_decay at least 0": self.weight_decay >= 0,
            "bias_lr at least 0": self.bias_lr >= 0,
            "milestones epochs, as in 8/11": re.fullmatch(r"(\d+(/\d+)*)?", self.milestones) is not None,
            "warmup at least 0": self.warmup >= 0,
            "center_sampling at least 0": self.center_sampling >= 0,
            "warmup_ratio in [0, 1]": 0 <= self.warmup_ratio <= 1,
            "clip at least 0": self.clip >= 0,
        }

    def _ineffective(self) -> list[tuple[tuple[str, ...], bool, str]]:
        """Triples of settings, whether they have no effect, and the setting that is the reason."""
        is_mmdet = self.model.startswith(MMDET_PREFIX)
        backbone_settings = ("backbone", "norm", "channels")
        return [
            (backbone_settings, is_mmdet, f"model={self.model}: its configuration sets it"),
            (("convs", "head_norm"), self.model != "fcos", f"model={self.model}"),
            (("dropout",), self.model not in TORCHVISION_MODELS, f"model={self.model}"),
            (("default_boxes",), self.model != SSD, f"model={self.model}"),
            (("default_boxes",), self.backbone == SMALL, "backbone=small"),
            (("center_sampling",), self.model == SSD, f"model={self.model}"),
            (("weights", "frozen_stages", "norm"), self.backbone == SMALL, "backbone=small"),
            (("norm", "channels"), self.backbone == VGG, "backbone=vgg16"),
            (("min_size", "max_size"), self.squash > 0 and self.min_size > 0, f"squash={self.squash}"),
            (("max_size",), self.min_size == 0, "min_size=0"),
            (("milestones",), self.schedule != "step", f"schedule={self.schedule}"),
            (("warmup_ratio", "warmup_kind"), self.warmup == 0, "warmup=0"),
            (("bias_decay",), self.weight_decay == 0, "weight_decay=0"),
        ]


def is_known_backbone(backbone: str) -> bool:
    """Whether there is a backbone of that name."""
    return backbone in (SMALL, DEFAULT_BACKBONE) or backbone in backbone_names()


def backbone_names() -> list[str]:
    """The names of torchvision's ResNets (with ResNeXts and wide ResNets) and MobileNets."""
    import torchvision  # importing it takes a second

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if name.startswith(("resne", "wide_resnet", "mobilenet"))]


PUBLISHED_FCOS_COCO = DetectorRecipe(
    center_sampling=0.0,
    schedule="step",
    warmup=500.0,
    warmup_ratio=1 / 3,
    warmup_kind="constant",
    precision="float32",
    channels_last=False,
)
"""The training of ISAL's FCOS on COCO (Liu et al., 2021, section 4.2 and its code); other fields keep their defaults.

The network is torchvision's, which differs from the paper's (docs/recipes.md); `mmdet:fcos` is the paper's network.
"""
PUBLISHED_FCOS_VOC = replace(PUBLISHED_FCOS_COCO, clip=8.0)
"""The same on VOC2012: images of COCO's size, 1333x800, and gradients clipped at norm 8."""

PUBLISHED_SSD300 = DetectorRecipe(
    model=SSD, backbone=VGG, frozen_stages=-1, squash=SSD_SIDE, augment="ssd",
    default_boxes="voc",
    epochs=300, batch_size=32, lr=0.001, weight_decay=5e-4, bias_lr=1.0, bias_decay=True,
    schedule="step", milestones="240", warmup=300.0, warmup_ratio=0.001, clip=0.0, precision="float32",
    channels_last=False,
)  # fmt: skip
"""SSD300 on VOC 2007 and 2012 as GEAL and FreeSel train it (Xie et al., 2021 and 2023, and their code, which runs 30
epochs over the data repeated ten times); other fields keep their defaults.

They use mmdet's SSD, whose pixel mean is (123.675, 116.28, 103.53); ssd.py and ssd_augment.py list how torchvision's
differs. The sizes of batches here differ by at most one image.
"""


def missing_capabilities(**values: Any) -> set[str]:
    """Returns the capabilities that a detection task with these parameters does not have.

    Args:
        values: all parameters of the task, the recipe's fields among them.

    Raises:
        ValueError: the recipe is invalid. No data are read before.
    """
    recipe = build_recipe(DetectorRecipe, values)
    missing = {
        "proposals": "rcnn" not in recipe.model,
        "box_features": recipe.model not in BOX_FEATURE_MODELS,
        "sample": recipe.dropout == 0,
    }
    return {capability for capability, lacking in missing.items() if lacking}
