"""How a detector is trained: the recipe, its fields' meaning, and the published ones."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmark.vision.recipes import build_recipe, check_recipe

SMALL = "small"  # our own backbone, for canvases of 64 pixels
DEFAULT_BACKBONE = "resnet50"  # the default
MMDET_PREFIX = "mmdet:"  # models whose name begins so are built by mmdet
SSD, VGG, SSD_SIDE = "ssd300", "vgg16", 300  # SSD300, the backbone it is defined on, and the pixels a side it takes
TORCHVISION_MODELS = ("fcos", "faster_rcnn", SSD)
BOX_FEATURE_MODELS = ("fcos", "faster_rcnn")  # of which is known what their class layer sees of a box


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """How a detector is trained; every field is a parameter of every detection task.

    Raises ValueError for a value out of range and for a setting that has no effect beside the others.
    """

    model: str = "fcos"  # fcos, faster_rcnn, ssd300 of torchvision, or mmdet:fcos, mmdet:faster_rcnn, mmdet:CONFIG
    backbone: str = DEFAULT_BACKBONE  # torchvision's: any of its ResNets and MobileNets, vgg16 for ssd300; or `small`
    weights: str = "default"  # of the backbone: none, default (ImageNet), or a .safetensors/.pth file
    frozen_stages: int = 1  # stages of the backbone that are not trained, after the stem; -1: all is trained
    norm: Literal["frozen", "batch"] = "frozen"  # the backbone's batch normalisation: as it came, or trained
    channels: int = 256  # of the feature maps; ssd300: of the last one on the small backbone
    convs: int | None = None  # of each tower of fcos; null: 4, or 1 on the small backbone
    head_norm: Literal["auto", "group", "none"] = (
        "auto"  # in the towers of fcos; auto: none, or group on the small backbone
    )

    dropout: float = 0.0  # before the class layer of fcos and faster_rcnn

    center_sampling: float = 1.5  # of fcos: strides from a centre within which places learn a box; 0: all

    squash: int = 0  # pixels a side of every image, whatever its shape; 0: keep its shape
    min_size: int = 800  # shorter side of an image, in pixels; 0: as it is stored
    max_size: int = 1333  # longer side at most
    flip: bool = True  # mirror half of the training images
    augment: Literal["none", "ssd"] = "none"  # besides; ssd: its colours, zooming out and crops

    epochs: int = 12
    batch_size: int = 8
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    bias_lr: float = 2.0  # learning rate of biases, as a multiple
    bias_decay: bool = False  # weight decay on biases too
    schedule: Literal["step", "cosine"] = "cosine"
    milestones: str = "8/11"  # schedule=step: epochs after which the learning rate falls to a tenth
    warmup: float = 0.05  # below 1 a share of training, from 1 on a number of steps
    warmup_ratio: float = 0.1  # of the learning rate at the first of them
    warmup_kind: Literal["constant", "linear"] = "linear"
    clip: float = 10.0  # largest norm of the gradient; 0: any
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the backbone, in training and prediction
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
                "model=ssd300 takes images of one size: set squash=PIXELS, or min_size=0 where all have it"
            )
        untrained = self.weights == "none" and self.model in TORCHVISION_MODELS and self.backbone != SMALL
        if untrained and ((self.norm == "frozen" and self.model != SSD) or self.frozen_stages >= 0):
            change = "frozen_stages=-1" if self.model == SSD else "norm=batch,frozen_stages=-1"
            raise ValueError(
                f"weights=none: the backbone starts from random numbers, so all of it must be trained: set {change}"
            )

    def for_cpu(self) -> dict[str, Any]:
        """Settings of a fit that a few CPU cores do in minutes; {} where it is as small already."""
        small = {"backbone": SMALL, "channels": 32, "epochs": 30, "lr": 0.02, "min_size": 96, "max_size": 256}
        return {} if self.backbone == SMALL else small | {"precision": "float32"}

    @property
    def num_convs(self) -> int:
        """Convolutions of each tower."""
        return self.convs if self.convs is not None else 1 if self.backbone == SMALL else 4

    @property
    def has_group_norm(self) -> bool:
        """Whether towers are normalised by group."""
        return self.head_norm == "group" or (self.head_norm == "auto" and self.backbone == SMALL)

    def num_warmup_steps(self, num_steps: int) -> int:
        """Steps of warm-up among so many. ValueError where nothing else is left."""
        steps = round(self.warmup * num_steps) if self.warmup < 1 else round(self.warmup)
        if steps >= num_steps:
            raise ValueError(
                f"warmup={self.warmup:g} steps, of {num_steps} that training takes: set fewer, or a share below 1"
            )
        return steps

    @property
    def milestone_epochs(self) -> list[int]:
        """The epochs of `milestones`."""
        return [int(epoch) for epoch in self.milestones.split("/") if epoch]

    def _ranges(self) -> dict[str, bool]:
        offered = self.model in TORCHVISION_MODELS or (
            self.model.startswith(MMDET_PREFIX) and len(self.model) > len(MMDET_PREFIX)
        )
        ssd, others = self.model == SSD, "a ResNet or MobileNet of torchvision (resnet50, mobilenet_v3_large ...)"
        squashed = self.squash == SSD_SIDE or not ssd or self.backbone == SMALL
        return {
            "model fcos, faster_rcnn, ssd300, mmdet:fcos, mmdet:faster_rcnn or mmdet:CONFIG": offered,
            f"backbone small, or {others}": ssd or is_known_backbone(self.backbone),
            "backbone small or vgg16 with model=ssd300": not ssd or self.backbone in (SMALL, VGG),
            "frozen_stages from -1 to 4": -1 <= self.frozen_stages <= 4,
            "channels a positive multiple of 32": self.channels > 0 and self.channels % 32 == 0,
            "convs at least 1": self.num_convs >= 1,
            "dropout in [0, 1)": 0 <= self.dropout < 1,
            "squash at least 0": self.squash >= 0,
            f"squash {SSD_SIDE} with model=ssd300,backbone=vgg16": squashed,
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
        """(settings, whether they have no effect, beside what)."""
        theirs = self.model.startswith(MMDET_PREFIX)
        own = ("backbone", "norm", "channels")
        return [
            (own, theirs, f"model={self.model}: its configuration says it"),
            (("convs", "head_norm"), self.model != "fcos", f"model={self.model}"),
            (("dropout",), self.model not in BOX_FEATURE_MODELS, f"model={self.model}"),
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
    """Whether torchvision has a backbone of that name."""
    return backbone in (SMALL, DEFAULT_BACKBONE) or backbone in backbone_names()


def backbone_names() -> list[str]:
    """torchvision's ResNets (ResNeXts and wide ones too) and MobileNets."""
    import torchvision  # takes a second: only where it is used

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
"""ISAL's FCOS on COCO (Liu et al., 2021, section 4.2 and its code): the other fields are `DetectorRecipe`'s own.

Of training, that is: the network is torchvision's, which differs (docs/recipes.md); `mmdet:fcos` is the paper's.
"""
PUBLISHED_FCOS_VOC = replace(PUBLISHED_FCOS_COCO, clip=8.0)
"""The same on VOC2012: at COCO's 1333x800, its gradient clipped at 8."""

PUBLISHED_SSD300 = DetectorRecipe(
    model=SSD, backbone=VGG, frozen_stages=-1, squash=SSD_SIDE, augment="ssd",
    epochs=300, batch_size=32, lr=0.001, weight_decay=5e-4, bias_lr=1.0, bias_decay=True,
    schedule="step", milestones="240", warmup=300.0, warmup_ratio=0.001, clip=0.0, precision="float32",
    channels_last=False,
)  # fmt: skip
"""SSD300 on VOC 2007 and 2012 as GEAL and FreeSel train it (Xie et al., 2021 and 2023, and their code: 30 epochs of
tenfold data): the other fields are `DetectorRecipe`'s own.

Theirs is mmdet's SSD, whose mean is (123.675, 116.28, 103.53); ssd.py and ssd_augment.py say what torchvision's does
otherwise. Batches are of equal size, give or take one image.
"""


def missing_capabilities(**values: Any) -> set[str]:
    """The capabilities that a task's parameters take away. Raises the recipe's ValueError, before any data is read."""
    recipe = build_recipe(DetectorRecipe, values)
    missing = {
        "proposals": "rcnn" not in recipe.model,
        "box_features": recipe.model not in BOX_FEATURE_MODELS,
        "sample": recipe.dropout == 0,
    }
    return {capability for capability, lacking in missing.items() if lacking}
