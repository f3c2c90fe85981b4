"""The recipe of a keypoint detector: its fields and their meaning, and the published recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.recipe_checks import build_recipe

KEYPOINT_RCNN = "keypoint_rcnn"


@dataclass(frozen=True, kw_only=True)
class PoseRecipe(DetectorRecipe):
    """How a keypoint detector is built and trained: the fields of a detector's recipe.

    `dropout` comes before the classification layer and before the keypoint layer.

    Raises:
        ValueError: a value is out of range, or a setting has no effect in combination with the others.
    """

    model: str = KEYPOINT_RCNN  # keypoint_rcnn of torchvision

    def _ranges(self) -> dict[str, bool]:
        """Each field and its condition, and whether the condition holds."""
        own = {"model keypoint_rcnn": self.model == KEYPOINT_RCNN, "augment none": self.augment == "none"}
        return own | {rule: holds for rule, holds in super()._ranges().items() if not rule.startswith("model ")}

    def _ineffective(self) -> list[tuple[tuple[str, ...], bool, str]]:
        """Triples of settings, whether they have no effect, and the setting that is the reason."""
        rows = [row for row in super()._ineffective() if row[0] != ("dropout",)]
        return [*rows, (("center_sampling",), True, f"model={self.model}")]


PUBLISHED_KEYPOINT_RCNN = PoseRecipe(
    epochs=46, batch_size=16, lr=0.02, bias_lr=1.0, bias_decay=True, schedule="step", milestones="36/43", warmup=0.02,
    warmup_ratio=0.001, clip=0.0, precision="float32", channels_last=False,
)  # fmt: skip
"""How torchvision trained its Keypoint R-CNN on COCO (its reference scripts, on 8 GPUs with 2 images each).

Deviations: those scripts warm up over 1,000 steps or the first epoch, whichever is shorter, which is 0.5 % of training
on all of COCO and 2 % on few images; they draw the shorter side from 640 to 800 pixels; and they leave out images with
fewer than 10 labelled keypoints.
"""


def missing_capabilities(**values: Any) -> set[str]:
    """Returns the capabilities that a keypoint task with these parameters does not have.

    Args:
        values: all parameters of the task, the recipe's fields among them.

    Raises:
        ValueError: the recipe is invalid. No data are read before.
    """
    return {"sample"} if build_recipe(PoseRecipe, values).dropout == 0 else set()
