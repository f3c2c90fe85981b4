"""BAIT: batches that lower the expected error most, by Fisher information of the last layer (Ash et al., 2021).

Shapes: N images, the labelled ones first; C classes, or 1 in the binary form; D features; R = C D parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Indices, View, register

from .shared.ties import argmax_by_rank, ranks_as_tensor

MAX_PARAMETERS = 6_000  # of the last layer, up to which `form=auto` takes the full Fisher information
ROUNDING = 1e-9  # relative differences below it are ties
CHUNK = 4096  # images whose (C, D) blocks are held at once
Form: TypeAlias = Literal["auto", "full", "binary"]


@register(needs={"predict", "embed"}, version=1)
def bait(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    regularisation: float = 1.0,
    oversampling: float = 2.0,
    form: Form = "auto",
) -> Indices:
    """Selects the batch S that minimises `trace((M + sum_S I(x))^-1 I(pool))`, forward and then backward.

    `I(x) = (diag(p) - p p^T) (x) h h^T` is the Fisher information of the last layer at an image with class
    probabilities p and features h. I(pool) is its mean over all images, and M is its mean over the labelled ones plus
    `regularisation` times the identity. Images are added one at a time until there are `oversampling` times the budget,
    then removed one at a time, always the one that leaves the objective lowest. The selection is deterministic.

    Args:
        regularisation: lambda, above 0 (1: the authors' code; it takes 0.01 on CIFAR-10).
        oversampling: the size of the batch before removal, relative to the budget, 1 or more (2: the paper's).
        form: `full` is the paper's Fisher information, of C D parameters. `binary` treats the likeliest class against
            all others, so that an image has rank 1 and there are D parameters: for many classes (Huseljic et al.).
            `auto` is full up to 6,000 parameters, and binary above.

    Logs:
        objective: the objective after the selection.
        was_objective: the objective before the selection.

    References:
        Ash, Goel, Krishnamurthy and Kakade, Gone Fishing: Neural Active Learning with Fisher Embeddings, NeurIPS 2021,
            Algorithm 1.
        Huseljic, Hahn, Herde, Rauch and Sick, Fast Fishing: Approximating BAIT for Efficient and Scalable Deep Active
            Image Classification, ECML PKDD 2024, for the binary form.

    Deviations:
        M weighs labelled images by their mean and selected ones by 1, as Algorithm 1 does; the authors' code weighs
        them by |L| / (|L| + B) and B / (|L| + B). Features are those that enter the last layer, without its bias.

    Cost:
        One forward pass per image. The Kronecker form of I(x) is kept: a change of the inverse reaches an image through
        C^2 numbers instead of R^2. Per added or removed image O(N C^2 (D + C) + C R^2) time, and once
        O(N C^2 D^2 + R^3); O(R^2 + N (C^2 + D)) memory.
    """
    if regularisation <= 0 or oversampling < 1:
        settings = f"oversampling={oversampling},regularisation={regularisation}"
        raise ValueError(f"bait[{settings}]: regularisation must be above 0, oversampling 1 or more")
    num_labelled, images = len(view.labelled), np.concatenate([view.labelled, view.unlabelled])
    predictions = view.predict(images)
    if not predictions.one_each:
        raise ValueError("bait needs one prediction per image: take a classifier, not a detector or a segmenter")
    features_ND, p_NC = view.embed(images).double(), predictions.scores_PC.double()
    if not (features_ND.isfinite().all() and p_NC.isfinite().all()):
        raise ValueError("bait: the predictions or features of the model hold NaN or infinity")
    is_full = form == "full" or (form == "auto" and p_NC.shape[1] * features_ND.shape[1] <= MAX_PARAMETERS)
    design = Design.start(features_ND, label_covariances(p_NC, is_full), num_labelled, regularisation)
    view.log(was_objective=design.objective)
    rank_N = ranks_as_tensor(view.tie_ranks(view.unlabelled), features_ND)
    picks = select_forward_backward(design, budget, min(len(rank_N), int(oversampling * budget)), rank_N)
    view.log(objective=design.objective)
    selection: Indices = view.unlabelled[np.array(picks, np.int64)]
    return selection


def label_covariances(p_NC: Tensor, is_full: bool) -> Tensor:
    """Returns the covariance of each image's one-hot label, (N, C, C); in the binary form its variance, (N, 1, 1)."""
    if not is_full:
        largest_N = p_NC.amax(1)
        return (largest_N * (1 - largest_N))[:, None, None]
    return torch.diag_embed(p_NC) - p_NC[:, :, None] * p_NC[:, None, :]


def select_forward_backward(design: Design, budget: int, num_forward: int, rank_N: Tensor) -> list[int]:
    """Returns the positions of the selected candidates, in the order of selection; updates the design."""
    picks: list[int] = []
    is_open_N = torch.ones_like(rank_N, dtype=torch.bool)
    for _ in range(num_forward):
        picks.append(best_by_rank(design.drops().where(is_open_N, -torch.inf), rank_N))
        is_open_N[picks[-1]] = False
        design.change(picks[-1], 1)
    while len(picks) > budget:
        rows = torch.tensor(picks, device=rank_N.device)
        position = best_by_rank(-design.rises(rows), rank_N[rows])
        design.change(picks.pop(position), -1)
    return picks


def best_by_rank(values_N: Tensor, rank_N: Tensor) -> int:
    """Returns the position of the largest value; of equal ones, up to rounding, the one of the lowest rank."""
    best = values_N.max()
    return int(argmax_by_rank((values_N >= best - ROUNDING * best.abs()).to(torch.int8), rank_N))


@dataclass
class Design:
    """The inverse of M as images join and leave, and what each candidate would change.

    With `V = M^-1` and the pool's information F, adding x with information `B (x) h h^T` lowers trace(V F) by
    `trace(T B (I + G B)^-1)`, where `G = (I (x) h)^T V (I (x) h)` and `T` is the same with V F V, both (C, C). Adding
    changes V by `-W W^T` of rank C (Woodbury), which changes all G and T by products of (C, C) matrices.
    """

    features_ND: Tensor  # of the candidates
    covariance_NCC: Tensor  # B
    inverse_RR: Tensor  # V
    pool_RR: Tensor  # F
    spread_RR: Tensor = field(init=False)  # V F V
    g_NCC: Tensor = field(init=False)
    t_NCC: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.spread_RR = self.inverse_RR @ self.pool_RR @ self.inverse_RR
        self.g_NCC, self.t_NCC = self.quadratic_forms(self.inverse_RR), self.quadratic_forms(self.spread_RR)

    @classmethod
    def start(cls, features_ND: Tensor, covariance_NCC: Tensor, num_labelled: int, regularisation: float) -> Design:
        """Returns the design of the labelled images; the others are its candidates."""
        pool_RR = mean_information(features_ND, covariance_NCC)
        start_RR = regularisation * torch.eye(len(pool_RR), dtype=pool_RR.dtype, device=pool_RR.device)
        if num_labelled:
            start_RR += mean_information(features_ND[:num_labelled], covariance_NCC[:num_labelled])
        inverse_RR = torch.cholesky_inverse(torch.linalg.cholesky(start_RR))
        return cls(features_ND[num_labelled:], covariance_NCC[num_labelled:], inverse_RR, pool_RR)

    @property
    def objective(self) -> float:
        """trace(V F)."""
        return float((self.inverse_RR * self.pool_RR).sum())

    def quadratic_forms(self, matrix_RR: Tensor) -> Tensor:
        """Returns `(I (x) h)^T matrix (I (x) h)` for each candidate, (N, C, C)."""
        num_classes, width = self.covariance_NCC.shape[1], self.features_ND.shape[1]
        blocks_CDCD = matrix_RR.view(num_classes, width, num_classes, width)
        form_NCC = torch.empty_like(self.covariance_NCC)
        for first in range(num_classes):
            for second in range(first, num_classes):
                form_N = (self.features_ND @ blocks_CDCD[first, :, second] * self.features_ND).sum(1)
                form_NCC[:, first, second] = form_NCC[:, second, first] = form_N
        return form_NCC

    def drops(self) -> Tensor:
        """Returns by how much the objective falls if each candidate joins, (N,)."""
        return self.changes(self.t_NCC, self.g_NCC, self.covariance_NCC, 1)

    def rises(self, rows: Tensor) -> Tensor:
        """Returns by how much the objective rises if each of these candidates leaves."""
        return self.changes(self.t_NCC[rows], self.g_NCC[rows], self.covariance_NCC[rows], -1)

    @staticmethod
    def changes(t_NCC: Tensor, g_NCC: Tensor, covariance_NCC: Tensor, sign: int) -> Tensor:
        """Returns `trace(T B (I + sign G B)^-1)` for each image."""
        identity_CC = torch.eye(t_NCC.shape[1], dtype=t_NCC.dtype, device=t_NCC.device)
        left_NCC = identity_CC + sign * covariance_NCC @ g_NCC
        change_N: Tensor = torch.linalg.solve(left_NCC, covariance_NCC @ t_NCC).diagonal(dim1=1, dim2=2).sum(1)
        return change_N

    def change(self, pick: int, sign: int) -> None:
        """Adds a candidate's information (sign 1), or takes it away (sign -1)."""
        num_classes, width = self.covariance_NCC.shape[1], self.features_ND.shape[1]
        h_D, root_CC = self.features_ND[pick], square_root(self.covariance_NCC[pick])
        identity_CC = torch.eye(num_classes, dtype=h_D.dtype, device=h_D.device)
        inner_CC = identity_CC + sign * root_CC @ self.g_NCC[pick] @ root_CC
        directions_RC = self.inverse_RR.view(-1, num_classes, width) @ h_D @ root_CC  # V (root (x) h)
        w_RC = directions_RC @ square_root(torch.linalg.inv(inner_CC))
        pool_w_RC = self.pool_RR @ w_RC
        q_RC = self.inverse_RR @ pool_w_RC - sign / 2 * w_RC @ (w_RC.T @ pool_w_RC)
        self.inverse_RR -= sign * w_RC @ w_RC.T
        crossed_RR = w_RC @ q_RC.T
        self.spread_RR -= sign * (crossed_RR + crossed_RR.T)
        for part in torch.arange(len(self.features_ND), device=h_D.device).split(CHUNK):
            w_NCC, q_NCC = (
                (self.features_ND[part] @ m_RC.view(num_classes, width, -1)).transpose(0, 1) for m_RC in (w_RC, q_RC)
            )
            self.g_NCC[part] -= sign * w_NCC @ w_NCC.transpose(1, 2)
            crossed_NCC = w_NCC @ q_NCC.transpose(1, 2)
            self.t_NCC[part] -= sign * (crossed_NCC + crossed_NCC.transpose(1, 2))


def mean_information(features_ND: Tensor, covariance_NCC: Tensor) -> Tensor:
    """Returns the mean of `B (x) h h^T` over images, (R, R)."""
    num_classes, width = covariance_NCC.shape[1], features_ND.shape[1]
    blocks_CDCD = features_ND.new_empty(num_classes, width, num_classes, width)
    for first in range(num_classes):
        for second in range(first, num_classes):
            weighted_ND = features_ND * covariance_NCC[:, first, second, None]
            block_DD = features_ND.T @ weighted_ND / len(features_ND)
            blocks_CDCD[first, :, second] = blocks_CDCD[second, :, first] = block_DD
    return blocks_CDCD.reshape(num_classes * width, -1)


def square_root(matrix_CC: Tensor) -> Tensor:
    """Returns the symmetric square root of a positive semi-definite matrix."""
    values_C, vectors_CC = torch.linalg.eigh(matrix_CC)
    root_CC: Tensor = vectors_CC * values_C.clamp(min=0).sqrt() @ vectors_CC.T
    return root_CC
