"""Image classification: the task on a user's own arrays or files, and how its networks are trained.

`task` is what strategies see, `recipe` the parameters of training, `augment` what happens to images on their way in,
`training` the loss and its schedule, on the engine of `benchmark.vision.training`.
"""

from benchmark.vision.classification.recipe import PUBLISHED, Recipe, check_weights, missing_capabilities
from benchmark.vision.classification.task import Classifier, Split

__all__ = ["PUBLISHED", "Classifier", "Recipe", "Split", "check_weights", "missing_capabilities"]
