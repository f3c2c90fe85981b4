"""The recipe of a classifier: its fields and their meaning, and the published recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from benchmark.api import EncoderName, Machine, check_encoder_weights, seeded
from benchmark.vision.networks import (
    KNN_PROBE,
    MLP_PROBE,
    PROBES,
    SVM_PROBE,
    build_backbone,
    check_installed,
    resolve_network,
)
from benchmark.vision.recipe_checks import build_recipe, check_recipe
from benchmark.vision.weights import weights_file


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier is built and trained. Every field is a parameter of every classification task.

    The defaults follow current practice: SGD with Nesterov momentum, a cosine decay after a short warm-up, no weight
    decay on normalisation parameters and biases, no small last batch. docs/recipes.md compares them with `PUBLISHED`.
    Probes are trained with the same settings on features, which are not augmented; `knn_probe` is not trained.

    Raises:
        ValueError: a value is out of range, or a setting has no effect in combination with the others.
    """

    # resnet18 (for 32x32 images), small_cnn (for 8x8), a network of torchvision, timm:X or pycls:X, or a small model on
    # a frozen encoder's features: linear_probe, svm_probe, mlp_probe, knn_probe
    model: str = "resnet18"
    encoder: EncoderName | None = None  # probes: the frozen encoder whose features they take
    width: int = 64  # channels of resnet18's first stage
    weights: str = "none"  # initial weights: none, default (the library's pretrained ones), or a .safetensors/.pth file
    dropout: float = 0.0  # rate of dropout before the last layer
    hidden: int = 512  # mlp_probe: units of the hidden layer
    neighbours: int = 20  # knn_probe: number of labelled images that vote

    epochs: int = 200
    batch_size: int = 128
    drop_last: bool = False  # drop the incomplete last batch; False: sizes of batches differ by at most one image
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_all: bool = False  # apply weight decay to normalisation parameters and biases too
    label_smoothing: float = 0.0
    schedule: Literal["cosine", "step"] = "cosine"
    warmup: float = 0.05  # share of training in which the learning rate rises linearly
    milestone: float = 0.8  # share of training after which schedule=step multiplies lr by `decay`
    decay: float = 0.1
    precise_bn: bool = False  # recompute batch-normalisation statistics with the final weights

    flip: bool = True  # mirror half of the images
    pad: int = 4  # padding in pixels on each side before a random crop to the original size; 0: no crop
    pad_colour: Literal["mean", "black"] = "mean"
    full_crop: bool = True  # crop offsets 0..2*pad; False: 0..2*pad-1, as in the published code
    # channel mean and deviation
    normalise: Literal["pool", "cifar10", "cifar10_per_image", "cifar100", "imagenet"] = "pool"

    precision: Literal["float32", "bfloat16"] = "bfloat16"  # precision of the backbone, in training and prediction
    channels_last: bool = True
    compile: bool = False  # compile the training step with torch.compile

    def __post_init__(self) -> None:
        source, _ = resolve_network(self.model)
        if self.model in PROBES and self.encoder is None:
            raise ValueError(f"model={self.model}: needs the features of a frozen encoder: set encoder=")
        check_recipe(self, self._ranges(), self._ineffective(source))

    def for_cpu(self) -> dict[str, Any]:
        """Settings of a fit that a few CPU cores finish in minutes; {} if the recipe is small enough already."""
        small = {"width": 16, "epochs": 20, "batch_size": 32, "warmup": 0.2, "precision": "float32"}
        light = self.model in ("small_cnn", *PROBES) or (self.model == "resnet18" and self.width <= 16)
        return {} if light and self.epochs <= 20 else small

    def _ranges(self) -> dict[str, bool]:
        """Each field and its condition, and whether the condition holds."""
        return {
            "width at least 1": self.width >= 1,
            "dropout in [0, 1)": 0 <= self.dropout < 1,
            "hidden at least 1": self.hidden >= 1,
            "neighbours at least 1": self.neighbours >= 1,
            "epochs at least 1": self.epochs >= 1,
            "batch_size at least 1": self.batch_size >= 1,
            "lr positive": self.lr > 0,
            "momentum in [0, 1)": 0 <= self.momentum < 1,
            "momentum positive with nesterov=true": self.momentum > 0 or not self.nesterov,
            "weight_decay at least 0": self.weight_decay >= 0,
            "label_smoothing in [0, 1)": 0 <= self.label_smoothing < 1,
            "warmup in [0, 1)": 0 <= self.warmup < 1,
            "milestone in [0, 1]": 0 <= self.milestone <= 1,
            "decay in (0, 1]": 0 < self.decay <= 1,
            "pad at least 0": self.pad >= 0,
        }

    def _ineffective(self, source: str) -> list[tuple[tuple[str, ...], bool, str]]:
        """Triples of settings, whether they have no effect, and the setting that is the reason."""
        is_untrained = source not in ("torchvision", "timm")
        return [
            (("width",), self.model != "resnet18", f"model={self.model}"),
            (("encoder",), self.model not in PROBES, f"model={self.model}"),
            (("weights", "pad_colour", "full_crop", "compile"), self.model in PROBES, f"model={self.model}"),
            (("hidden",), self.model != MLP_PROBE, f"model={self.model}"),
            (("neighbours",), self.model != KNN_PROBE, f"model={self.model}"),
            (("label_smoothing",), self.model in (SVM_PROBE, KNN_PROBE), f"model={self.model}"),
            (("weights",), is_untrained and self.weights == "default", f"model={self.model}: no pretrained weights"),
            (("milestone", "decay"), self.schedule != "step", f"schedule={self.schedule}"),
            (("pad_colour", "full_crop"), self.pad == 0, "pad=0"),
            (("decay_all",), self.weight_decay == 0, "weight_decay=0"),
        ]


PUBLISHED = Recipe(
    drop_last=True,
    nesterov=False,
    decay_all=True,
    schedule="step",
    warmup=0.0,
    precise_bn=True,
    full_crop=False,
    normalise="cifar10",
    precision="float32",
    channels_last=False,
)
"""ISAL's classification recipe (Liu et al., 2021, section 4.1, and its code); other fields keep their defaults."""


def missing_capabilities(**values: Any) -> set[str]:
    """Returns the capabilities that a classification task with these parameters does not have.

    Args:
        values: all parameters of the task, the recipe's fields among them.

    Raises:
        ValueError: the recipe is invalid. No data are read before.
    """
    recipe = build_recipe(Recipe, values)
    has_no_derivatives = recipe.model in (SVM_PROBE, KNN_PROBE)  # that influence functions could use
    missing = {
        "sample": recipe.dropout == 0 or recipe.model == KNN_PROBE,
        "companion": recipe.compile or recipe.model in PROBES,
        "losses": has_no_derivatives,
        "directional": has_no_derivatives,
    }
    return {capability for capability, lacking in missing.items() if lacking}


def check_weights(machine: Machine, recipe: Recipe) -> None:
    """Checks the network's package and weights, or the encoder's weights, before any data are read; every
    classification task registers it as its `check`.

    Args:
        machine: where the task runs.
        recipe: the recipe, which names the network or the encoder and its weights.

    Raises:
        ValueError: the network's package is not installed, or the weights cannot be loaded or do not fit.
    """
    check_installed(recipe.model)
    if recipe.encoder is not None:
        check_encoder_weights(recipe.encoder, machine)
    elif recipe.weights != "none":
        with seeded(0):
            build_backbone(recipe.model, recipe.width, weights_file(machine, recipe.weights) or recipe.weights)
