"""ALFA-Mix: diverse images whose predicted class flips when features are mixed (Parvaneh et al., 2022).

Shapes: N images, M labelled ones or candidates, A anchors, C classes, D features.
"""

from __future__ import annotations

import math
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Indices, View, register

from .shared.features import nearest_to_centres

CHUNK = 2**14  # images in memory at once


@register(needs={"embed", "labels", "classify"}, version=2)
def alfa_mix(view: View, budget: int, rng: np.random.Generator, *, alpha_cap: float = 0.03125) -> Indices:
    """Selects diverse images whose predicted class flips when a little of the labelled images' features is mixed in.

    The features of an unlabelled image are mixed with anchors: the mean features of each labelled class and, while some
    class has no labelled image, those of all labelled images. The mixing weight is the closed form of Eq. 5 under
    |alpha| <= cap / sqrt(D). An image is a candidate if its predicted class flips for any anchor. The cap grows from 0
    in steps of `alpha_cap` until there are more candidates than the budget, or until it is 1. k-means then divides the
    candidates' features, at unit length, into `budget` clusters, and the image nearest to each centre is selected.

    Args:
        alpha_cap: the step by which the cap grows, above 0 and at most 1 (1/32 in the authors' code).

    Logs:
        alpha_cap: the last cap.
        candidates: the number of candidates under the last cap.

    References:
        Parvaneh et al., Active Learning by Feature Mixing, CVPR 2022.

    Deviations:
        Only the closed form of alpha, whereas the authors' code can also find alpha by gradient steps. The cap never
        exceeds 1, as it does in that code if the step does not divide 1. k-means has one start. Where there are too few
        candidates, or too few distinct features among them, the rest is drawn at random without replacement, whereas
        that code may draw an image twice. The caps are not tried one by one; the result is the same (see `least_cap`).

    Cost:
        One forward pass per image, labelled images included. For A anchors, A + 2 products of the features with the
        last layer and one gradient: O(A N C D) time. k-means of M candidates into `budget` clusters, O(M D) per cluster
        and step.
    """
    if not 0 < alpha_cap <= 1:
        raise ValueError(f"alfa_mix[alpha_cap={alpha_cap}]: must be above 0 and at most 1")
    features_ND, labelled_MD = view.embed(view.unlabelled), view.embed(view.labelled)
    if not (features_ND.isfinite().all() and labelled_MD.isfinite().all()):
        raise ValueError("alfa_mix: the features of the model hold NaN or infinity")
    num_classes = view.classify(labelled_MD[:1]).shape[1]
    labels_M = view.labels(view.labelled)
    assert isinstance(labels_M, Tensor), "a task with a classifier's last layer has one class per image"
    anchors_AD = anchors(labelled_MD, labels_M, num_classes)
    least_cap_N = torch.cat([least_cap(view, part_ND, anchors_AD) for part_ND in features_ND.split(CHUNK)])
    for step in count(1):
        cap = min(step * alpha_cap, 1.0)
        candidates_M = (least_cap_N < cap).nonzero().squeeze(1)
        if len(candidates_M) > budget or cap == 1:
            break
    view.log(alpha_cap=cap, candidates=len(candidates_M))
    picks = candidates_M.cpu().numpy()
    if len(picks) > budget:
        rank_M = view.tie_ranks(view.unlabelled[picks])
        picks = picks[nearest_to_centres(F.normalize(features_ND[candidates_M]), budget, rng, rank_M)]
    others = np.setdiff1d(np.arange(len(features_ND)), picks)
    selection: Indices = view.unlabelled[
        np.concatenate([picks, rng.choice(others, budget - len(picks), replace=False)])
    ]
    return selection


def anchors(labelled_MD: Tensor, label_M: Tensor, num_classes: int) -> Tensor:
    """Returns the anchors, (A, D): the mean features of each labelled class, and of all images if a class has none."""
    means = [labelled_MD[label_M == label].mean(0) for label in label_M.unique()]
    return torch.stack(means if len(means) == num_classes else [*means, labelled_MD.mean(0)])


def least_cap(view: View, features_ND: Tensor, anchors_AD: Tensor) -> Tensor:
    """Returns the smallest cap above which the predicted class of each image flips, (N,); inf where it never does.

    The minimum is over anchors. With alpha of Eq. 5, z + alpha (z* - z) equals z + cap u, where u = |z* - z| / sqrt(D)
    g / |g| and g is the gradient of the loss for the predicted class. Features in which z and z* agree stay, because
    there is nothing to mix. The last layer is affine, so each logit is linear in the cap. Class c overtakes the
    predicted class y at cap = (logit_y - logit_c) / (slope_c - slope_y) and stays ahead above it.
    """
    with torch.no_grad():
        logits_NC = view.classify(features_ND)
    label_N1 = logits_NC.argmax(1, keepdim=True)
    lead_NC = logits_NC.gather(1, label_N1) - logits_NC
    direction_ND = F.normalize(ascent_direction(view, features_ND, label_N1))
    least_cap_N = torch.full_like(lead_NC[:, 0], torch.inf)
    for anchor_D in anchors_AD:
        to_anchor_ND = anchor_D - features_ND
        move_ND = (
            direction_ND
            * (to_anchor_ND != 0)
            * to_anchor_ND.norm(dim=1, keepdim=True)
            / math.sqrt(to_anchor_ND.shape[1])
        )
        with torch.no_grad():
            slope_NC = view.classify(features_ND + move_ND) - logits_NC
        rise_NC = slope_NC - slope_NC.gather(1, label_N1)
        least_cap_N = torch.minimum(least_cap_N, (lead_NC / rise_NC).where(rise_NC > 0, torch.inf).amin(1))
    return least_cap_N


def ascent_direction(view: View, features_ND: Tensor, label_N1: Tensor) -> Tensor:
    """Returns a positive multiple of the cross entropy's gradient for these labels, (N, D).

    It is the gradient of log sum_{c != y} exp(logit_c - logit_y), of which the cross entropy is an increasing function.
    Unlike the cross entropy's own gradient it does not vanish for certain predictions.
    """
    point_ND = features_ND.detach().requires_grad_()
    logits_NC = view.classify(point_ND)
    others_NC = logits_NC.scatter(1, label_N1, -torch.inf)
    [gradient_ND] = torch.autograd.grad((others_NC.logsumexp(1) - logits_NC.gather(1, label_N1)[:, 0]).sum(), point_ND)
    return gradient_ND
