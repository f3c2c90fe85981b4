"""Image classification: the task on arrays or files of the user, and the training of its networks.

* `build` holds `build_task`, which plug-ins call and which chooses the kind of task.
* `task` holds what both kinds share, `classifier` the task for networks on images, `probe` the task for small models on
  the features of a frozen encoder.
* `recipe` holds the parameters of training, `augment` the normalisation and augmentation of images.
* `training` holds the loss and the learning rate, on the engine of `benchmark.vision.training`.
"""

from benchmark.vision.classification.build import build_task
from benchmark.vision.classification.classifier import Classifier
from benchmark.vision.classification.probe import Probe
from benchmark.vision.classification.recipe import PUBLISHED, Recipe, check_weights, missing_capabilities
from benchmark.vision.classification.task import Classification, Split

__all__ = [
    "PUBLISHED", "Classification", "Classifier", "Probe", "Recipe", "Split", "build_task", "check_weights",
    "missing_capabilities",
]  # fmt: skip
