"""The names of what a task can do for strategies. `benchmark.contract.capabilities` defines each. Imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

Capability: TypeAlias = Literal[
    "augmented", "box_features", "classify", "companion", "directional", "embed", "encode", "images", "labels",
    "losses", "perturbed", "predict", "proposals", "pseudo_labels", "sample", "weights",
]  # fmt: skip
LabelNeed: TypeAlias = Literal["test_labels", "held_out"]  # labels that are read besides those of the labelled set
Need: TypeAlias = Capability | LabelNeed  # what a strategy declares that it uses
# by what the images that a strategy selects exceed the others, as its paper says: see `register`
Property: TypeAlias = Literal["class_entropy", "ambiguity", "disagreement", "predicted_loss", "distance"]

CAPABILITIES: dict[Capability, str] = {  # descriptions, for messages where a task lacks what a strategy needs
    "augmented": "predictions on changed images, as detectors give", "box_features": "features of boxes",
    "classify": "the last layer of a classifier", "companion": "a module that is trained beside the model",
    "directional": "derivatives of losses", "embed": "features of images", "encode": "images for an encoder",
    "images": "the images themselves", "labels": "the labels of labelled images", "losses": "losses of images",
    "perturbed": "predictions on noisy images, as detectors give", "predict": "predictions",
    "proposals": "the proposals of a two-stage detector (model=faster_rcnn)",
    "pseudo_labels": "labels from the model's own predictions",
    "sample": "predictions with dropout left on (dropout=0.1 or so)", "weights": "the weights of the model",
}  # fmt: skip
LABEL_NEEDS: frozenset[str] = frozenset(get_args(LabelNeed))
MODEL_FREE: frozenset[str] = frozenset({"encode", "images"})  # capabilities that use the images and no model


def capabilities_of(task: type) -> frozenset[str]:
    """The capabilities of a class of tasks: those whose method it has."""
    return frozenset(name for name in CAPABILITIES if inspect.isfunction(getattr(task, name, None)))


def describe_needs(needs: Iterable[str]) -> str:
    """Describes capabilities, each with its name in parentheses."""
    words = {str(name): words for name, words in CAPABILITIES.items()}
    return ", ".join(f"{words[need]} ({need})" if need in words else need for need in sorted(needs))
