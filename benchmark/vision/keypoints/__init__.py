"""Keypoint detection (pose estimation): the task on images with persons, and its network.

* `task` is the task as strategies see it; most of it, like the training, is that of `benchmark.vision.detection`.
* `recipe` holds the parameters of training, `builder` builds the network, `keypoint_rcnn` is the network.
* `scores` is the metric.
"""

from benchmark.vision.data.annotations import Split
from benchmark.vision.data.poses import PoseTruth, Skeleton
from benchmark.vision.keypoints.builder import check_weights
from benchmark.vision.keypoints.recipe import PoseRecipe, missing_capabilities
from benchmark.vision.keypoints.task import PoseEstimation

__all__ = ["PoseEstimation", "PoseRecipe", "PoseTruth", "Skeleton", "Split", "check_weights", "missing_capabilities"]
