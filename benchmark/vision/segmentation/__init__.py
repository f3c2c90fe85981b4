"""Semantic segmentation: the task on images with label maps, and how its networks are trained.

`task` is what strategies see, `recipe` the parameters of training, `networks` the networks by name, `training` the loss
and what happens to images on their way in, on the engine of `benchmark.vision.training`.
"""

from benchmark.vision.data.label_maps import Split
from benchmark.vision.segmentation.networks import check_weights
from benchmark.vision.segmentation.recipe import PUBLISHED, SegmenterRecipe, missing_capabilities
from benchmark.vision.segmentation.task import Segmentation

__all__ = ["PUBLISHED", "Segmentation", "SegmenterRecipe", "Split", "check_weights", "missing_capabilities"]
