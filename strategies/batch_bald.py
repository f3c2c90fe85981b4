"""BatchBALD: the batch that is most informative as a whole (Kirsch, van Amersfoort and Gal, 2019).

Shapes: N images, K samples of the weights, C classes, M configurations of labels, B images at once, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Indices, View, register

from .shared.disagreement import check_num_samples
from .shared.ties import argmax_by_rank, ranks_as_tensor

IMAGES_AT_ONCE = 16  # candidates whose gains are computed at once: 16 M C numbers
ROUNDING = 1e-9  # gains in nats that differ by less are equal


@register(needs={"embed", "classify"}, version=1)
def batch_bald(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    num_samples: int = 100,
    num_configurations: int = 10_000,
    dropout: float = 0.5,
) -> Indices:
    """Selects images greedily by the mutual information between all their labels and the model's weights.

    A step adds the image that raises `I[y_1 .. y_n; w] = H[y_1 .. y_n] - sum_i E_w H[y_i | w]` most, so that images
    that tell the same are not bought twice. The joint entropy is exact while the batch has at most `num_configurations`
    configurations of labels, C^n, and estimated from that many drawn ones beyond. Each sample of the weights is one
    dropout mask on the input of the last layer, the same for all images; otherwise labels would be independent.

    Args:
        num_samples: number of dropout masks K, 2 or more (100: the authors' code).
        num_configurations: the greatest number of label configurations M, at least `num_samples` (10,000: the authors'
            code).
        dropout: the share of features that a mask drops, between 0 and 1 (0.5: the paper's networks).

    Logs:
        information: the joint mutual information of the batch, in nats.
        evaluated: the number of gains that were computed after the first step, as a share of all.

    References:
        Kirsch, van Amersfoort and Gal, BatchBALD: Efficient and Diverse Batch Acquisition for Deep Bayesian Active
            Learning, NeurIPS 2019.

    Deviations:
        Dropout acts on the input of the last layer alone. Gains shrink as the batch grows, because mutual information
        is submodular, so an outdated gain is an upper bound and few are computed anew. While configurations are drawn,
        a gain is an estimate and the bound holds up to its error. Drawn configurations are extended by one label per
        step, whereas the authors' code draws all of them anew.

    Cost:
        One forward pass per unlabelled image and K passes of the last layer. Then O(M K C) per gain, and O(N K C)
        memory. For classifiers.
    """
    check_num_samples("batch_bald", num_samples)
    if not (0 < dropout < 1 and num_configurations >= num_samples):
        settings = f"dropout={dropout},num_configurations={num_configurations},num_samples={num_samples}"
        raise ValueError(
            f"batch_bald[{settings}]: dropout must be between 0 and 1, num_configurations at least num_samples"
        )
    p_NKC = dropout_predictions(view, num_samples, dropout, rng)
    rank_N = ranks_as_tensor(view.tie_ranks(view.unlabelled), p_NKC)
    batch = select_jointly(p_NKC, budget, num_configurations, rank_N, rng)
    num_later = max(1, (budget - 1) * len(p_NKC))
    view.log(information=batch.information, evaluated=batch.num_evaluated / num_later)
    selection: Indices = view.unlabelled[np.array(batch.picks, np.int64)]
    return selection


def dropout_predictions(view: View, num_samples: int, dropout: float, rng: np.random.Generator) -> Tensor:
    """Returns the class probabilities of unlabelled images under dropout masks that all images share, (N, K, C)."""
    features_ND = view.embed(view.unlabelled)
    kept_KD = torch.from_numpy(rng.random((num_samples, features_ND.shape[1])) >= dropout).to(features_ND)
    with torch.no_grad():
        samples = [view.classify(features_ND * kept_D / (1 - dropout)).double().softmax(1) for kept_D in kept_KD]
    return torch.stack(samples, 1)


@dataclass
class Batch:
    """The positions of a batch in order, its joint mutual information, and how many gains were computed anew."""

    picks: list[int]
    information: float
    num_evaluated: int


def select_jointly(
    p_NKC: Tensor, budget: int, num_configurations: int, rank_N: Tensor, rng: np.random.Generator
) -> Batch:
    """Selects `budget` images greedily by joint mutual information; of equal images the one of the lowest rank."""
    configurations = Configurations.of_nothing(p_NKC)
    noise_N = torch.special.entr(p_NKC).sum(2).mean(1)  # E_w H[y | w]
    gain_N = torch.special.entr(p_NKC.mean(1)).sum(1) - noise_N
    batch = Batch([], 0.0, 0)
    while len(batch.picks) < budget:
        pick = batch.picks[-1] if batch.picks else None
        if pick is not None:
            configurations = configurations.with_image(p_NKC[pick], num_configurations, rng)
            batch.num_evaluated += refresh_best(gain_N, partial(configurations.gains, p_NKC, noise_N))
        is_best_N = gain_N >= gain_N.max() - ROUNDING
        pick = int(argmax_by_rank(is_best_N.to(torch.int8), rank_N))
        batch.picks.append(pick)
        batch.information += gain_N[pick].item()
        gain_N[pick] = -torch.inf
    return batch


def refresh_best(gain_N: Tensor, compute: Callable[[Tensor], Tensor]) -> int:
    """Computes gains anew, the largest first, until those that could be the largest are exact; returns their number."""
    is_exact_N = gain_N == -torch.inf
    num_selected = int(is_exact_N.sum())
    while True:
        best = gain_N.where(is_exact_N, -torch.inf).amax()
        outdated = (~is_exact_N & (gain_N >= best - ROUNDING)).nonzero()[:, 0]
        if not len(outdated):
            return int(is_exact_N.sum()) - num_selected
        rows = outdated[gain_N[outdated].topk(min(IMAGES_AT_ONCE, len(outdated))).indices]
        gain_N[rows] = torch.minimum(gain_N[rows], compute(rows))
        is_exact_N[rows] = True


@dataclass(frozen=True)
class Configurations:
    """Configurations of the labels of a batch: all of them with their probabilities, or a sample with equal weights.

    The likelihood of a configuration under each sample of the weights is stored relative to its probability, the mean
    over samples, so that large batches do not underflow.
    """

    weight_M: Tensor
    relative_MK: Tensor  # p(configuration | w_k) / p(configuration); the mean over k is 1
    drawn_with_M: Tensor | None  # the sample of the weights that drew each; None while all configurations are held

    @classmethod
    def of_nothing(cls, p_NKC: Tensor) -> Configurations:
        """Returns the one configuration of an empty batch."""
        return cls(p_NKC.new_ones(1), p_NKC.new_ones(1, p_NKC.shape[1]), None)

    def conditional_entropy(self, p_BKC: Tensor) -> Tensor:
        """Returns the entropy of each image's label given the labels of the batch, (B,)."""
        label_BMC = self.relative_MK @ p_BKC / p_BKC.shape[1]
        entropy_B: Tensor = torch.special.entr(label_BMC).sum(2) @ self.weight_M
        return entropy_B

    def gains(self, p_NKC: Tensor, noise_N: Tensor, rows: Tensor) -> Tensor:
        """Returns the information that each of these images adds to the batch; noise_N is their `E_w H[y | w]`."""
        return self.conditional_entropy(p_NKC[rows]) - noise_N[rows]

    def with_image(self, p_KC: Tensor, num_configurations: int, rng: np.random.Generator) -> Configurations:
        """Returns the configurations of the batch with one more image."""
        num_samples, num_classes = p_KC.shape
        if self.drawn_with_M is None and len(self.weight_M) * num_classes <= num_configurations:
            label_MC = self.relative_MK @ p_KC / num_samples
            weight_MC = self.weight_M[:, None] * label_MC
            relative_MCK = self.relative_MK[:, None] * p_KC.T / label_MC[..., None]
            possible_MC = weight_MC > 0
            return Configurations(weight_MC[possible_MC], relative_MCK[possible_MC], None)
        sample = self if self.drawn_with_M is not None else self.draw(num_configurations // num_samples, rng)
        assert sample.drawn_with_M is not None
        p_MC = p_KC[sample.drawn_with_M]
        uniform_M1 = torch.from_numpy(rng.random((len(p_MC), 1))).to(p_MC)
        label_M = (p_MC.cumsum(1) < uniform_M1 * p_MC.sum(1, keepdim=True)).sum(1).clamp(max=num_classes - 1)
        likelihood_MK = sample.relative_MK * p_KC.T[label_M]
        return Configurations(sample.weight_M, likelihood_MK / likelihood_MK.mean(1, keepdim=True), sample.drawn_with_M)

    def draw(self, num_each: int, rng: np.random.Generator) -> Configurations:
        """Returns a sample: `num_each` configurations drawn with each sample of the weights."""
        num_samples = self.relative_MK.shape[1]
        cumulative_KM = (self.weight_M[:, None] * self.relative_MK).T.cumsum(1).contiguous()
        uniform_KS = torch.from_numpy(rng.random((num_samples, num_each))).to(cumulative_KM) * cumulative_KM[:, -1:]
        rows = torch.searchsorted(cumulative_KM, uniform_KS, right=True).clamp(max=len(self.weight_M) - 1).flatten()
        drawn_with_M = torch.arange(num_samples, device=rows.device).repeat_interleave(num_each)
        return Configurations(
            torch.full_like(rows, 1 / len(rows), dtype=torch.float64), self.relative_MK[rows], drawn_with_M
        )
