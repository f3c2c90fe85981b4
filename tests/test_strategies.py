"""Every strategy keeps the contract on a toy task, and the simple ones compute what their formulas say."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _graphs import graphs_on_cpu
from torch.nn import functional as F

from benchmark import encoders, strategies
from benchmark.api import Indices, Predictions, View
from benchmark.plugins.capability_names import LABEL_NEEDS
from benchmark.plugins.registry import REGISTRY, Plugin
from benchmark.strategies.bald import bald
from benchmark.strategies.discriminative import (
    Recipe,
    build_discriminator,
    discriminative,
    split_budget,
    train_discriminator,
    unlabelled_logit,
)
from benchmark.strategies.entropy import entropy
from benchmark.strategies.learning_loss import LossPrediction, learning_loss
from benchmark.strategies.least_confidence import least_confidence
from benchmark.strategies.margin import margin
from benchmark.strategies.random import random
from benchmark.strategies.shared.disagreement import mutual_information
from tests._toy import Toy, look

for package in (strategies, encoders):
    for path in Path(package.__path__[0]).glob("[!_]*.py"):
        importlib.import_module(f"{package.__name__}.{path.stem}")
OURS = "benchmark.strategies."
PLUGINS = {name: p for name, p in REGISTRY["strategy"].items() if p.function.__module__.startswith(OURS)}
FAST: dict[str, dict[str, Any]] = {
    "isal": {"depth": 3, "repeats": 2},
    "discriminative": {"epochs": 3, "num_queries": 3, "batch_size": 16},
    "bald": {"num_samples": 3},
    "matched_random": {"like": "isal[depth=3,repeats=2]"},
}
SERVED = [n for n, p in PLUGINS.items() if all(hasattr(Toy, x) for x in p.resolve_needs(p.bind({})) - LABEL_NEEDS)]


def values_of(plugin: Plugin) -> dict[str, Any]:
    return plugin.bind(FAST.get(plugin.name, {}))


def round_of(plugin: Plugin, task: Toy) -> View:
    values = values_of(plugin)
    return look(task, plugin.resolve_needs(values), plugin.companion(**values) if plugin.companion else None)


def choose(plugin: Plugin, task: Toy, budget: int = 7, seed: int = 0) -> Indices:
    return plugin.function(round_of(plugin, task), budget, np.random.default_rng(seed), **values_of(plugin))


def test_the_toy_serves_every_classification_strategy() -> None:
    assert len(SERVED) >= 13


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("budget", [1, 7, 40])
def test_returns_exactly_budget_distinct_unlabelled_images(name: str, budget: int) -> None:
    chosen = choose(PLUGINS[name], Toy(), budget)
    assert chosen.shape == (budget,)
    assert len(set(chosen.tolist())) == budget
    assert set(chosen.tolist()) <= set(round_of(PLUGINS[name], Toy()).unlabelled.tolist())


@pytest.mark.parametrize("name", SERVED)
def test_reads_no_unpaid_label_and_repeats_itself(name: str) -> None:
    task, view = Toy(), round_of(PLUGINS[name], Toy())
    held_out = np.setdiff1d(np.arange(task.num_pool), np.concatenate([view.labelled, view.unlabelled]))
    paid = np.concatenate([view.labelled, held_out])
    assert (task.scrambled(paid, 1).labels != task.labels).any()
    torch.manual_seed(1)
    first = choose(PLUGINS[name], task)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, choose(PLUGINS[name], task.scrambled(paid, 1)))


@pytest.mark.parametrize("name", sorted(set(SERVED) - {"random"}))
@pytest.mark.parametrize("budget", [1, 5])
def test_nan_raises(name: str, budget: int) -> None:
    """A model whose embedding is NaN on one image; its weights and their gradients stay finite elsewhere."""
    task = Toy()
    view = round_of(PLUGINS[name], task)
    task = view._View__task  # type: ignore[attr-defined]
    task.images[view.unlabelled[3]] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        PLUGINS[name].function(view, budget, np.random.default_rng(0), **values_of(PLUGINS[name]))


def test_random_is_seed_stable_and_disjoint_between_rounds() -> None:
    view = look(Toy(), ())
    first, again, other = (random(view, 20, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert set(first.tolist()) != set(other.tolist())
    rest = np.setdiff1d(view.unlabelled, first)
    later = View(Toy(), view.model, first, rest, num_initial=0, held_out=first[:0], needs=())
    assert not set(random(later, 20, np.random.default_rng(0)).tolist()) & set(first.tolist())


class Detector:
    """Fixed predictions: image 0 has a certain and an uncertain box, image 1 one in between, image 2 none."""

    def predict(self, model: object, indices: Indices) -> Predictions:
        p_PC = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.4, 0.1], [0.0, 0.6, 0.4]])
        return Predictions(p_PC, torch.tensor([0, 0, 1]), 3, torch.zeros(3, 4))

    def view(self) -> View:
        none = np.empty(0, np.int64)
        return View(self, None, none, np.array([10, 20, 30]), num_initial=0, held_out=none, needs={"predict"})  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", [entropy, margin, least_confidence])
@pytest.mark.parametrize(("how", "order"), [("max", [10, 20, 30]), ("sum", [10, 20, 30]), ("mean", [20, 10, 30])])
def test_uncertainty_of_a_detector_joins_boxes(strategy: Any, how: str, order: list[int]) -> None:
    """An image without boxes comes last, also under margin, where small is uncertain."""
    assert strategy(Detector().view(), 3, np.random.default_rng(0), how=how).tolist() == order


def test_uncertainties_follow_their_formula() -> None:
    view = look(Toy(), {"predict"})
    p = view.predict(view.unlabelled).scores_PC.double().numpy()
    ranked = np.sort(p, 1)
    scores = {entropy: -(p * np.log(p)).sum(1), margin: ranked[:, -2] - ranked[:, -1], least_confidence: -p.max(1)}
    for strategy, score in scores.items():
        expected = view.unlabelled[np.argsort(-score, kind="stable")[:9]]
        np.testing.assert_array_equal(strategy(view, 9, np.random.default_rng(0)), expected)


def test_margin_tells_small_gaps_apart() -> None:
    """In single precision, 1 - gap would be equal for both images and the first would win."""

    class Close(Detector):
        def predict(self, model: object, indices: Indices) -> Predictions:
            p_PC = torch.full((3, 300), 1e-3)
            p_PC[:, 0] += torch.tensor([3e-9, 1e-9, 5e-9])
            return Predictions(p_PC, torch.arange(3), 3)

    assert margin(Close().view(), 3, np.random.default_rng(0)).tolist() == [20, 10, 30]


def test_bald_is_the_entropy_of_the_mean_less_the_mean_entropy() -> None:
    p_TNC = torch.randn(5, 9, 4, dtype=torch.float64).softmax(2)
    p_TNC[0, 0] = torch.tensor([1.0, 0, 0, 0])
    mean_NC = p_TNC.mean(0)
    direct = -torch.xlogy(mean_NC, mean_NC).sum(1) + torch.xlogy(p_TNC, p_TNC).sum(2).mean(0)
    torch.testing.assert_close(mutual_information(iter(p_TNC)), direct)
    torch.testing.assert_close(mutual_information(iter(p_TNC[:1].expand(3, 9, 4))), torch.zeros(9).double())


def test_bald_ranks_its_samples_and_takes_its_seed_from_rng() -> None:
    view = look(Toy(), {"sample"})
    seed = int(np.random.default_rng(3).integers(2**63))
    samples = torch.stack([s.scores_PC for s in view.sample(view.unlabelled, 4, seed)])
    direct = torch.special.entr(samples.mean(0)).sum(1) - torch.special.entr(samples).sum(2).mean(0)
    expected = view.highest(direct, 6)
    np.testing.assert_array_equal(bald(view, 6, np.random.default_rng(3), num_samples=4), expected)
    with pytest.raises(ValueError, match="num_samples=1"):
        bald(view, 6, np.random.default_rng(3), num_samples=1)


def test_learning_loss_hinge_by_hand() -> None:
    """The pairs are (0, 4) and (1, 3); the middle is left out. max(0, 1 - 1 * (0.5 - 0.2)) = 0.7. A tie counts as -1:
    max(0, 1 + (2 - 0.25)) = 2.75. The mean is 1.725, times a weight of 2."""
    output, losses = torch.tensor([0.5, 2.0, 9.0, 0.25, 0.2]), torch.tensor([3.0, 1.0, 7.0, 1.0, 2.0])
    companion = LossPrediction(detach_after=0.6, weight=2.0, margin=1.0, width=4)
    assert companion.loss(output, losses).item() == pytest.approx(3.45)
    assert companion.loss(output[:1], losses[:1]).item() == 0
    wrong_order = companion.loss(torch.tensor([0.0, 3.0]), torch.tensor([2.0, 1.0]))
    assert wrong_order.item() == pytest.approx(8.0)
    assert companion.loss(torch.tensor([3.0, 0.0]), torch.tensor([2.0, 1.0])).item() == 0


def test_learning_loss_module_maps_stages_to_one_number_an_image() -> None:
    module = LossPrediction(0.6, 1.0, 1.0, width=5).module((3, 7))
    maps = [torch.randn(4, 3, 8, 8), torch.randn(4, 7, 2, 2)]
    assert module(maps).shape == (4,)
    assert sorted(p.numel() for p in module.parameters()) == sorted([3 * 5, 5, 7 * 5, 5, 10, 1])
    features = torch.cat([tap(m.mean((2, 3))).relu() for tap, m in zip(module.taps, maps, strict=True)], 1)
    torch.testing.assert_close(module(maps), module.last(features)[:, 0])


def test_learning_loss_takes_the_top_of_its_subset() -> None:
    plugin = PLUGINS["learning_loss"]
    view = round_of(plugin, Toy())
    predicted = dict(zip(view.unlabelled.tolist(), view.companion(view.unlabelled).tolist(), strict=True))
    drawn = view.unlabelled[np.random.default_rng(5).choice(40, 10, replace=False)]
    expected = sorted(drawn.tolist(), key=predicted.__getitem__, reverse=True)[:4]
    assert learning_loss(view, 4, np.random.default_rng(5), subset=10).tolist() == expected
    with pytest.raises(ValueError, match=r"subset=3\]: must be at least the budget, 4"):
        learning_loss(view, 4, np.random.default_rng(5), subset=3)


class Rising:
    """A pool of 12,000 images whose companion's output rises with their position."""

    def __init__(self, boxes: bool) -> None:
        self.boxes = boxes

    def predict(self, model: object, indices: Indices) -> Predictions:
        p_PC, boxes_P4 = torch.ones(len(indices), 1), torch.zeros(len(indices), 4)
        return Predictions(p_PC, torch.arange(len(indices)), len(indices), boxes_P4 if self.boxes else None)

    def companion(self, model: object, indices: Indices) -> torch.Tensor:
        return torch.from_numpy(indices).double()

    def view(self) -> View:
        needs, none = PLUGINS["learning_loss"].resolve_needs(PLUGINS["learning_loss"].bind({})), np.empty(0, np.int64)
        return View(self, None, none, np.arange(12_000), num_initial=0, held_out=none, needs=needs)  # type: ignore[arg-type]


def test_learning_loss_takes_the_whole_pool_of_a_detector_and_10_000_of_a_classifiers() -> None:
    """The classifier's subset is drawn like the twin's; of a detector's pool all images can be selected at once."""
    drawn = np.random.default_rng(5).choice(12_000, 10_000, replace=False)
    best = np.sort(drawn)[::-1][:20].tolist()
    assert learning_loss(Rising(boxes=False).view(), 20, np.random.default_rng(5)).tolist() == best
    whole = learning_loss(Rising(boxes=True).view(), 11_828, np.random.default_rng(5))
    assert whole.tolist() == list(range(11_999, 171, -1))
    with pytest.raises(ValueError, match=r"subset=10000\]: must be at least the budget, 10001"):
        learning_loss(Rising(boxes=False).view(), 10_001, np.random.default_rng(5))


def test_learning_loss_companion_holds_what_changes_training_and_no_more() -> None:
    plugin = PLUGINS["learning_loss"]
    builds = [plugin.companion(**plugin.bind(given)) for given in ({}, {"subset": 5}, {"detach_after": 0.0})]
    assert builds[0] == builds[1] != builds[2]


class Clusters:
    """Embeddings around 0; unlabelled images from position 150 on form a cluster far from all labelled ones."""

    def __init__(self) -> None:
        self.x = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
        self.x[150:] += 2.0

    def embed(self, model: object, indices: Indices) -> torch.Tensor:
        return self.x[indices]

    def view(self) -> View:
        labelled, none = np.arange(40), np.empty(0, np.int64)
        rest = np.arange(40, 200)
        return View(self, None, labelled, rest, num_initial=40, held_out=none, needs={"embed"})  # type: ignore[arg-type]


FEW: dict[str, Any] = {"epochs": 10, "lr": 1e-3, "batch_size": 64, "width": 64}


def test_discriminative_finds_the_cluster_without_labels() -> None:
    view = Clusters().view()
    assert (discriminative(view, 30, np.random.default_rng(0), num_queries=1, **FEW) >= 150).all()
    assert view.diagnostics["epochs"] == 10


def discriminative_twin(view: View, budget: int, num_queries: int, ratio: int, within: str, seed: int) -> list[int]:
    """A slow twin: in each query the surest images of the subset, or of all unlabelled ones, join the labelled set."""
    rng, inside, picks = np.random.default_rng(seed), view.labelled.tolist(), list[int]()
    recipe = Recipe(FEW["width"], FEW["epochs"], FEW["lr"], FEW["batch_size"], 0.98, False)
    for size in split_budget(budget, num_queries):
        outside = [index for index in range(200) if index not in inside]
        shown = rng.choice(outside, min(len(outside), ratio * len(inside)), replace=False).tolist()
        x = view.embed(np.arange(200))
        net, _, _ = train_discriminator(x[inside], x[shown], recipe, int(rng.integers(2**63)))
        offered = shown if within == "subset" else outside
        sure = dict(zip(offered, unlabelled_logit(net, x[offered]).tolist(), strict=True))
        best = sorted(offered, key=lambda index: -sure[index])[:size]
        inside, picks = sorted([*inside, *best]), [*picks, *best]
    return picks


@pytest.mark.parametrize("within", ["subset", "pool"])
def test_discriminative_is_its_slow_twin(within: Any) -> None:
    """40 labelled images and a ratio of 1: a subset holds about a quarter of the 160 unlabelled images."""
    view, options = Clusters().view(), {"unlabelled_ratio": 1, "num_queries": 3, "within": within}
    chosen = discriminative(view, 12, np.random.default_rng(3), **FEW, **options)
    twins = {place: discriminative_twin(view, 12, 3, 1, place, 3) for place in ("subset", "pool")}
    assert chosen.tolist() == twins[within]
    assert twins["subset"] != twins["pool"]


def test_discriminative_draws_as_many_as_it_buys_where_few_are_labelled() -> None:
    chosen = discriminative(Clusters().view(), 100, np.random.default_rng(0), num_queries=1, unlabelled_ratio=1, **FEW)
    assert len(set(chosen.tolist())) == 100


def test_discriminative_queries_take_notice_of_each_other() -> None:
    """Once selected images of the cluster count as labelled, later queries select elsewhere."""
    chosen = discriminative(Clusters().view(), 30, np.random.default_rng(0), num_queries=10, **FEW)
    assert (chosen[:3] >= 150).all()
    assert (chosen >= 150).sum() < 25


def test_discriminative_stops_when_it_separates_and_queries_join_the_labelled() -> None:
    view = Clusters().view()
    stop = {"epochs": 200, "lr": 1e-2, "batch_size": 64}
    discriminative(view, 3, np.random.default_rng(0), num_queries=1, stop_accuracy=0.9, **stop)
    assert 1 <= view.diagnostics["epochs"] < 100
    assert view.diagnostics["accuracy"] > 0.9


@pytest.mark.parametrize("balanced", [False, True])
def test_recorded_discriminators_are_the_plain_ones(balanced: bool) -> None:
    """Batches of 16 and, once an epoch, of 14."""
    recipe = Recipe(width=8, epochs=9, lr=1e-2, batch_size=16, stop_accuracy=1.0, balanced=balanced)
    features_MD = torch.randn(62, 30, generator=torch.Generator().manual_seed(0))
    plain = train_discriminator(features_MD[:20], features_MD[20:], recipe, seed=3)
    with graphs_on_cpu() as recordings:
        recorded = train_discriminator(features_MD[:20], features_MD[20:], recipe, seed=3)
    assert len(recordings) == 2
    assert plain[1:] == recorded[1:]
    for a, b in zip(plain[0].parameters(), recorded[0].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("balanced", "odds"), [(False, 10.0), (True, 1.0)])
def test_discriminator_weighs_both_sides_alike_where_balanced(balanced: bool, odds: float) -> None:
    """On inputs without information, with ten unlabelled images per labelled one, it learns the class frequencies."""
    recipe = Recipe(width=8, epochs=150, lr=1e-2, batch_size=44, stop_accuracy=1.0, balanced=balanced)
    net, _, _ = train_discriminator(torch.ones(4, 30), torch.ones(40, 30), recipe, seed=0)
    assert unlabelled_logit(net, torch.ones(1, 30)).exp().item() == pytest.approx(odds, rel=0.1)


@pytest.mark.parametrize(("budget", "num_queries"), [(10, 3), (3, 10), (7, 7), (1, 1), (1000, 10)])
def test_discriminative_spreads_the_budget(budget: int, num_queries: int) -> None:
    sizes = split_budget(budget, num_queries)
    assert sum(sizes) == budget
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    assert len(sizes) == min(budget, num_queries)


def test_discriminator_is_narrow_on_few_features() -> None:
    assert [layer.out_features for layer in build_discriminator(29, 256)[::2]] == [20, 20, 20, 2]
    assert [layer.out_features for layer in build_discriminator(30, 256)[::2]] == [256, 256, 256, 2]
    assert all(
        F.relu(-p).sum() == 0 for name, p in build_discriminator(30, 8).named_parameters() if name.endswith("bias")
    )
