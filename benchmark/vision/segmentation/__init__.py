"""Semantic segmentation: the task on images with label maps, and the training of its networks.

* `task` is the task as strategies see it.
* `recipe` holds the parameters of training, `networks` the networks by name.
* `mean_iou` is the metric.
* `training` holds the loss and the augmentation, on the engine of `benchmark.vision.training`.
"""

from benchmark.vision.data.label_maps import Split
from benchmark.vision.segmentation.networks import check_weights
from benchmark.vision.segmentation.recipe import PUBLISHED, SegmenterRecipe, missing_capabilities
from benchmark.vision.segmentation.task import Segmentation

__all__ = ["PUBLISHED", "Segmentation", "SegmenterRecipe", "Split", "check_weights", "missing_capabilities"]
