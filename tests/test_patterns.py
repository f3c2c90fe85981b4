"""GEAL and FreeSel by hand and against brute force: the attention filter, clusters inside an image, the greedy
order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from benchmark.api import Encoding, Indices, View
from benchmark.strategies.coreset import coreset
from benchmark.strategies.freesel import freesel
from benchmark.strategies.geal import geal
from benchmark.strategies.shared import kcenter
from benchmark.strategies.shared.kcenter import Groups, LazyDistances, draw_by_distance, k_center_greedy, pick_exactly
from benchmark.strategies.shared.patterns import cluster_patches, extract_patterns, most_attended
from tests._toy import Toy, look


class Encoded(Toy):
    """The toy task with random but fixed encodings."""

    num_patches, num_features = 6, 3

    def __init__(self, **kinds: Any) -> None:
        super().__init__(**kinds)
        generator = torch.Generator().manual_seed(1)
        shape = (self.num_pool, self.num_patches, self.num_features)
        self.patches_NTD = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.attention_NT = torch.rand(shape[:2], generator=generator, dtype=torch.float64)
        self.attention_NT /= self.attention_NT.sum(1, keepdim=True)
        self.global_NE = torch.randn(self.num_pool, 4, generator=generator, dtype=torch.float64)

    def encode(self, model: object, indices: Indices, encoder: str) -> Iterator[Encoding]:
        for part in np.array_split(indices, max(1, min(3, len(indices)))):
            yield Encoding(self.patches_NTD[part], self.attention_NT[part], self.global_NE[part], seconds=1.0)


# --- the attention filter -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (0.3, [False, True, False, False]),
        (0.5, [False, True, False, False]),
        (0.51, [False, True, False, True]),
        (0.75, [False, True, False, True]),
        (0.9, [True, True, False, True]),
        (1.0, [True, True, True, True]),
    ],
)
def test_the_most_attended_patches_that_hold_tau(tau: float, expected: list[bool]) -> None:
    """By hand; attentions are sums of powers of two, so that sums are exact."""
    attention_NT = torch.tensor([[0.1875, 0.5, 0.0625, 0.25]], dtype=torch.float64)
    assert most_attended(attention_NT, tau).tolist() == [expected]


def test_the_filter_is_its_brute_force_twin() -> None:
    """The smallest number of most attended patches whose attention sums to tau."""
    attention_NT = torch.rand(200, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    attention_NT /= attention_NT.sum(1, keepdim=True)
    for row_T, kept_T in zip(attention_NT.numpy(), most_attended(attention_NT, 0.6).numpy(), strict=True):
        order = np.argsort(-row_T)
        number = next(n for n in range(1, 10) if row_T[order[:n]].sum() >= 0.6)
        assert set(np.flatnonzero(kept_T)) == set(order[:number])


# --- clusters -------------------------------------------------------------------------------
def lloyd(rows_TD: npt.NDArray[np.float64], attention_T: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
    """Runs scikit-learn's k-means on one image, from the most attended patch and the farthest of the others."""
    if len(rows_TD) <= k:
        return rows_TD
    first = [int(attention_T.argmax())]
    while len(first) < k:
        first.append(int(cdist(rows_TD, rows_TD[first]).min(1).argmax()))
    fitted = KMeans(k, init=rows_TD[first], n_init=1, max_iter=100, tol=0).fit(rows_TD)
    centres: npt.NDArray[np.float64] = fitted.cluster_centers_
    return centres


@pytest.mark.parametrize("k", [1, 2, 3, 5, 20])
def test_clusters_are_those_of_scikit_learn_image_by_image(k: int) -> None:
    generator = torch.Generator().manual_seed(2)
    patches_NTD = torch.randn(40, 16, 4, generator=generator, dtype=torch.float64)
    attention_NT = torch.rand(40, 16, generator=generator, dtype=torch.float64)
    kept_NT = torch.rand(40, 16, generator=generator) < 0.7
    kept_NT[0] = False
    kept_NT[0, 3] = True  # one patch
    kept_NT[1] = True
    centres_NKD, there_NK = cluster_patches(patches_NTD, kept_NT, attention_NT, k)
    for number in range(40):
        kept_T = kept_NT[number].numpy()
        twin = lloyd(patches_NTD[number].numpy()[kept_T], attention_NT[number].numpy()[kept_T], k)
        mine = centres_NKD[number][there_NK[number]].numpy()
        np.testing.assert_allclose(mine[np.lexsort(mine.T)], twin[np.lexsort(twin.T)], atol=1e-12)


def test_one_cluster_is_the_mean_and_copies_of_a_patch_stay_apart() -> None:
    patches_NTD = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [4.0, 3.0]], [[1.0, 1.0]] * 3])
    kept_NT, attention_NT = torch.ones(2, 3, dtype=torch.bool), torch.full((2, 3), 1 / 3)
    centres_NKD, there_NK = cluster_patches(patches_NTD, kept_NT, attention_NT, 1)
    assert centres_NKD.tolist() == [[[2.0, 1.0]], [[1.0, 1.0]]]
    centres_NKD, there_NK = cluster_patches(patches_NTD, kept_NT, attention_NT, 2)
    assert centres_NKD[1].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert there_NK.all()


def test_an_image_has_the_same_patterns_in_any_company() -> None:
    task = Encoded()
    whole = extract_patterns(task.encode(None, np.arange(60), ""), 0.6, 3, "cosine")
    alone = extract_patterns(task.encode(None, np.array([7, 8, 9]), ""), 0.6, 3, "cosine")
    assert torch.equal(alone.features_PD[alone.image_P == 1], whole.features_PD[whole.image_P == 8])
    norms_P = whole.features_PD.norm(dim=1)
    assert torch.allclose(norms_P, torch.ones_like(norms_P))


# --- the greedy order -----------------------------------------------------------------------
def geal_twin(view: View, task: Encoded, budget: int, tau: float, k: int, metric: Any) -> list[int]:
    """Image by image from full matrices of distances."""
    every = [*view.labelled.tolist(), *view.unlabelled.tolist()]
    rows = {
        i: extract_patterns(task.encode(None, np.array([i]), ""), tau, k, "euclidean").features_PD.numpy()
        for i in every
    }
    chosen = view.labelled.tolist()
    for _ in range(budget):
        centres = np.concatenate([rows[i] for i in chosen])
        left = [i for i in view.unlabelled.tolist() if i not in chosen]
        far = [cdist(rows[i], centres, metric).min(1).max() for i in left]
        chosen.append(left[int(np.argmax(far))])
    return chosen[-budget:]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 3, 25])
def test_geal_is_its_brute_force_twin(metric: Any, k: int) -> None:
    task = Encoded(dtype=torch.float64)
    view = look(task, {"encode"})
    chosen = geal(view, 25, np.random.default_rng(0), encoder="any", tau=0.7, k=k, metric=metric)
    assert chosen.tolist() == geal_twin(view, task, 25, 0.7, k, metric)
    assert view.encoding_time.seconds == 6.0  # three parts of labelled and three of unlabelled images


def test_geal_by_hand_takes_all_patterns_of_an_image_with_it() -> None:
    """Images on a line with patterns 0 | 10 and 1 | 6 | 9; 0 is labelled. The image of 10 also has 1, so 6 is next."""
    points_PD = torch.tensor([[10.0], [1.0], [6.0], [9.0]])
    groups = Groups.from_labels(torch.tensor([0, 0, 1, 2]))
    assert groups.members_GK.tolist() == [[0, 1], [2, 2], [3, 3]]
    rank_P = torch.arange(4)
    picks = k_center_greedy(points_PD, torch.tensor([[0.0]]), 3, rank_P, groups=groups)
    assert picks.tolist() == [0, 2, 3]
    alone = Groups.from_labels(torch.tensor([0, 1, 2, 3]))
    assert k_center_greedy(points_PD, torch.tensor([[0.0]]), 4, rank_P, groups=alone).tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("budget", [3, 60, 150])
def test_lazy_groups_are_eager_groups(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kcenter, "NUM_ACTIVE", 16)
    generator = torch.Generator().manual_seed(budget)
    points_ND = torch.randn(600, 5, generator=generator, dtype=torch.float64)
    groups = Groups.from_labels(torch.arange(600) // 4)
    norms_N, far_N = points_ND.square().sum(1), torch.full((600,), 1e6, dtype=torch.float64)
    rank_N = torch.randperm(150, generator=generator)[torch.arange(600) // 4]
    expected = pick_exactly(points_ND, norms_N, far_N.clone(), rank_N, budget, groups)
    assert rank_N[expected[0]] == 0  # all are as far at first
    assert torch.equal(LazyDistances(points_ND, norms_N, far_N.clone(), budget, groups).pick(rank_N), expected)
    assert len(set((expected // 4).tolist())) == budget


@pytest.mark.parametrize("strategy", [geal, freesel, coreset])
def test_without_labels_the_first_image_is_random_and_the_rest_follows(strategy: Any) -> None:
    view = look(Encoded(dtype=torch.float64), {"encode"}, num_labelled=0, model=Toy().model())
    starts = {int(strategy(view, 5, np.random.default_rng(seed), encoder="any")[0]) for seed in range(12)}
    assert len(starts) > 6
    chosen = strategy(view, 52, np.random.default_rng(0), encoder="any")
    assert sorted(chosen.tolist()) == view.unlabelled.tolist()


def test_coreset_on_an_encoder_takes_its_features_of_the_image() -> None:
    task = Encoded()
    view = look(task, {"encode"})
    left = task.global_NE[view.unlabelled].numpy()
    far = cdist(left, task.global_NE[view.labelled].numpy()).min(1).argmax()
    assert coreset(view, 1, np.random.default_rng(0), encoder="any").tolist() == [view.unlabelled[far]]


# --- draws ----------------------------------------------------------------------------------
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_draws_have_the_probabilities_of_exact_distances(power: float) -> None:
    """The second image of two, counted over 4,000 draws, against distance ** power summed over the first image."""
    points_ND = torch.tensor([[0.0], [1.0], [3.0], [4.5], [8.0]], dtype=torch.float64)
    centres_MD, groups = torch.tensor([[-1.0]], dtype=torch.float64), Groups.from_labels(torch.arange(5))
    first_N = ((points_ND[:, 0] + 1) ** 2) ** power
    expected_N = torch.zeros(5, dtype=torch.float64)
    for first in range(5):
        nearest_N = torch.minimum((points_ND[:, 0] + 1) ** 2, (points_ND[:, 0] - points_ND[first, 0]) ** 2) ** power
        expected_N += first_N[first] / first_N.sum() * nearest_N / nearest_N.sum()
    rng, number = np.random.default_rng(0), 4_000
    seconds = Counter(
        int(draw_by_distance(points_ND, centres_MD, 2, rng, power=power, groups=groups, first=0)[1])
        for _ in range(number)
    )
    counted_N = np.array([seconds[first] for first in range(5)]) / number
    np.testing.assert_allclose(counted_N, expected_N.numpy(), atol=4 * 0.5 / number**0.5)


def test_draws_never_repeat_an_image_even_among_copies() -> None:
    points_ND = torch.zeros(12, 2, dtype=torch.float64)
    groups = Groups.from_labels(torch.arange(12) // 2)
    picks = draw_by_distance(points_ND, points_ND[:1], 6, np.random.default_rng(0), power=2.0, groups=groups, first=0)
    assert sorted((picks // 2).tolist()) == list(range(6))


def test_freesel_draws_by_its_generator_alone() -> None:
    view = look(Encoded(), {"encode"})
    first, again, other = (freesel(view, 20, np.random.default_rng(s), encoder="any").tolist() for s in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("strategy", "settings", "words"),
    [
        (geal, {"tau": 0.0}, r"geal\[tau=0.0\]: must be above 0 and at most 1"),
        (geal, {"k": 0}, r"geal\[k=0\]: must be 1 or more"),
        (freesel, {"tau": 1.5}, r"freesel\[tau=1.5\]: must be above 0"),
    ],
)
def test_settings_without_patterns_are_refused(strategy: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        strategy(look(Encoded(), {"encode"}), 1, np.random.default_rng(0), encoder="any", **settings)


def test_features_that_are_no_numbers_are_refused() -> None:
    task = Encoded()
    task.patches_NTD[3, 2, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        geal(look(task, {"encode"}), 5, np.random.default_rng(0), encoder="any", tau=1.0)
