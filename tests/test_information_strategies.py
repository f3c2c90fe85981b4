"""BatchBALD and BAIT equal twins that enumerate or invert everything; PowerBALD and SoftmaxBALD draw by their law."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.api import Indices, Predictions, View
from benchmark.strategies import bait as bait_module
from benchmark.strategies.bait import Design, bait, label_covariances, select_forward_backward
from benchmark.strategies.bald import bald
from benchmark.strategies.batch_bald import Configurations, batch_bald, select_jointly
from benchmark.strategies.power_bald import power_bald
from benchmark.strategies.softmax_bald import softmax_bald
from tests._toy import Toy, look

RNG = np.random.default_rng
N, K, C, D = 10, 4, 3, 4


def some_predictions(num: int = N, seed: int = 0) -> Tensor:
    """Class probabilities of images under samples of the weights, (N, K, C), in float64."""
    return (2 * torch.randn(num, K, C, generator=torch.Generator().manual_seed(seed)).double()).softmax(2)


# --- BatchBALD --------------------------------------------------------------------------------
def joint_information(p_NKC: Tensor, images: list[int]) -> float:
    """The mutual information of the labels of these images and the weights, by enumeration of all label vectors."""
    joint_entropy = 0.0
    for labels in itertools.product(range(C), repeat=len(images)):
        likelihood_K = torch.ones(K).double()
        for image, label in zip(images, labels, strict=True):
            likelihood_K = likelihood_K * p_NKC[image, :, label]
        joint_entropy -= float(likelihood_K.mean() * likelihood_K.mean().log())
    conditional = sum(float(-(p_NKC[i] * p_NKC[i].log()).sum(1).mean()) for i in images)
    return joint_entropy - conditional


def test_batch_bald_is_its_twin() -> None:
    p_NKC, picks = some_predictions(), list[int]()
    for _ in range(5):
        rest = [image for image in range(N) if image not in picks]
        picks.append(max(rest, key=lambda image: joint_information(p_NKC, [*picks, image])))
    batch = select_jointly(p_NKC, 5, C**5, torch.arange(N), RNG(0))
    assert batch.picks == picks
    assert batch.information == pytest.approx(joint_information(p_NKC, picks))
    assert batch.num_evaluated < 4 * N


def test_drawn_configurations_estimate_the_conditional_entropy() -> None:
    """Drawn from the first image on, they are right to their sampling error, in a batch that can be enumerated."""
    p_NKC, rng = some_predictions(), RNG(0)
    exact, drawn = Configurations.of_nothing(p_NKC), Configurations.of_nothing(p_NKC).draw(10_000, rng)
    for image in range(4):
        exact, drawn = (state.with_image(p_NKC[image], 10_000, rng) for state in (exact, drawn))
    assert (len(exact.weight_M), len(drawn.weight_M)) == (C**4, K * 10_000)
    torch.testing.assert_close(exact.conditional_entropy(p_NKC), drawn.conditional_entropy(p_NKC), atol=0.005, rtol=0)
    torch.testing.assert_close(drawn.relative_MK.mean(1), torch.ones(K * 10_000).double())


def test_a_batch_beyond_the_exact_configurations_is_near_the_exact_one() -> None:
    p_NKC = some_predictions(30)
    exact, drawn = (select_jointly(p_NKC, 6, num, torch.arange(30), RNG(0)) for num in (C**6, 200))
    assert drawn.picks[:4] == exact.picks[:4]  # exact up to 3^4 configurations
    assert joint_information(p_NKC, drawn.picks) > 0.95 * joint_information(p_NKC, exact.picks)


def test_certain_labels_leave_no_impossible_configuration() -> None:
    p_NKC = torch.eye(C).double()[torch.tensor([[0, 0, 0, 0], [1, 1, 2, 2], [1, 1, 2, 2], [0, 1, 0, 1]])]
    batch = select_jointly(p_NKC, 4, 10**4, torch.arange(4), RNG(0))
    assert batch.picks == [1, 3, 0, 2]  # image 2 tells what image 1 told
    assert batch.information == pytest.approx(2 * np.log(2))


def test_large_batches_do_not_underflow() -> None:
    batch = select_jointly(some_predictions(400), 400, 40, torch.arange(400), RNG(0))
    assert sorted(batch.picks) == list(range(400))
    assert np.isfinite(batch.information)


def test_batch_bald_drops_the_same_features_of_all_images() -> None:
    """Two images of equal features give one column of information: the second brings none."""
    task = Toy()
    task.images[1] = task.images[0]
    view = look(task, {"embed", "classify"})
    view_classes: Any = task
    view_classes.classify = lambda model, features: model.head(features)
    chosen = batch_bald(view, 5, RNG(0), num_samples=10, num_configurations=4**5)
    assert len(set(chosen.tolist())) == 5
    assert view.diagnostics["information"] > 0


# --- stochastic batches -----------------------------------------------------------------------
class Scored:
    """A task whose samples give the images chosen mutual informations."""

    def __init__(self, agreement_N: list[float]) -> None:
        self.agreement_N = torch.tensor(agreement_N).double()

    def sample(self, model: object, indices: Indices, num: int, seed: int) -> Iterator[Predictions]:
        for number in range(num):
            shift_N = self.agreement_N[indices] * (1 if number % 2 else -1)
            scores = torch.stack([0.5 + shift_N, 0.5 - shift_N], 1)
            yield Predictions(scores, torch.arange(len(indices)), len(indices))

    def view(self) -> View:
        task: Any = self
        model: Any = None
        none = np.empty(0, np.int64)
        return View(task, model, none, np.arange(len(self.agreement_N)), num_initial=0, held_out=none, needs={"sample"})


def information_of(shift: float) -> float:
    p = np.array([0.5 + shift, 0.5 - shift])
    return float(np.log(2) + (p * np.log(np.maximum(p, 1e-300))).sum())


@pytest.mark.parametrize(("strategy", "coldness"), [(power_bald, 1.0), (power_bald, 2.0), (softmax_bald, 8.0)])
def test_images_are_drawn_by_their_score(strategy: Any, coldness: float) -> None:
    shifts = [0.1, 0.2, 0.3, 0.4]
    scores = np.array([information_of(shift) for shift in shifts])
    weights = scores**coldness if strategy is power_bald else np.exp(coldness * scores)
    view = Scored(shifts).view()
    first = Counter(int(strategy(view, 2, RNG(seed), coldness=coldness, num_samples=2)[0]) for seed in range(3_000))
    expected = 3_000 * weights / weights.sum()
    for image in range(4):
        assert abs(first[image] - expected[image]) < 5 * np.sqrt(expected[image])


def test_images_without_information_come_last() -> None:
    view = Scored([0.0, 0.3, 0.0, 0.2]).view()
    for seed in range(20):
        assert set(power_bald(view, 2, RNG(seed), num_samples=2).tolist()) == {1, 3}
        assert len(set(power_bald(view, 4, RNG(seed), num_samples=2).tolist())) == 4


@pytest.mark.parametrize("strategy", [power_bald, softmax_bald])
def test_the_coldest_draw_is_bald(strategy: Any) -> None:
    view = look(Toy(), {"sample"})
    seed = RNG(3)
    expected = bald(view, 6, RNG(3), num_samples=5)
    assert strategy(view, 6, seed, coldness=1e9, num_samples=5).tolist() == expected.tolist()


# --- BAIT -------------------------------------------------------------------------------------
def information_matrices(h_ND: Tensor, p_NC: Tensor, is_full: bool) -> Tensor:
    """The Fisher information of each image as a whole matrix."""
    if not is_full:
        largest_N = p_NC.amax(1)
        return (largest_N * (1 - largest_N))[:, None, None] * h_ND[:, :, None] * h_ND[:, None]
    covariances = [torch.diag(p_C) - torch.outer(p_C, p_C) for p_C in p_NC]
    return torch.stack([torch.kron(b, torch.outer(h, h)) for b, h in zip(covariances, h_ND, strict=True)])


def bait_twin(
    matrices_NRR: Tensor, num_labelled: int, regularisation: float, budget: int, num_forward: int
) -> tuple[list[int], float]:
    """Forward and backward selection with a matrix inversion for each candidate at each step."""
    pool_RR = matrices_NRR.mean(0)
    state_RR = regularisation * torch.eye(len(pool_RR)).double() + matrices_NRR[:num_labelled].mean(0)
    candidates, picks = matrices_NRR[num_labelled:], list[int]()

    def objective(matrix_RR: Tensor) -> float:
        return torch.trace(torch.linalg.inv(matrix_RR) @ pool_RR).item()

    while len(picks) < num_forward:
        rest = [image for image in range(len(candidates)) if image not in picks]
        picks.append(min(rest, key=lambda image: objective(state_RR + candidates[image])))
        state_RR = state_RR + candidates[picks[-1]]
    while len(picks) > budget:
        leaves = min(picks, key=lambda image: objective(state_RR - candidates[image]))
        picks.remove(leaves)
        state_RR = state_RR - candidates[leaves]
    return picks, objective(state_RR)


@pytest.mark.parametrize("is_full", [True, False])
@pytest.mark.parametrize("regularisation", [1.0, 0.01])
def test_bait_is_its_twin(is_full: bool, regularisation: float) -> None:
    generator = torch.Generator().manual_seed(0)
    h_ND, p_NC = torch.randn(40, D, generator=generator).double(), torch.randn(40, C, generator=generator).double()
    p_NC = p_NC.softmax(1)
    design = Design.start(h_ND, label_covariances(p_NC, is_full), 6, regularisation)
    picks = select_forward_backward(design, 8, 16, torch.arange(34))
    expected, objective = bait_twin(information_matrices(h_ND, p_NC, is_full), 6, regularisation, 8, 16)
    assert picks == expected
    assert design.objective == pytest.approx(objective)


def test_the_design_stays_exact_over_many_changes() -> None:
    generator = torch.Generator().manual_seed(1)
    h_ND, p_NC = torch.randn(60, D, generator=generator).double(), torch.rand(60, C, generator=generator).double()
    p_NC = p_NC / p_NC.sum(1, keepdim=True)
    design = Design.start(h_ND, label_covariances(p_NC, True), 5, 0.1)
    for pick in range(50):
        design.change(pick, 1)
    for pick in range(45):
        design.change(pick, -1)
    matrices = information_matrices(h_ND, p_NC, True)
    state = 0.1 * torch.eye(C * D).double() + matrices[:5].mean(0) + matrices[50:55].sum(0)
    inverse = torch.linalg.inv(state)
    torch.testing.assert_close(design.inverse_RR, inverse)
    fresh = Design(design.features_ND, design.covariance_NCC, inverse, design.pool_RR)
    torch.testing.assert_close(design.g_NCC, fresh.g_NCC)
    torch.testing.assert_close(design.t_NCC, fresh.t_NCC)


def test_bait_takes_the_binary_form_where_the_full_one_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def spy(p_NC: Tensor, is_full: bool) -> Tensor:
        covariance_NCC = label_covariances(p_NC, is_full)
        sizes.append(covariance_NCC.shape[1])
        return covariance_NCC

    monkeypatch.setattr(bait_module, "label_covariances", spy)
    view = look(Toy(), {"predict", "embed"})  # 4 classes and 8 features
    for form, limit in (("full", 0), ("binary", 99), ("auto", 32), ("auto", 31)):
        monkeypatch.setattr(bait_module, "MAX_PARAMETERS", limit)
        bait(view, 6, RNG(0), form=form)
        assert 0 < view.diagnostics["objective"] < view.diagnostics["was_objective"]
    assert sizes == [4, 1, 4, 1]


@pytest.mark.parametrize(
    ("strategy", "given", "words"),
    [
        (bait, {"regularisation": 0.0}, "above 0"),
        (bait, {"oversampling": 0.5}, "1 or more"),
        (batch_bald, {"dropout": 0.0}, "between 0 and 1"),
        (batch_bald, {"num_configurations": 5, "num_samples": 6}, "at least num_samples"),
        (power_bald, {"coldness": -1.0}, "0 or more"),
        (softmax_bald, {"num_samples": 1}, "2 or more"),
    ],
)
def test_values_that_make_no_sense_are_refused(strategy: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        strategy(look(Toy(), {"predict", "embed", "sample"}), 3, RNG(0), **given)
