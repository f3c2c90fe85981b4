"""Tests at growing numbers of seeds keep the error rate of one test: by enumeration, brute force and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from benchmark.analysis import sequential
from benchmark.analysis.sequential import (
    SequentialState,
    conditional_power,
    first_rejecting_look,
    sequential_states,
    sign_vectors,
)
from benchmark.analysis.stats import holm, sign_flip_test
from benchmark.experiment.auto_seeds import AutoSeeds

AUTO = AutoSeeds("random", 0.95, 30)
Floats = np.ndarray


def test_looks() -> None:
    assert AUTO.looks == (8, 10, 12, 15, 20, 25, 30)
    assert AutoSeeds("r", 0.95, 9).looks == (8, 9)
    assert AutoSeeds("r", 0.95, 8).looks == (8,)
    assert AutoSeeds("r", 0.95, 41).looks == (8, 10, 12, 15, 20, 25, 30, 35, 40, 41)


@pytest.mark.parametrize(
    ("level", "max_seeds", "words"), [(0.05, 30, "0.95 bounds"), (1, 30, "level=1"), (0.95, 7, "=7")]
)
def test_wrong_settings_are_refused_in_one_line(level: float, max_seeds: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AutoSeeds("random", level, max_seeds)


def test_signs_of_more_seeds_begin_with_those_of_fewer() -> None:
    """Therefore the result of a look does not change when more seeds are allowed."""
    few, many = sign_vectors(10), sign_vectors(30)
    assert (many[:, :10] == few).all()
    assert (many[0] == 1).all()
    assert set(np.unique(many)) == {-1.0, 1.0}
    assert abs(many[1:].mean()) < 0.005


def slow_first_rejecting_look(differences: Floats, alpha: float, auto: AutoSeeds, vectors: Floats) -> int | None:
    """A slow implementation of the rule: at each look it sorts the remaining sign vectors and removes the most extreme
    ones while the allowance lasts; equal ones are removed together or not at all."""
    left = list(range(len(vectors)))
    for number in auto.looks:
        if number > len(differences):
            return None
        far = {vector: round(abs(float(vectors[vector, :number] @ differences[:number])), 9) for vector in left}
        allowance = math.floor(alpha * number / auto.max_seeds * len(vectors) + 1e-9) - (len(vectors) - len(left))
        for _, group in itertools.groupby(
            sorted(left, key=lambda vector: -far[vector]), key=lambda vector: far[vector]
        ):
            members = list(group)
            if len(members) > allowance:
                break
            allowance -= len(members)
            left = [vector for vector in left if vector not in set(members)]
        if 0 not in left:
            return number
    return None


def test_the_rule_equals_its_slow_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = sign_vectors(12)[:400]
    monkeypatch.setattr(sequential, "sign_vectors", lambda num_seeds: vectors)
    auto, rng, looks = AutoSeeds("r", 0.95, 12), np.random.default_rng(0), []
    for number in range(120):
        differences = rng.normal(number % 4 / 4, 1, 12).round(number % 3)  # ties, and zeros
        looks.append(first_rejecting_look(differences, 0.1, auto))
        assert looks[-1] == slow_first_rejecting_look(differences, 0.1, auto, vectors)
    assert {None, 8, 10, 12} <= set(looks)


def sizes_of(kind: str, number: int) -> Floats:
    """Absolute differences of this kind."""
    rng = np.random.default_rng(1)
    sizes = {
        "normal": rng.normal(size=number),
        "ties": rng.integers(1, 3, number) * 1.0,
        "zeros": rng.normal(size=number) * (rng.random(number) > 0.2),
        "heavy": rng.standard_cauchy(number),
    }[kind]
    assert (kind == "zeros") == (0 in sizes)
    assert (kind == "ties") == (len(set(sizes[sizes != 0])) < (sizes != 0).sum())
    return np.asarray(sizes)


def share_rejected(sizes: Floats, alpha: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """The share of all choices of signs that the rule rejects; they are symmetric about zero by construction.

    A choice and its opposite are rejected together, so half of the choices are enough."""
    number = len(sizes)
    every = np.array(list(itertools.product([1.0, -1.0], repeat=number)))
    monkeypatch.setattr(sequential, "sign_vectors", lambda num_seeds: every)
    auto = AutoSeeds("r", 1 - alpha, number)
    rejected = [first_rejecting_look(sizes * signs, alpha, auto) is not None for signs in every[: len(every) // 2]]
    assert first_rejecting_look(-sizes, alpha, auto) == first_rejecting_look(sizes, alpha, auto)
    return float(np.mean(rejected))


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "heavy"])
def test_no_more_than_alpha_is_rejected_over_all_signs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    share = share_rejected(sizes_of(kind, 10), 0.1, monkeypatch)
    assert share <= 0.1
    assert kind == "ties" or share > 0.08  # nearly all of alpha is spent


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "heavy"])
def test_no_more_than_alpha_is_rejected_over_all_signs_of_fourteen(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert AutoSeeds("r", 0.95, 14).looks == (8, 10, 12, 14)
    share = share_rejected(sizes_of(kind, 14), 0.05, monkeypatch)
    print(f"{kind}: {share:.5f} of all {2**14:,} choices of signs")
    assert share <= 0.05
    assert kind == "ties" or share > 0.045


def test_states_by_hand() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 30)
    states = sequential_states({"far": 5 + noise, "same": noise - noise.mean(), "fewer": noise[:5]}, AUTO)
    assert states["far"] == SequentialState("open", 8)  # a look waits for the seeds of all open comparisons
    states = sequential_states({"far": 5 + noise, "same": noise - noise[:10].mean()}, AUTO)
    assert states == {
        "far": SequentialState("better", 10),
        "same": SequentialState("given up", 10),
    }  # at 8 one of two cannot be decided
    assert sequential_states({"far": -5 - noise}, AUTO) == {"far": SequentialState("worse", 8)}
    assert sequential_states({"none": np.empty(0)}, AUTO) == {"none": SequentialState("open", 8)}


def test_a_status_does_not_change_when_more_seeds_run() -> None:
    rng = np.random.default_rng(3)
    whole = {f"s{place}": rng.normal(place / 4, 1, 30) for place in range(5)}
    last: dict[str, SequentialState] = {}
    for number in range(31):
        states = sequential_states({name: values[:number] for name, values in whole.items()}, AUTO)
        settled = {name: state for name, state in states.items() if state.status != "open"}
        assert last.items() <= settled.items()
        last = settled
    assert len(last) == 5


def test_conditional_power_is_that_of_simulated_futures() -> None:
    rng = np.random.default_rng(0)
    so_far = np.concatenate([rng.normal(0.25, 1, 12)])
    ahead = rng.normal(so_far.mean(), so_far.std(ddof=1), (4_000, 18))
    whole = np.concatenate([np.tile(so_far, (4_000, 1)), ahead], 1)
    z = whole.mean(1) / so_far.std(ddof=1) * math.sqrt(30)
    assert conditional_power(so_far, 0.05, 30) == pytest.approx(float((z > 1.96).mean()), abs=0.03)


# --- simulated truth: type I error, power and seeds ---------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(
    ("difference", "rejected", "num_seeds"),
    [(0.0, 0.050, 15.4), (0.5, 0.61, 19.4), (0.8, 0.957, 15.0), (1.2, 0.999, 10.6)],
)
def test_one_comparison(difference: float, rejected: float, num_seeds: float) -> None:
    """The expected values are from an independent implementation of this rule."""
    rng = np.random.default_rng(int(100 * difference))
    states = [sequential_states({"a": rng.normal(difference, 1, 30)}, AUTO)["a"] for _ in range(2_000)]
    share = np.mean([state.status in ("better", "worse") for state in states])
    mean = np.mean([state.num_seeds for state in states])
    print(f"difference {difference}: rejected {share:.3f}, {mean:.1f} seeds")
    assert share == pytest.approx(rejected, abs=3 * math.sqrt(rejected * (1 - rejected) / 2_000) + 0.003)
    assert mean == pytest.approx(num_seeds, abs=0.6)


@pytest.mark.slow
def test_nine_comparisons_keep_the_family_wise_error() -> None:
    rng, wrong, num_runs, cases = np.random.default_rng(9), 0, [], 600
    for _ in range(cases):
        reference = rng.normal(0, 1, 30)
        whole = {f"s{place}": rng.normal(0, 1, 30) - reference for place in range(9)}
        states = sequential_states(whole, AUTO)
        wrong += any(state.status in ("better", "worse") for state in states.values())
        num_runs.append(
            sum(state.num_seeds for state in states.values()) + max(state.num_seeds for state in states.values())
        )
    print(f"nine equal strategies: family-wise error {wrong / cases:.3f}, {np.mean(num_runs):.0f} runs instead of 300")
    assert wrong / cases <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / cases)
    assert 110 < np.mean(num_runs) < 155


@pytest.mark.slow
def test_nine_comparisons_of_which_some_differ_find_as_much_with_fewer_runs() -> None:
    """Compared with twenty seeds of every strategy and Holm's correction, which takes 200 runs."""
    rng, truth, cases = np.random.default_rng(11), np.array([0.0] * 3 + [0.5] * 2 + [0.8] * 2 + [1.2] * 2), 300
    sequential_MK, fixed_MK = np.zeros((cases, 9), bool), np.zeros((cases, 9), bool)
    num_runs = np.zeros(cases)
    for case in range(cases):
        gaps_KN = truth[:, None] + (rng.normal(size=(9, 30)) - rng.normal(size=30)) / math.sqrt(2)
        states = sequential_states({str(place): gaps_N for place, gaps_N in enumerate(gaps_KN)}, AUTO)
        sequential_MK[case] = [states[str(place)].status == "better" for place in range(9)]
        fixed_MK[case] = holm(sign_flip_test(gaps_KN[:, :20], rng)) <= 0.05
        num_runs[case] = sum(state.num_seeds for state in states.values()) + max(
            state.num_seeds for state in states.values()
        )
    power, fixed = (
        {size: one_MK[:, truth == size].mean() for size in (0.5, 0.8, 1.2)} for one_MK in (sequential_MK, fixed_MK)
    )
    print(f"power {power} with {num_runs.mean():.0f} runs, {fixed} with 200")
    assert num_runs.mean() < 180
    assert all(power[size] >= fixed[size] - 0.03 for size in power)
    assert power[0.8] > fixed[0.8] + 0.03
