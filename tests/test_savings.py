"""Savings equal cases computed by hand and by brute force, and the paper's claims from its own tables."""

import json
import math

import numpy as np
import pytest
from _curves import PLAIN, curve, experiment, recorded
from typer.testing import CliRunner

from benchmark.analysis.annotation_cost import crossing_cost
from benchmark.analysis.comparison_tables import describe_comparison
from benchmark.analysis.comparison_tables import explain_columns as below
from benchmark.analysis.comparisons import compare
from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.options import PUBLISHED_FOLDER
from benchmark.analysis.savings import (
    Price,
    Saving,
    TargetRule,
    compute_savings,
    default_rule,
    strategy_pairs,
)
from benchmark.analysis.stats import pair_runs
from benchmark.cli.commands import app
from benchmark.experiment.schedule import Schedule

RNG = np.random.default_rng(0)
IMAGES = Price("images")


def first_crossing(x: list[float], y: list[float], target: float) -> float:
    """Brute force: evaluates the running maximum in small steps."""
    best = np.maximum.accumulate(y)
    if best[0] >= target:
        return x[0]
    fine = np.linspace(x[0], x[-1], 200_001)
    hit = np.flatnonzero(np.interp(fine, x, best) >= target - 1e-9)
    return float(fine[hit[0]]) if len(hit) else math.inf


@pytest.mark.parametrize("number", range(20))
def test_the_crossing_cost_is_where_the_running_maximum_reaches_the_target(number: int) -> None:
    rng = np.random.default_rng(number)
    x = np.cumsum(rng.uniform(1, 10, 8))
    y = rng.normal(np.linspace(0, 3, 8), 1)  # not monotone
    for target in (y.min() - 1, *y, y.mean(), y.max() + 1):
        [cost] = crossing_cost(x[None], y[None], np.array([target]))
        expected = first_crossing(list(x), list(y), float(target))
        assert cost == pytest.approx(expected, abs=(x[-1] - x[0]) / 1e5)


def test_a_dip_does_not_count() -> None:
    x, y = np.array([[0.0, 1, 2, 3]]), np.array([[0.0, 5, 3, 8]])
    assert crossing_cost(x, y, np.array([4.0])) == [0.8]
    assert crossing_cost(x, y, np.array([5.0])) == [1.0]
    assert crossing_cost(x, y, np.array([6.5])) == [2.5]


def only_saving(*curves: object, rule: str = "final", price: Price = IMAGES) -> Saving:
    [saving] = compute_savings(experiment(*curves), "a", "b", TargetRule.read(rule), price, np.random.default_rng(0))
    return saving


def test_savings_by_hand() -> None:
    a, b = curve("a", [[10.0, 30, 50]]), curve("b", [[10.0, 20, 40]])
    final = only_saving(a, b)
    assert (final.target, final.strategy_cost, final.against_cost) == (40, 2500, 3000)
    assert (final.amount.value, final.percent.value) == (500, pytest.approx(100 / 6))
    assert final.is_reached
    value = only_saving(a, b, rule="15")
    assert (value.strategy_cost, value.against_cost) == (1250, 1500)
    band = only_saving(a, b, rule="band:18,22")
    assert (band.strategy_cost, band.against_cost) == (2000, 2000)  # the first rounds of 18 or more
    weaker = only_saving(curve("a", [[10.0, 20, 30]]), b)  # at its own final score, which both reach
    assert (weaker.target, weaker.strategy_cost, weaker.against_cost, weaker.amount.value) == (30, 3000, 2500, -500)
    late = only_saving(curve("a", [[10.0, 20, 30]]), b, rule="40")
    assert not late.is_reached
    assert late.not_reached_note == "not reached: a has not reached it within 3,000 images"
    assert math.isnan(late.amount.value)
    both = only_saving(a, b, rule="90")
    assert (
        both.not_reached_note
        == "not reached: a has not reached it within 3,000 images; b has not reached it within 3,000 images"
    )


def test_the_curve_rule_gives_every_score_of_the_other() -> None:
    a, b = curve("a", [[10.0, 30, 50]]), curve("b", [[10.0, 20, 40]])
    points = compute_savings(experiment(a, b), "a", "b", TargetRule("curve"), IMAGES, RNG)
    assert [point.target for point in points] == [10, 20, 40]
    assert [point.amount.value for point in points] == [0, 500, 500]


def test_time_is_images_and_boxes() -> None:
    a = curve("a", [[10.0, 20]], [10, 20], kind="boxes")
    b = curve("b", [[10.0, 20]], [10, 40], kind="boxes")
    saving = only_saving(a, b, price=Price("time", per_image=2, per_box=3))
    assert (saving.strategy_cost, saving.against_cost) == (20 * 5, 40 * 5)
    with pytest.raises(ValueError, match=r"cost=boxes: a counts no boxes, only images"):
        only_saving(curve("a", [[1.0]]), curve("b", [[1.0]]), price=Price("boxes"))


def test_intervals_come_from_pairs_and_end_where_nothing_is_known() -> None:
    base = np.array([[10.0, 20, 30, 40], [12, 22, 32, 42], [11, 21, 31, 41]])
    shifted = np.roll(base, -1, axis=1) * [1, 1, 1, np.nan] + 0.0
    shifted[:, 3] = base[:, 3] + 10
    saving = only_saving(curve("a", shifted), curve("b", base))  # both share the effect of the seed
    assert saving.amount.value == pytest.approx(1000)
    assert np.isnan([saving.amount.low, saving.amount.high]).all()  # so there is no interval
    single = only_saving(curve("a", shifted[:1]), curve("b", base[:1]))
    assert single.is_reached
    assert math.isnan(single.amount.low)
    noisy = np.random.default_rng(1).normal(0, 6, base.shape)
    wide = only_saving(curve("a", base + noisy), curve("b", base), rule="38")
    assert wide.is_reached
    assert wide.amount.low == -math.inf  # some replicates never reach the target
    assert wide.percent.high <= 100 * (1 - 1000 / wide.against_cost) + 100 * 3000 / wide.against_cost
    assert wide.amount.high <= 3000  # nobody pays less than for round 0, nor more than all


def test_rules_are_read_or_refused() -> None:
    assert TargetRule.read("band:0.217,0.223") == TargetRule("band", 0.217, 0.223)
    assert TargetRule.read("0.42") == TargetRule("value", 0.42, 0.42)
    assert [str(TargetRule.read(text)) for text in ("final", "0.42", "band:1,2")] == ["final", "0.42", "band:1,2"]
    for text in ("", "last", "band:1", "band:2,1", "nan", "inf", "1,2", "band:1,inf"):
        with pytest.raises(ValueError, match="use final, curve, a score, or band:LOW,HIGH"):
            TargetRule.read(text)


# --- the paper's claims (its abstract and section 4), each with the rule that gives it ---------
CLAIMS = [  # task, against, at, percent by the rule, percent in the paper
    ("cifar10", "coreset", "final", 11.75, 12),
    ("cifar10", "random", "final", 23.65, 23),
    ("cifar100", "coreset", "final", 2.95, 2.9),
    ("cifar100", "random", "final", 9.11, 9.3),
    ("svhn_as_published", "coreset", "final", 12.61, 12),
    ("svhn_as_published", "random", "final", 14.88, 14),
    ("voc2012_fcos", "coreset", "0.42", 13.28, 13),
    ("voc2012_fcos", "localization_stability", "band:0.42,0.5", 26.12, 26),
    ("coco_fcos", "random", "band:0.217,0.223", 16.05, 16),
    ("coco_fcos", "learning_loss", "band:0.217,0.223", 59.49, 59),
    ("coco_large_fcos", "coreset", "0.34", 7.55, 8),
    ("coco_faster_rcnn", "random", "0.217", 10.55, 10.4),
]


@pytest.mark.parametrize(("task", "against", "at", "percent", "claimed"), CLAIMS)
def test_claims_of_the_paper(task: str, against: str, at: str, percent: float, claimed: float) -> None:
    words = [f"task={task}", "strategy=isal", f"against={against}", f"at={at}", "format=json"]
    result = CliRunner().invoke(app, ["savings", f"records={PUBLISHED_FOLDER}", *words])
    assert result.exit_code == 0, result.output
    [row] = [row for row in json.loads(result.stdout) if row["source"] == "isal-2021"]
    assert (row["task"], row["strategy"], row["against"]) == (task, "isal", against)
    assert row["reached"]
    assert row["percent"] == pytest.approx(percent, abs=0.01)
    assert row["percent"] == pytest.approx(claimed, abs=1.0)
    assert row["saved"] == pytest.approx(row["other"] - row["paid"])
    assert row["percent"] == pytest.approx(100 * row["saved"] / row["other"])


def test_the_share_of_all_boxes_that_large_coco_takes() -> None:
    [coco] = [
        saving for saving in read_experiments(str(PUBLISHED_FOLDER)) if saving.title == "isal_2021_coco_large_fcos"
    ]
    [saving] = compute_savings(coco, "isal", "coreset", TargetRule.read("0.34"), Price("boxes"), RNG)
    assert 100 * saving.strategy_cost / coco.curves["isal"].cost["boxes"][0, -1] == pytest.approx(
        60.75, abs=0.01
    )  # the paper says 60.7


def test_every_pair_of_published_curves_has_a_saving(capsys: pytest.CaptureFixture[str]) -> None:
    result = CliRunner().invoke(app, ["savings", f"records={PUBLISHED_FOLDER}", "format=json"])
    rows = json.loads(result.stdout)
    assert len(rows) == len(strategy_pairs(read_experiments(str(PUBLISHED_FOLDER)), [], []))
    assert {"task", "strategy", "against", "target", "saved", "percent", "low", "high", "reached"} <= set(rows[0])
    assert all(row["reached"] and row["saved"] is not None for row in rows)  # at the smaller of both final scores
    result = CliRunner().invoke(
        app, ["savings", f"records={PUBLISHED_FOLDER}", "at=curve", "strategy=random", "format=json"]
    )
    assert any(not row["reached"] and row["saved"] is None for row in json.loads(result.stdout))


def test_unknown_names_and_curves_that_do_not_meet_are_one_line(tmp_path: object) -> None:
    for words, message in [
        (["strategy=isall"], "'isall' (did you mean 'isal'?)"),
        (["task=cifar11"], "'cifar11' (did you mean 'cifar10'?)"),
        (["at=best"], "use final, curve, a score, or band:LOW,HIGH"),
        (["seeds=3"], "no setting of this command is called 'seeds'"),
        (["cost=money"], "must be one of"),
    ]:
        result = CliRunner().invoke(app, ["savings", "records=published", *words])
        assert message in str(result.exception), words


def test_one_seed_has_no_interval(tmp_path) -> None:
    store = recorded(tmp_path, {name: {0: seeds[0]} for name, seeds in PLAIN.items()})
    result = CliRunner().invoke(app, ["savings", f"out={store.folder}", "strategy=mine", "against=random"])
    assert "one seed: no interval" in result.stdout
    result = CliRunner().invoke(app, ["savings", f"out={store.folder}", "strategy=mine", "format=json"])
    assert {row["low"] for row in json.loads(result.stdout)} == {None}


@pytest.mark.parametrize(
    ("task", "against", "at", "percent", "claimed"), [candidate for candidate in CLAIMS if candidate[2] == "final"]
)
def test_claims_at_final_are_those_at_the_others_final(
    task: str, against: str, at: str, percent: float, claimed: float
) -> None:
    """Where ISAL ends above the other strategy, the smaller of both final scores is the other's."""
    [published] = [
        candidate for candidate in read_experiments(str(PUBLISHED_FOLDER)) if candidate.title == f"isal_2021_{task}"
    ]
    [smaller] = compute_savings(published, "isal", against, TargetRule("final"), IMAGES, RNG)
    theirs = float(published.curves[against].value_SR[0, -1])
    [at_theirs] = compute_savings(published, "isal", against, TargetRule("value", theirs, theirs), IMAGES, RNG)
    assert smaller.target == theirs
    assert smaller.percent.value == at_theirs.percent.value == pytest.approx(percent, abs=0.01)
    [turned] = compute_savings(published, against, "isal", TargetRule("final"), IMAGES, RNG)  # with the roles exchanged
    assert turned.amount.value == -smaller.amount.value


# --- simulated truth --------------------------------------------------------------------------
COSTS = np.arange(1, 11) * 1000.0


def simulate_scores(num_runs: int, rng: np.random.Generator) -> np.ndarray:
    """(S, R): scores of one strategy, on a concave curve that still rises, with an effect of each seed."""
    return 90 - 60 / np.sqrt(COSTS / 1000) + rng.normal(0, 0.5, (num_runs, 1)) + rng.normal(0, 0.6, (num_runs, 10))


@pytest.mark.slow
@pytest.mark.parametrize("num_runs", [3, 5, 10, 20])
def test_equal_strategies_save_nothing_at_the_smaller_final_score(num_runs: int) -> None:
    rng, amounts = np.random.default_rng(num_runs), []
    for _ in range(600):
        saving = only_saving(*(curve(name, simulate_scores(num_runs, rng), COSTS) for name in ("a", "b")))
        assert saving.is_reached
        amounts.append(saving.amount)
    mean, covered = (
        np.mean([saving.value for saving in amounts]),
        np.mean([saving.low <= 0 <= saving.high for saving in amounts]),
    )
    print(num_runs, "seeds: saved", round(float(mean)), "of 10,000, coverage", covered)
    assert abs(mean) <= 50 + 3 * np.std([saving.value for saving in amounts]) / np.sqrt(len(amounts))
    assert covered >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize("num_runs", [5, 10])
@pytest.mark.parametrize("spread", [0.05, 0.6])
def test_intervals_in_a_band_cover_the_truth(num_runs: int, spread: float) -> None:
    """The true mean costs of the band are known; each run pays for whole rounds."""
    rng, truth = np.random.default_rng(num_runs), mean_band_price(0.0, spread) - mean_band_price(1.5, spread)
    covered = []
    for _ in range(400):
        a, b = (
            curve(name, band_scores(num_runs, better, spread, rng), COSTS) for name, better in (("a", 1.5), ("b", 0.0))
        )
        saving = only_saving(a, b, rule="band:70,72")
        covered.append(saving.amount.low <= truth <= saving.amount.high)
    print(num_runs, "seeds, spread", spread, "coverage", np.mean(covered))
    assert np.mean(covered) >= 0.92


def band_scores(num_runs: int, better: float, spread: float, rng: np.random.Generator) -> np.ndarray:
    """(S, R): scores around a curve that passes 70 between two rounds."""
    noise_SR = rng.normal(0, spread, (num_runs, 1)) + rng.normal(0, spread, (num_runs, 10))
    return 90 + better - 42 / np.sqrt(COSTS / 1000) + noise_SR


def mean_band_price(better: float, spread: float) -> float:
    """The mean price of the first round of 70 or more, over many runs."""
    values_SR = band_scores(40_000, better, spread, np.random.default_rng(0))
    return float(COSTS[(values_SR >= 70).argmax(1)].mean())


def test_a_run_that_never_reaches_the_band_counts_with_what_it_paid() -> None:
    a = curve("a", [[10.0, 25, 30, 31], [11, 20, 25, 31], [10, 15, 18, 19], [10, 25, 30, 31], [10, 25, 30, 33]])
    b = curve("b", [[10.0, 15, 20, 30]] * 4 + [[10.0, 12, 13, 14]])
    saving = only_saving(a, b, rule="band:24,32")
    assert (saving.strategy_cost, saving.against_cost) == ((2000 + 3000 + 4000 + 2000 + 2000) / 5, 4000)
    assert saving.num_reached == (4, 4)
    assert saving.note == "a: 4 of 5 runs reach it; b: 4 of 5 runs reach it"
    assert saving.amount.low < saving.amount.value == 1400 < saving.amount.high


def test_prices_in_a_band_differ_by_rounding_at_least() -> None:
    """All runs of a strategy pay the same: the interval of the saving is that of rounding to whole rounds."""
    a, b = (curve(name, [scores] * 5) for name, scores in (("a", [10.0, 25, 30, 31]), ("b", [10.0, 15, 25, 31])))
    saving = only_saving(a, b, rule="band:24,32")
    half = 2.7764 * 1000 / np.sqrt(12) / np.sqrt(5)  # Student's quantile of four degrees, a round costs 1,000
    assert saving.amount.value == 1000
    assert (saving.amount.low, saving.amount.high) == pytest.approx((1000 - half, 1000 + half), rel=0.1)


# --- runs that are not whole, and schedules that end by score ---------------------------------
def test_unfinished_runs_are_left_out_by_name() -> None:
    """A seed that has only round 0 must not restrict the other seeds to round 0."""
    base = np.array([[10.0, 20, 30], [12, 22, 32], [11, np.nan, np.nan]])
    better, cut = base + np.array([0, 5, 5]), frozenset({2})
    a, b = curve("a", better, unfinished_seeds=cut), curve("b", base, unfinished_seeds=cut)
    saving = only_saving(a, b)
    assert (saving.num_pairs, saving.target, saving.against_cost) == (2, 31, 3000)
    assert saving.strategy_cost == pytest.approx(2000 + 1000 * (31 - 26) / 10)
    pairs = pair_runs(a, b)
    assert pairs.seeds == (0, 1)
    assert pairs.unpaired_runs == ("a seed 2 (unfinished)", "b seed 2 (unfinished)")
    with pytest.raises(ValueError, match="no common seed has finished"):
        pair_runs(a, curve("c", base, unfinished_seeds=frozenset({0, 1, 2})))


UNTIL = Schedule(1000, 1000, 4, until="accuracy 30 +- 2")


def test_runs_that_end_by_score_are_compared_by_their_band() -> None:
    a = curve("a", [[10.0, 29, np.nan, np.nan], [12, 20, 31, np.nan], [11, 20, 31, np.nan]])
    b = curve("b", [[10.0, 15, 29, np.nan], [12, 14, 20, 30], [11, 29, 30, np.nan]])
    until_30 = experiment(a, b, schedule=UNTIL)
    assert default_rule(until_30) == TargetRule("band", 28, 32)
    [saving] = compute_savings(until_30, "a", "b", default_rule(until_30), IMAGES, np.random.default_rng(0))
    assert (saving.strategy_cost, saving.against_cost) == pytest.approx(
        ((2000 + 3000 + 3000) / 3, (3000 + 4000 + 2000) / 3)
    )
    assert saving.amount.value == pytest.approx(1000 / 3)
    for text in ("final", "20", "curve"):
        with pytest.raises(ValueError, match="end by score"):
            compute_savings(until_30, "a", "b", TargetRule.read(text), IMAGES, RNG)
    lines = describe_comparison(compare(until_30, "a", "b", IMAGES, 0.95, 0), 2)
    assert lines[1].startswith("accuracy at 2,000 images, the last that all have: ")
    assert lines[3] == "in band:28,32: saves 333 images, 11.1 %"  # three seeds have no interval
    never = experiment(curve("a", [[10.0, 11, 12, 13]] * 3), b, schedule=UNTIL)
    [late] = compute_savings(never, "a", "b", default_rule(never), IMAGES, np.random.default_rng(0))
    assert late.not_reached_note == "not reached: a has not reached it within 4,000 images"


def test_a_target_reached_in_round_0_is_noted() -> None:
    saving = only_saving(curve("a", [[50.0, 60]]), curve("b", [[40.0, 45]]))
    assert saving.note == f"already in round 0: a; one seed: no interval; {saving.few_rounds_note}"


def test_savings_between_few_rounds_are_marked_as_rough() -> None:
    """The note is in the saving, in the comparison and below the table; costs of a band are whole rounds."""
    rng, few = np.random.default_rng(0), "5 rounds: prices are linear between them, so what is saved is rough"
    base_SR = np.array([60.0, 70, 75, 78, 80]) + rng.normal(0, 0.3, (6, 5))
    for rule in ("final", "74", "band:74,80"):
        saving = only_saving(curve("a", base_SR + 1), curve("b", base_SR), rule=rule)
        assert (few in saving.note) == (not rule.startswith("band"))
    noisy_SR = base_SR + 1 + rng.normal(0, 0.1, base_SR.shape)
    comparison = compare(experiment(curve("a", noisy_SR), curve("b", base_SR)), "a", "b", IMAGES, 0.95, 0)
    assert describe_comparison(comparison, 2)[3].endswith(f"; {few}")
    assert few in below([comparison])
    more_SR = np.concatenate([base_SR, base_SR[:, -1:] + 1], 1)
    enough = compare(experiment(curve("a", more_SR + 1), curve("b", more_SR)), "a", "b", IMAGES, 0.95, 0)
    assert (
        "rough"
        not in describe_comparison(enough, 2)[3]
        + below([enough])
        + only_saving(curve("a", more_SR + 1), curve("b", more_SR)).note
    )


def test_time_needs_boxes_of_both() -> None:
    with pytest.raises(ValueError, match="only one of a and b counts boxes"):
        only_saving(curve("a", [[1.0, 2]], kind="boxes"), curve("b", [[1.0, 2]]), price=Price("time", 1, 1))


def test_areas_stand_beside_savings() -> None:
    saving = only_saving(curve("a", [[10.0, 30, 50]]), curve("b", [[10.0, 20, 40]]))
    assert saving.areas == (30, 22.5)
