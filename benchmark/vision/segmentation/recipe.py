"""The recipe of a segmentation network: its fields and their meaning, and the published recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from benchmark.vision.recipe_checks import build_recipe, check_recipe

SMALL = "small"  # our own network, for images of 64 x 64 pixels
DEFAULT_MODEL = "deeplabv3_resnet50"
PUBLISHED_MODEL = "deeplabv3_resnet101"


@dataclass(frozen=True, kw_only=True)
class SegmenterRecipe:
    """How a segmentation network is built and trained. Every field is a parameter of every segmentation task.

    The loss is the mean cross-entropy over a batch's labelled pixels. There is no auxiliary head.

    Raises:
        ValueError: a value is out of range, or a setting has no effect in combination with the others.
    """

    model: str = DEFAULT_MODEL  # any DeepLabV3 or FCN of torchvision, or `small`
    weights: str = "default"  # initial weights of the backbone: none, default (ImageNet), or a .safetensors/.pth file
    dropout: float = 0.0  # rate of dropout before the last layer, in addition to that in torchvision's heads

    crop: int = 512  # side in pixels of the random crops in training, small images are padded; 0: whole images
    scale_min: float = 0.5  # a random factor between these resizes an image before it is cropped
    scale_max: float = 2.0
    flip: bool = True  # mirror half of the training images

    epochs: int = 100
    batch_size: int = 8
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4  # of all parameters, biases and normalisation included
    schedule: Literal["poly", "cosine"] = "poly"  # how the learning rate decays to zero
    power: float = 0.9  # schedule=poly: exponent of the share of training that is left
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of all but the last layer, in training and prediction
    channels_last: bool = True

    def __post_init__(self) -> None:
        check_recipe(self, self._ranges(), self._ineffective())

    def for_cpu(self) -> dict[str, Any]:
        """Settings of a fit that a few CPU cores finish in minutes; {} if the recipe is small enough already."""
        small = {"model": SMALL, "crop": 96, "epochs": 32, "batch_size": 4, "lr": 0.03, "precision": "float32"}
        return {} if self.model == SMALL else small

    def _ranges(self) -> dict[str, bool]:
        """Each field and its condition, and whether the condition holds."""
        models = "a DeepLabV3 or FCN of torchvision (deeplabv3_resnet50, fcn_resnet101 ...)"
        return {
            f"model small, or {models}": is_known_network(self.model),
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
        """Triples of settings, whether they have no effect, and the setting that is the reason."""
        return [
            (("weights",), self.model == SMALL, "model=small"),
            (("power",), self.schedule != "poly", f"schedule={self.schedule}"),
        ]


def is_known_network(model: str) -> bool:
    """Whether there is a network of that name."""
    return model in (SMALL, DEFAULT_MODEL, PUBLISHED_MODEL) or model in network_names()


def network_names() -> list[str]:
    """The names of torchvision's networks whose last layer is a single convolution."""
    import torchvision  # importing it takes a second

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
Cityscapes: 90,000 steps of 16 crops, which are 484 epochs of train. Fewer labelled images take fewer steps.

Two points are not verified against the paper: the number of steps and the crop; and that the learning rate and the
batch size are those of its PASCAL VOC experiments. The weight decay is mmsegmentation's. The network is torchvision's:
its output stride is 8 from the start, whereas the paper trains at 16, and its dilation rates are 12, 24 and 36.
"""


def missing_capabilities(**values: Any) -> set[str]:
    """Returns the capabilities that a segmentation task with these parameters does not have.

    Args:
        values: all parameters of the task, the recipe's fields among them.

    Raises:
        ValueError: the recipe is invalid. No data are read before.
    """
    return {"sample"} if build_recipe(SegmenterRecipe, values).dropout == 0 else set()
