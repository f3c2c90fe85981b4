"""Image classification: the task on a user's own arrays or files, and how its networks are trained.

`kinds` has the function that a plug-in calls, which chooses the kind of task: `task` is what both kinds share, and the
one for networks on images; `linear_probe` the one for a linear layer on the features of a frozen encoder. `recipe` is
the parameters of training, `augment` what happens to images on their way in, `training` the loss and its schedule, on
the engine of `benchmark.vision.training`.
"""

from benchmark.vision.classification.classifier import Classifier
from benchmark.vision.classification.kinds import build_task
from benchmark.vision.classification.linear_probe import LinearProbe
from benchmark.vision.classification.recipe import PUBLISHED, Recipe, check_weights, missing_capabilities
from benchmark.vision.classification.task import Classification, Split

__all__ = [
    "PUBLISHED", "Classification", "Classifier", "LinearProbe", "Recipe", "Split", "build_task", "check_weights",
    "missing_capabilities",
]  # fmt: skip
