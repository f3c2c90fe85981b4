"""What a task can do for strategies, by name. `benchmark.contract.capabilities` says what each is. Imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

Capability: TypeAlias = Literal[
    "augmented", "box_features", "classify", "companion", "directional", "embed", "encode", "images", "labels",
    "losses", "perturbed", "predict", "proposals", "pseudo_labels", "sample", "weights",
]  # fmt: skip
LabelNeed: TypeAlias = Literal["test_labels", "held_out"]  # labels that a strategy reads beyond those it bought
Need: TypeAlias = Capability | LabelNeed  # what a strategy declares

CAPABILITIES: dict[Capability, str] = {  # in words, where a task lacks what a strategy needs
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
MODEL_FREE: frozenset[str] = frozenset({"encode", "images"})  # capabilities that are of the images alone


def capabilities_of(task: type) -> frozenset[str]:
    """The capabilities of a class of tasks: it states one by having the method."""
    return frozenset(name for name in CAPABILITIES if inspect.isfunction(getattr(task, name, None)))


def describe_needs(needs: Iterable[str]) -> str:
    """Capabilities for people, each with the name that plug-ins know it by."""
    words = {str(name): words for name, words in CAPABILITIES.items()}
    return ", ".join(f"{words[one]} ({one})" if one in words else one for one in sorted(needs))
