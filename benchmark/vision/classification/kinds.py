"""The two kinds of classification task, and which of them a recipe is of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.api import Machine
from benchmark.vision.classification.classifier import Classifier
from benchmark.vision.classification.linear_probe import LinearProbe
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.classification.task import Classification, Split
from benchmark.vision.networks import PROBE


def build_task(
    machine: Machine, recipe: Recipe, pool: Split, test: Split, num_classes: int, classes: Sequence[str] = (),
    root: Path | None = None,
) -> Classification:  # fmt: skip
    """A task on labelled images: what every classification plug-in returns.

    Args:
        machine: The device, and the folders of data and of work in progress.
        recipe: How the network is trained.
        pool: The images to choose from.
        test: The images to score on.
        num_classes: Number of classes.
        classes: Their names; empty: their numbers.
        root: The folder of the data set, from which its files are named; None: the deepest that holds all.

    Returns:
        A `LinearProbe` with model=linear_probe, else a `Classifier`.

    Raises:
        ValueError: The pool or the test set is empty, or the network does not take such images.
    """
    kind = LinearProbe if recipe.model == PROBE else Classifier
    return kind(machine, recipe, pool, test, num_classes, classes, root)
