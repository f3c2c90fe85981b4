"""How a segmenter is trained: the recipe, its fields' meaning, and the published one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from benchmark.vision.recipes import build_recipe, check_recipe

SMALL = "small"  # our own network, for canvases of 64 pixels
DEFAULT_MODEL = "deeplabv3_resnet50"  # the default
PUBLISHED_MODEL = "deeplabv3_resnet101"  # of the published recipe


@dataclass(frozen=True, kw_only=True)
class SegmenterRecipe:
    """How a segmenter is trained; every field is a parameter of every segmentation task.

    The loss is the mean cross-entropy of a batch's labelled pixels, without an auxiliary head. Raises ValueError for a
    value out of range and for a setting that has no effect beside the others.
    """

    model: str = DEFAULT_MODEL  # any DeepLabV3 or FCN of torchvision, or `small`
    weights: str = "default"  # of the backbone: none, default (ImageNet), or a .safetensors/.pth file
    dropout: float = 0.0  # before the last layer, beside what is in torchvision's heads

    crop: int = 512  # pixels a side of what is trained on, cut at random, small images padded; 0: whole images
    scale_min: float = 0.5  # an image is resized by a factor between these before it is cropped
    scale_max: float = 2.0
    flip: bool = True  # mirror half of the training images

    epochs: int = 100
    batch_size: int = 8
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4  # of all parameters
    schedule: Literal["poly", "cosine"] = "poly"  # of the learning rate, to zero at the end
    power: float = 0.9  # schedule=poly: of the share of training that is left
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of all but the last layer, in training and prediction
    channels_last: bool = True

    def __post_init__(self) -> None:
        check_recipe(self, self._ranges(), self._ineffective())

    def for_cpu(self) -> dict[str, Any]:
        """Settings of a fit that a few CPU cores do in minutes; {} where it is as small already."""
        small = {"model": SMALL, "crop": 96, "epochs": 32, "batch_size": 4, "lr": 0.03, "precision": "float32"}
        return {} if self.model == SMALL else small

    def _ranges(self) -> dict[str, bool]:
        return {
            "model small, or a DeepLabV3 or FCN of torchvision (deeplabv3_resnet50, fcn_resnet101 ...)": is_known_network(
                self.model
            ),
            "dropout in [0, 1)": 0 <= self.dropout < 1,
            "crop at least 0": self.crop >= 0,
            "scale_min positive": self.scale_min > 0,
            "scale_max at least scale_min": self.scale_max >= self.scale_min,
            "epochs at least 1": self.epochs >= 1,
            "batch_size at least 1": self.batch_size >= 1,
            "batch_size at least 3 with a DeepLabV3, which cannot learn from one image": self.batch_size >= 3
            or not self.model.startswith("deeplabv3"),
            "lr positive": self.lr > 0,
            "momentum in [0, 1)": 0 <= self.momentum < 1,
            "weight_decay at least 0": self.weight_decay >= 0,
            "power positive": self.power > 0,
        }

    def _ineffective(self) -> list[tuple[tuple[str, ...], bool, str]]:
        """(settings, whether they have no effect, beside what)."""
        return [
            (("weights",), self.model == SMALL, "model=small"),
            (("power",), self.schedule != "poly", f"schedule={self.schedule}"),
        ]


def is_known_network(model: str) -> bool:
    """Whether there is a network of that name."""
    return model in (SMALL, DEFAULT_MODEL, PUBLISHED_MODEL) or model in network_names()


def network_names() -> list[str]:
    """torchvision's networks whose last layer is one convolution."""
    import torchvision  # takes a second: only where it is used

    names: list[str] = torchvision.models.list_models(module=torchvision.models.segmentation)
    return [name for name in names if name.startswith(("deeplabv3", "fcn"))]


PUBLISHED = SegmenterRecipe(
    model=PUBLISHED_MODEL,
    crop=769,
    epochs=484,
    batch_size=16,
    lr=0.007,
    precision="float32",
    channels_last=False,
)
"""DeepLabV3's recipe (Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, section 4) on
Cityscapes: 90,000 steps of 16 crops, which are 484 epochs of train; fewer labelled images take fewer steps.

Not verified against the paper: the steps and the crop, and that learning rate and batch are those of its PASCAL VOC.
The weight decay is mmsegmentation's. The network is torchvision's: its output stride is 8 from the start, where the
paper trains at 16, and its rates of dilation are 12, 24 and 36.
"""


def missing_capabilities(**values: Any) -> set[str]:
    """The capabilities that a task's parameters take away. Raises the recipe's ValueError, before any data is read."""
    return {"sample"} if build_recipe(SegmenterRecipe, values).dropout == 0 else set()
