"""Influence agrees with per-image backpropagation and with an explicit inverse Hessian."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from _graphs import graphs_on_cpu
from torch import Tensor
from torch.func import functional_call, grad, jvp
from torch.utils.data.distributed import DistributedSampler

from benchmark.api import Direction, Indices, Machine, View, seeded
from benchmark.conformance.task_checks import row_losses_match
from benchmark.plugins.registry import get
from benchmark.strategies.gradient_similarity import gradient_similarity
from benchmark.strategies.isal import isal
from benchmark.strategies.shared.influence import (
    dot,
    draw_chains,
    expected_targets,
    hessian_product,
    inverse_hessian_product,
    needs,
    reference_gradient,
    scales_by_name,
    select_most_helpful,
)
from benchmark.tasks.digits import DEFAULT, digits
from tests._toy import Toy, look

ALL = needs(reference="held_out") | needs(reference="test") | {"predict"}
RNG = np.random.default_rng


def toy_view(**options: Any) -> View:
    """Six classes in double precision."""
    return look(Toy(6, torch.float64), ALL, **options)


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def explicit_gradients(view: View, targets: Tensor) -> Tensor:
    """Returns the gradients of the unlabelled images, (N, parameters), by one backward pass each."""
    weights = list(view.weights().values())
    losses = view.losses(view.unlabelled, targets)
    return torch.stack([flat(torch.autograd.grad(loss, weights, retain_graph=True)) for loss in losses])


def guesses(view: View, k: int = 1) -> Any:
    return expected_targets(view, k, allow_degenerate=False, min_score=0.0)


def random_direction(view: View) -> Direction:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in view.weights().items()}


@pytest.mark.parametrize("k", [1, 2, 5])
def test_influence_is_the_dot_product_of_gradients(k: int) -> None:
    view = toy_view()
    s, targets = random_direction(view), guesses(view, k)
    explicit = explicit_gradients(view, targets) @ flat(s.values())
    torch.testing.assert_close(view.directional(view.unlabelled, targets, s), explicit)
    smallest = view.unlabelled[np.argsort(-explicit.numpy(), kind="stable")[:9]]
    np.testing.assert_array_equal(select_most_helpful(view, 9, targets, s, "last", RNG(0)), smallest)
    assert view.diagnostics == {"share_negative": pytest.approx((explicit > 0).double().mean().item())}


@pytest.mark.parametrize("k", [1, 2, 5])
def test_expectation_by_single_classes(k: int) -> None:
    """The k-influence is the sum of p_c I_c over the k most likely classes (without the weight for k = 1)."""
    view = toy_view()
    s, p_NC = random_direction(view), view.predict(view.unlabelled).scores_PC
    classes = [torch.eye(6, dtype=torch.float64)[[c]].expand(len(p_NC), 6) for c in range(6)]
    influence_NC = torch.stack([view.directional(view.unlabelled, targets, s) for targets in classes], 1)
    torch.testing.assert_close((p_NC * influence_NC).sum(1), torch.zeros(len(p_NC)).double(), atol=1e-10, rtol=0)
    top = p_NC.topk(k)
    weight = torch.ones_like(top.values) if k == 1 else top.values
    expected = (weight * influence_NC.gather(1, top.indices)).sum(1)
    torch.testing.assert_close(view.directional(view.unlabelled, guesses(view, k), s), expected)


@pytest.mark.parametrize("strategy", [isal, gradient_similarity])
@pytest.mark.parametrize("k", [0, 6, 7])
def test_k_is_refused_where_the_expectation_is_zero_or_empty(strategy: Any, k: int) -> None:
    with pytest.raises(ValueError, match="identically zero" if k else "1 or more"):
        strategy(toy_view(), 3, RNG(0), k=k)


def test_the_degenerate_k_can_be_insisted_on_and_is_zero() -> None:
    view = toy_view()
    assert len(isal(view, 3, RNG(0), k=6, allow_degenerate=True, depth=2, repeats=1)) == 3
    targets = expected_targets(view, 6, allow_degenerate=True, min_score=0.0)
    torch.testing.assert_close(
        view.directional(view.unlabelled, targets, random_direction(view)),
        torch.zeros(len(view.unlabelled)).double(),
        atol=1e-10,
        rtol=0,
    )


def test_targets_that_are_no_class_scores_pass_any_k() -> None:
    """Targets of a detector are not checked against a number of classes."""
    boxes = [{"boxes": torch.zeros(2, 4)}]
    view = SimpleNamespace(unlabelled=np.arange(1), pseudo_labels=lambda indices, k, min_score: boxes)
    assert guesses(cast(View, view), 3) is boxes


@pytest.mark.parametrize(("which", "number"), [("test", 20), ("held_out", 8), ("initial", 6), ("labelled", 12)])
def test_reference_gradient_is_the_sum_over_the_set(which: str, number: int) -> None:
    """The set is read in batches of 7, of which the last is smaller, with true labels."""
    task = Toy(6, torch.float64)
    view = look(task, ALL)
    order = RNG(0).permutation(60)
    rows = {"test": np.arange(60, 80), "held_out": order[-8:], "initial": order[:6], "labelled": order[:12]}[which]
    assert len(rows) == number
    logits = view.model(task.images[rows])
    loss = torch.nn.functional.cross_entropy(logits, task.labels[rows], reduction="sum")
    explicit = flat(torch.autograd.grad(loss, list(view.weights().values())))
    torch.testing.assert_close(flat(reference_gradient(view, which).values()), explicit)


def test_an_empty_reference_is_refused() -> None:
    task = Toy()
    labelled, rest, none = np.arange(12), np.arange(12, 60), np.empty(0, np.int64)
    model = task.fit(labelled, 0)
    view = View(cast(Any, task), model, labelled, rest, num_initial=6, held_out=none, needs=ALL)
    with pytest.raises(ValueError, match="reference=held_out"):
        gradient_similarity(view, 3, RNG(0))


def test_needs_follow_the_reference() -> None:
    common = {"losses", "directional", "pseudo_labels", "weights"}
    extra = {"test": {"test_labels"}, "held_out": {"held_out"}, "initial": set(), "labelled": set()}
    for name in ("isal", "gradient_similarity"):
        plugin = get("strategy", name)
        for reference, labels in extra.items():
            assert plugin.resolve_needs(plugin.bind({"reference": reference})) == common | labels


def explicit_hessian(view: View) -> Tensor:
    """Returns the Hessian of the loss of the first labelled image over the toy's weights."""
    weights = list(view.weights().values())
    gradient = flat(torch.autograd.grad(view.losses(view.labelled[:1]).sum(), weights, create_graph=True))
    each = torch.eye(len(gradient), dtype=gradient.dtype)
    return torch.cat([h.flatten(1) for h in torch.autograd.grad(gradient, weights, each, is_grads_batched=True)], 1)


def test_lissa_reaches_the_explicit_damped_inverse() -> None:
    """With a single labelled image all steps are equal; the fixed point is scale (H + damping scale I)^-1 v."""
    with seeded(0):
        view = toy_view(num_labelled=1, model=Toy(6, torch.float64).model().eval())
    v, damping, scale = random_direction(view), 0.25, 40.0
    hessian = explicit_hessian(view)
    assert hessian.abs().max() > 0.01
    chains = draw_chains(view.purchases, 120, 2, "random", RNG(0))
    s = inverse_hessian_product(view, v, chains, damping=damping, scale=scales_by_name(view, scale, ""))
    ridge = damping * scale * torch.eye(len(hessian), dtype=torch.float64)
    explicit = scale * torch.linalg.solve(hessian + ridge, flat(v.values()))
    torch.testing.assert_close(flat(s.values()), explicit, rtol=1e-8, atol=1e-8)
    assert (explicit - flat(v.values()) / damping).abs().max() > 1e-2  # the Hessian matters


def test_lissa_with_block_scales_reaches_the_explicit_inverse() -> None:
    """The fixed point is (H + damping S)^-1 S v, with one scale for each of the toy's three weight tensors."""
    with seeded(0):
        view = toy_view(num_labelled=1, model=Toy(6, torch.float64).model().eval())
    v, damping = random_direction(view), 0.25
    scale = scales_by_name(view, 1.0, "40/15/2.5e1")
    assert list(scale.items()) == [("first.weight", 40.0), ("second.weight", 15.0), ("head.weight", 25.0)]
    chains = draw_chains(view.purchases, 300, 1, "random", RNG(0))
    s = inverse_hessian_product(view, v, chains, damping=damping, scale=scale)
    scale_D = flat(torch.full_like(v[name], number) for name, number in scale.items())
    explicit = torch.linalg.solve(explicit_hessian(view) + damping * torch.diag(scale_D), scale_D * flat(v.values()))
    torch.testing.assert_close(flat(s.values()), explicit, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("text", ["40", "40/15", "40/15/25/1", "40/15/", "a/b/c", "/"])
def test_block_scales_that_fit_no_tensors_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"3 numbers .* for first.weight, second.weight, head.weight"):
        isal(toy_view(), 3, RNG(0), block_scales=text)


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"block_scales": "1/0/1"}, {"block_scales": "nan/1/1"}])
def test_scales_that_are_not_above_zero_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        isal(toy_view(), 3, RNG(0), **wrong)


def test_isal_with_equal_block_scales_is_isal_with_that_scale() -> None:
    view, few = toy_view(), {"depth": 5, "repeats": 2, "damping": 0.1}
    selection = isal(view, 6, RNG(4), scale=20.0, **cast(Any, few))
    log = dict(view.diagnostics)
    np.testing.assert_array_equal(selection, isal(view, 6, RNG(4), block_scales="20/20/20", **cast(Any, few)))
    assert view.diagnostics == log
    isal(view, 6, RNG(4), block_scales="20/5/20", **cast(Any, few))
    assert view.diagnostics["ridge"] == pytest.approx(0.5)


def test_lissa_is_the_recursion_averaged_over_chains() -> None:
    """Two steps by hand, with other images in each chain."""
    view = toy_view()
    v, weights = random_direction(view), list(view.weights().values())
    chains = view.labelled[:4].reshape(2, 2)

    def product(index: int, h: Tensor) -> Tensor:
        first = flat(torch.autograd.grad(view.losses(np.array([index])).sum(), weights, create_graph=True))
        return flat(torch.autograd.grad(first @ h, weights))

    ends = []
    for chain in chains:
        h = flat(v.values())
        for index in chain:
            h = flat(v.values()) + 0.9 * h - product(index, h) / 30
        ends.append(h)
    s = inverse_hessian_product(view, v, chains, damping=0.1, scale=scales_by_name(view, 30.0, ""))
    torch.testing.assert_close(flat(s.values()), (ends[0] + ends[1]) / 2)


def test_lissa_restarts_a_tensor_that_turned_nan() -> None:
    """Tensor a has curvature 1. Tensor b has curvature 1 in image 0 and NaN in image 1, where it starts again from
    v."""
    a, b = torch.nn.Parameter(torch.tensor([2.0])), torch.nn.Parameter(torch.tensor([0.0]))

    def losses(indices: Indices) -> Tensor:
        return a.square() / 2 + (b.square() / 2 if indices[0] == 0 else b.square() ** 0.75)

    view = SimpleNamespace(weights=lambda: {"a": a, "b": b}, losses=losses, row_losses=lambda indices: None)
    v = {"a": torch.tensor([1.0]), "b": torch.tensor([5.0])}
    s = inverse_hessian_product(cast(View, view), v, np.array([[0, 1]]), damping=0.5, scale={"a": 10.0, "b": 10.0})
    assert s["b"].item() == 5.0
    assert s["a"].item() == pytest.approx(1 + 0.4 * (1 + 0.4))


def test_chains_by_order_of_purchase() -> None:
    labelled = np.array([9, 3, 7, 1, 8])
    assert draw_chains([labelled], 2, 2, "file", RNG(0)).tolist() == [[9, 3], [7, 1]]
    assert draw_chains([labelled], 4, 2, "file", RNG(0)).tolist() == [[9, 3, 7, 1], [8, 9, 3, 7]]
    assert draw_chains([labelled], 4, 2, "newest", RNG(0)).tolist() == [[8, 1, 7, 3], [9, 8, 1, 7]]


@pytest.mark.parametrize(
    ("sizes", "depth"), [((500,), 1000), ((7, 3, 4), 1000), ((7, 3, 4), 2), ((5, 1), 10), ((2,), 9)]
)
def test_published_chains_are_those_of_the_authors_sampler(sizes: tuple[int, ...], depth: int) -> None:
    """Each purchase comes before the earlier ones. torch's unshuffled distributed sampler deals the images out to
    processes, and a process stops after `depth` images or at the end."""
    purchases = np.split(RNG(0).permutation(1000)[: sum(sizes)], np.cumsum(sizes)[:-1])
    file: list[int] = []
    for bought in purchases:
        file = [*bought.tolist(), *file]
    samplers = [DistributedSampler(file, 4, rank, shuffle=False) for rank in range(4)]  # type: ignore[arg-type]
    expected = [[file[place] for place in sampler][:depth] for sampler in samplers]
    assert draw_chains(purchases, depth, 4, "published", RNG(0)).tolist() == expected


def test_published_chains_by_hand() -> None:
    """500 labels give 4 chains of 125. Of purchases of 5 and 2 images, the second comes first; the first image is
    repeated at the end, so that all chains are equally long."""
    assert draw_chains([np.arange(500)], 1000, 4, "published", RNG(0)).shape == (4, 125)
    purchases = [np.array([9, 3, 7, 1, 8]), np.array([20, 10])]
    dealt = [[20, 3], [10, 7], [9, 1]]
    assert draw_chains(purchases, 2, 3, "published", RNG(0)).tolist() == dealt
    assert draw_chains(purchases, 5, 4, "published", RNG(0)).tolist() == [[20, 7], [10, 1], [9, 8], [3, 20]]
    assert draw_chains(purchases, 1, 4, "published", RNG(0)).tolist() == [[20], [10], [9], [3]]


def test_isal_deals_its_purchases_out() -> None:
    """Two purchases of 6 images give chains of 3, although depth is 50."""
    view = toy_view()
    assert [purchase.tolist() for purchase in view.purchases] == [
        view.labelled[:6].tolist(),
        view.labelled[6:].tolist(),
    ]
    chosen = isal(view, 6, RNG(4), depth=50, damping=0.1, scale=20.0, order="published")
    chains = np.concatenate(view.purchases[::-1]).reshape(3, 4).T
    v = reference_gradient(view, "held_out")
    s = inverse_hessian_product(view, v, chains, damping=0.1, scale=scales_by_name(view, 20.0, ""))
    influence = -explicit_gradients(view, guesses(view)) @ flat(s.values())
    np.testing.assert_array_equal(chosen, view.unlabelled[np.argsort(influence.numpy(), kind="stable")[:6]])
    assert view.diagnostics["gain"] == pytest.approx((flat(s.values()).norm() / flat(v.values()).norm()).item())


def test_chains_at_random() -> None:
    labelled = np.arange(100, 120)
    chains = draw_chains([labelled], 6, 3, "random", RNG(0))
    assert chains.shape == (3, 6)
    assert len(set(chains.flatten().tolist())) == 18
    assert chains.tolist() != draw_chains([labelled], 6, 3, "random", RNG(1)).tolist()
    cycled = draw_chains([labelled], 25, 2, "random", RNG(0)).flatten()
    assert sorted(cycled[:20]) == sorted(cycled[20:40]) == labelled.tolist()
    assert cycled[:20].tolist() != cycled[20:40].tolist()
    assert len(set(cycled[40:].tolist())) == 10


def test_isal_takes_the_smallest_influence_and_logs_what_it_did() -> None:
    view = toy_view()
    chosen = isal(view, 6, RNG(4), depth=5, repeats=2, damping=0.1, scale=1.0)
    v = reference_gradient(view, "held_out")
    chains = draw_chains(view.purchases, 5, 2, "random", RNG(4))
    s = inverse_hessian_product(view, v, chains, damping=0.1, scale=scales_by_name(view, 1.0, ""))
    influence = -explicit_gradients(view, guesses(view)) @ flat(s.values())
    np.testing.assert_array_equal(chosen, view.unlabelled[np.argsort(influence.numpy(), kind="stable")[:6]])
    log = dict(view.diagnostics)
    assert log["ridge"] == pytest.approx(0.1)
    assert chosen.tolist() != gradient_similarity(view, 6, RNG(0)).tolist()
    assert log["gain"] == pytest.approx((flat(s.values()).norm() / flat(v.values()).norm()).item())
    assert log["cosine"] == pytest.approx(torch.cosine_similarity(flat(s.values()), flat(v.values()), dim=0).item())
    assert log["share_negative"] == pytest.approx((influence < 0).double().mean().item())


def test_isal_without_curvature_is_gradient_similarity() -> None:
    """At an infinite scale s is a multiple of v, by (1 - (1 - damping)^(depth + 1)) / damping."""
    view = toy_view()
    chosen = isal(view, 10, RNG(0), damping=0.01, scale=1e12, depth=20, repeats=1)
    assert view.diagnostics["gain"] == pytest.approx((1 - 0.99**21) / 0.01)
    assert view.diagnostics["cosine"] == pytest.approx(1)
    np.testing.assert_array_equal(chosen, gradient_similarity(view, 10, RNG(1)))


def test_gradient_similarity_is_the_largest_dot_product() -> None:
    view = toy_view()
    v = reference_gradient(view, "held_out")
    similar = explicit_gradients(view, guesses(view)) @ flat(v.values())
    expected = view.unlabelled[np.argsort(-similar.numpy(), kind="stable")[:6]]
    np.testing.assert_array_equal(gradient_similarity(view, 6, RNG(0)), expected)
    assert dot(v, v) == pytest.approx(flat(v.values()).square().sum().item())


def test_influence_leaves_no_gradient_behind() -> None:
    view = toy_view()
    view.model.zero_grad()
    isal(view, 3, RNG(0), depth=2, repeats=1)
    assert all(parameter.grad is None for parameter in view.model.parameters())


@pytest.mark.parametrize("nothing", [{"depth": 0}, {"repeats": 0}])
def test_no_steps_are_refused(nothing: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        isal(toy_view(), 3, RNG(0), **cast(Any, nothing))


class LossesModule(torch.nn.Module):
    """The losses of labelled images as a module, so that its weights can be replaced."""

    def __init__(self, view: View, indices: Indices) -> None:
        super().__init__()
        self.model, self.losses = view.model, lambda: view.losses(indices)

    def forward(self) -> Tensor:
        return self.losses()


def forward_over_reverse(view: View, index: int, h: Direction) -> Direction:
    """Returns the Hessian of a labelled image's loss applied to h, by forward differentiation of the gradient."""
    module = LossesModule(view, np.array([index]))
    primals = {f"model.{name}": weight.detach() for name, weight in view.weights().items()}
    tangents = {f"model.{name}": tensor for name, tensor in h.items()}
    product = jvp(grad(lambda weights: functional_call(module, weights, ()).sum()), (primals,), (tangents,))[1]
    return {name: product[f"model.{name}"] for name in h}


def classifier_view(machine: Machine) -> View:
    """A view of a narrow, untrained ResNet on digits."""
    task = digits(machine, dataclasses.replace(DEFAULT, model="resnet18", width=4, dropout=0.0))
    order, known = np.random.default_rng(0).permutation(task.num_pool), {"losses", "weights", "held_out"}
    unlabelled = np.sort(order[12:60])
    return View(task, task.model(), order[:12], unlabelled, num_initial=12, held_out=order[60:80], needs=known)


@pytest.mark.parametrize("kind", ["toy", "resnet"])
def test_hessian_products_are_those_of_forward_differentiation(kind: str, machine: Machine) -> None:
    view = toy_view() if kind == "toy" else classifier_view(machine)
    h = random_direction(view)
    for index in view.labelled[:3]:
        product = hessian_product(view.losses(np.array([index])).sum(), view.weights(), h)
        for name, tensor in forward_over_reverse(view, index, h).items():
            assert tensor.abs().max() > 1e-4
            torch.testing.assert_close(product[name], tensor, rtol=1e-4, atol=1e-5 * tensor.abs().max().item())


def test_losses_by_row_are_the_losses(machine: Machine) -> None:
    view = classifier_view(machine)
    images = view.labelled[[7, 2, 5]]
    row_losses = view.row_losses(images)
    assert row_losses is not None
    assert torch.equal(row_losses(torch.tensor([2, 0])), view.losses(images[[2, 0]]))
    assert row_losses(torch.tensor([1])).requires_grad
    with pytest.raises(PermissionError, match="not paid for"):
        view.row_losses(view.unlabelled[:1])
    assert (toy := toy_view()).row_losses(toy.labelled) is None


def test_losses_by_row_of_other_images_are_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    task, labelled = digits(machine, DEFAULT), np.arange(5)
    fitted: Any = SimpleNamespace(prepare=lambda: (task, task.model(), labelled))
    assert row_losses_match(fitted) is None
    row_losses = task.row_losses
    monkeypatch.setattr(task, "row_losses", lambda model, indices: row_losses(model, indices + 1))
    assert row_losses_match(fitted) == "row_losses gives other losses than `losses`"


def test_recorded_chains_end_in_the_same_bytes(machine: Machine) -> None:
    """The recording is of one image, the chains of others."""
    view = classifier_view(machine)
    v, chains = reference_gradient(view, "held_out"), draw_chains(view.purchases, 7, 3, "random", RNG(0))
    settings = {"damping": 0.1, "scale": scales_by_name(view, 50.0, "")}
    plain = inverse_hessian_product(view, v, chains, **settings)  # type: ignore[arg-type]
    with graphs_on_cpu() as recordings:
        recorded = inverse_hessian_product(view, v, chains, **settings)  # type: ignore[arg-type]
    assert len(recordings) == 1
    assert abs(dot(plain, v) / dot(v, v) - 1) > 1e-3  # the Hessian counts
    assert all(torch.equal(recorded[name], tensor) for name, tensor in plain.items())
