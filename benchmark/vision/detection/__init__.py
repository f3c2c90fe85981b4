"""Object detection: the task on images with boxes, and the training of its detectors.

* `task` is the task as strategies see it, `detection_set` the detections it collects; `detector_task` is what it shares
  with the keypoint task.
* `recipe` holds the parameters of training, `training` the training loop on the engine of `benchmark.vision.training`.
* `detectors` builds detectors by name, `detector` is their common interface; `torchvision_detectors`, `ssd` and
  `mmdet_detectors` implement it.
* `inputs` makes batches, `views` augmented copies for strategies, `ssd_augment` SSD's training augmentation.
* `average_precision` is the metric.
"""

from benchmark.vision.data.annotations import GroundTruth, Split
from benchmark.vision.detection.detectors import check_weights
from benchmark.vision.detection.recipe import DetectorRecipe, missing_capabilities
from benchmark.vision.detection.task import Detection

__all__ = ["Detection", "DetectorRecipe", "GroundTruth", "Split", "check_weights", "missing_capabilities"]
