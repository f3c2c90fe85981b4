"""Checks of what a strategy selects: by the direction of its paper, of several classes, and without labels.

Shapes: N images, M labelled ones, P predictions, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Boxes, Indices, View
from benchmark.conformance.trials import StrategyTrial
from benchmark.plugins.capability_names import Property

NUM_SELECTED = 50  # images of a selection whose classes or properties are looked at
NUM_SAMPLES = 10  # dropout masks of a disagreement


def selects_several_classes(trial: StrategyTrial) -> str | None:
    """Finds a selection whose images, or boxes, are all of one class, in a pool that holds others too.

    Maps of pixels are not looked at: most of their pixels are background, and all of a few images may be.
    """
    task, model = trial.prepare()
    if not hasattr(task, "labels"):
        return None
    pool = trial.view().unlabelled
    targets = [task.labels(model, which) for which in (trial.choose(min(NUM_SELECTED, len(pool) // 4)), pool)]
    if any(isinstance(target, Tensor) and target.dim() > 1 for target in targets):
        return None
    selected, others = map(classes_of, targets)
    if len(np.unique(selected)) > 1 or len(np.unique(others)) < 2:
        return None
    share = float((others == selected[0]).mean()) if len(selected) else 0.0
    return f"all {len(selected)} labels that it buys are of class {selected[0]}, which has {share:.0%} of the pool's"


def classes_of(targets: Tensor | list[Boxes]) -> Indices:
    """Returns the classes in these labels, one for each image or box."""
    if isinstance(targets, list):
        targets = torch.cat([boxes.labels_M for boxes in targets])
    classes: Indices = targets.flatten().cpu().numpy()
    return classes


def follows_its_paper(trial: StrategyTrial) -> str | None:
    """Finds a score whose sign is flipped: the selected images have less of what the paper says that they exceed in."""
    declared: Property | None = trial.plugin.selects_high
    if declared is None:
        return None
    view = trial.observer()
    value_N = PROPERTIES[declared](view)
    if value_N is None:
        return None
    selected = np.isin(view.unlabelled, trial.choose(min(NUM_SELECTED, len(value_N) // 10)))
    mean, others = (float(value_N[torch.from_numpy(which)].mean()) for which in (selected, ~selected))
    if mean >= others - float(value_N.std()) / 4:  # what is selected by a flipped score is about one deviation below
        return None
    words = f"{mean:.3g} for what it selects, {others:.3g} for the other images"
    return f"its paper selects images of high {declared.replace('_', ' ')}, and it is {words}: is the sign flipped?"


def starts_without_labels(trial: StrategyTrial) -> str | None:
    """Runs a selection without any label where the strategy says that it needs no model then."""
    if not trial.can_start_without_labels:
        return None
    view = trial.view_without_labels()
    trial.choose_from(view, min(NUM_SELECTED, len(view.unlabelled) // 4), 0)
    return None


def class_entropy(view: View) -> Tensor | None:
    """Returns the entropy of each unlabelled image's class, (N,); None where an image has no single prediction."""
    predictions = view.predict(view.unlabelled)
    entropy_P: Tensor = torch.special.entr(predictions.scores_PC).sum(1).cpu()
    return entropy_P if predictions.one_each else None


def ambiguity(view: View) -> Tensor | None:
    """Returns 1 minus the gap between the two largest probabilities; None where an image has no single prediction."""
    predictions = view.predict(view.unlabelled)
    first_P, second_P = predictions.scores_PC.double().topk(2).values.T.cpu()
    ambiguity_P: Tensor = 1 - (first_P - second_P)
    return ambiguity_P if predictions.one_each else None


def disagreement(view: View) -> Tensor | None:
    """Returns the mutual information between label and dropout mask; None where an image has no single prediction."""
    samples = list(view.sample(view.unlabelled, NUM_SAMPLES, 0))
    if not samples[0].one_each:
        return None
    p_KNC = torch.stack([sample.scores_PC for sample in samples])
    information_N: Tensor = torch.special.entr(p_KNC.mean(0)).sum(1) - torch.special.entr(p_KNC).sum(2).mean(0)
    return information_N.cpu()


def predicted_loss(view: View) -> Tensor:
    """Returns the output of the strategy's companion, (N,)."""
    return view.companion(view.unlabelled).cpu()


def distance(view: View) -> Tensor:
    """Returns the distance of each unlabelled image to the nearest labelled one, by the model's features, (N,)."""
    features_ND, labelled_MD = view.embed(view.unlabelled).cpu(), view.embed(view.labelled).cpu()
    return torch.cdist(features_ND, labelled_MD).amin(1)


PROPERTIES: dict[Property, Callable[[View], Tensor | None]] = {
    "class_entropy": class_entropy,
    "ambiguity": ambiguity,
    "disagreement": disagreement,
    "predicted_loss": predicted_loss,
    "distance": distance,
}
