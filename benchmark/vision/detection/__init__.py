"""Object detection: the task on images with boxes, and how its detectors are trained.

`task` is what strategies see, `recipe` the parameters of training, `detectors` the detectors by name, `detector` what
one is whichever library built it (`torchvision_detectors`, `ssd`, `mmdet_detectors`), `inputs` and `views` how images
get in, `average_precision` the metric, `training` the loss, on the engine of `benchmark.vision.training`.
"""

from benchmark.vision.data.annotations import GroundTruth, Split
from benchmark.vision.detection.detectors import check_weights
from benchmark.vision.detection.recipe import DetectorRecipe, missing_capabilities
from benchmark.vision.detection.task import Detection

__all__ = ["Detection", "DetectorRecipe", "GroundTruth", "Split", "check_weights", "missing_capabilities"]
