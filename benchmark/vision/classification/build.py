"""The two kinds of classification task, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.api import Machine
from benchmark.vision.classification.classifier import Classifier
from benchmark.vision.classification.probe import Probe
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.classification.task import Classification, Split
from benchmark.vision.networks import PROBES


def build_task(
    machine: Machine, recipe: Recipe, pool: Split, test: Split, num_classes: int, classes: Sequence[str] = (),
    root: Path | None = None,
) -> Classification:  # fmt: skip
    """Builds the task on labelled images that a classification plug-in returns.

    Args:
        machine: the device, and the folders of data and checkpoints.
        recipe: how networks are built and trained.
        pool: the images that strategies choose from.
        test: the images that models are scored on.
        num_classes: C.
        classes: C names; empty: the numbers 0..C-1.
        root: folder of the data set, to which file names in reports are relative; None: the deepest folder that holds
            all files.

    Returns:
        A `Probe` if the recipe's model is one (linear_probe, svm_probe, mlp_probe, knn_probe), else a `Classifier`.

    Raises:
        ValueError: the pool or the test set is empty, or the network does not take such images.
    """
    task_class = Probe if recipe.model in PROBES else Classifier
    return task_class(machine, recipe, pool, test, num_classes, classes, root)
