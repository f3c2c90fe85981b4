"""VAAL: networks of the published shapes, losses by hand, which step trains which network, and the selection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from _graphs import graphs_on_cpu
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from benchmark.api import Indices, View, seeded
from benchmark.strategies import vaal as module
from benchmark.strategies.vaal import (
    Autoencoder,
    Recipe,
    batches,
    build_discriminator,
    discriminator_loss,
    init_kaiming,
    labelled_logits,
    scale_pixels,
    train,
    vaal,
    vae_loss,
)

RNG = np.random.default_rng
FAST: dict[str, Any] = {"epochs": 2, "batch_size": 8, "size": 8, "width": 4, "latent": 3}


def recipe(**more: Any) -> Recipe:
    given = {"num_steps": 3, "batch_size": 8, "lr": 1e-3, "beta": 1.0, "adversary": 1.0}
    return Recipe(**(given | {"latent": 3, "width": 4, "flip": True} | more))


class Pictures:
    """Images of 8x8 pixels: dark ones, and from position `bright` on bright ones, with a little noise."""

    def __init__(self, num: int = 60, bright: int = 40) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 60, (num, 3, 8, 8), generator=generator, dtype=torch.uint8)
        self.pixels[bright:] += 190
        self.sizes: list[tuple[int, int]] = []

    def images(self, model: object, indices: Indices, size: tuple[int, int]) -> Tensor:
        self.sizes.append(size)
        return F.interpolate(self.pixels[indices].float(), size).to(torch.uint8)

    def view(self, labelled: list[int]) -> View:
        unlabelled, none = np.setdiff1d(np.arange(len(self.pixels)), labelled), np.empty(0, np.int64)
        bought = np.array(labelled, np.int64)
        return View(self, nn.Identity(), bought, unlabelled, num_initial=0, held_out=none, needs={"images"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "channels", "side"),
    [(4, [4], 2), (6, [4], 3), (8, [4, 8], 2), (28, [4, 8], 7), (32, [4, 8, 16, 32], 2), (64, [4, 8, 16, 32], 4)],
)
def test_shapes(size: int, channels: list[int], side: int) -> None:
    """Sides are halved until 2 pixels or an odd number remain, at most four times; the decoder starts at twice that."""
    net = Autoencoder(size, width=4, latent=3)
    mean_NZ, log_variance_NZ = net(torch.zeros(5, 3, size, size))
    assert mean_NZ.shape == log_variance_NZ.shape == (5, 3)
    assert net.decoder(mean_NZ).shape == (5, 3, size, size)
    assert [m.out_channels for m in net.encoder if isinstance(m, nn.Conv2d)] == channels
    assert net.mean.in_features == channels[-1] * side**2
    assert net.decoder[1](net.decoder[0](mean_NZ)).shape == (5, channels[-1], 2 * side, 2 * side)


def test_the_defaults_are_the_published_networks() -> None:
    """For CIFAR: convolutions of 128, 256, 512 and 1024 channels and 32 latent dimensions; parameters are counted by
    hand."""
    net, judge = Autoencoder(32, width=128, latent=32), build_discriminator(32)
    convolutions = 16 * (3 * 128 + 128 * 256 + 256 * 512 + 512 * 1024)
    encoder = convolutions + 2 * (128 + 256 + 512 + 1024)
    heads = 2 * (4096 * 32 + 32)
    decoder = 33 * 16384 + 16 * (1024 * 512 + 512 * 256 + 256 * 128) + 2 * (512 + 256 + 128) + 128 * 3 + 3
    assert sum(p.numel() for p in net.parameters()) == encoder + heads + decoder
    assert [tuple(p.shape) for p in judge.parameters()] == [(512, 32), (512,), (512, 512), (512,), (1, 512), (1,)]


def test_weights_are_drawn_after_he() -> None:
    with seeded(0):
        linear, convolution = init_kaiming(nn.Sequential(nn.Linear(400, 300), nn.Conv2d(30, 40, 4, bias=False)))
    assert linear.weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert convolution.weight.std().item() == pytest.approx((2 / (30 * 16)) ** 0.5, rel=0.02)
    assert not linear.bias.any()
    with seeded(0):
        net = Autoencoder(8, width=40, latent=50)
    assert net.encoder[0].weight.std().item() == pytest.approx((2 / (3 * 16)) ** 0.5, rel=0.05)
    assert net.decoder[0].weight.std().item() == pytest.approx((2 / 50) ** 0.5, rel=0.05)


def test_the_autoencoders_loss_by_hand() -> None:
    """The divergence from a standard normal is summed over images and dimensions; the error is a mean over all
    values."""
    net, pixels = Autoencoder(8, 4, 3), torch.rand(5, 3, 8, 8) * 2 - 1
    noise_NZ = torch.randn(5, 3, generator=torch.Generator().manual_seed(4))
    loss, mean_NZ = vae_loss(net, pixels, noise_NZ, 0.3)
    expected_NZ, log_variance_NZ = net(pixels)
    deviation_NZ = log_variance_NZ.exp().sqrt()
    error = (net.decoder(expected_NZ + deviation_NZ * noise_NZ) - pixels).square().mean()
    divergence = kl_divergence(Normal(expected_NZ, deviation_NZ), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(loss, error + 0.3 * divergence)
    assert torch.equal(mean_NZ, expected_NZ)


def test_the_discriminators_loss_by_hand() -> None:
    """For a logit x: -log D for the target labelled, -log(1 - D) otherwise; means of both sets are added."""
    judge = nn.Sequential(nn.Linear(1, 1))
    nn.init.ones_(judge[0].weight), nn.init.zeros_(judge[0].bias)
    means = (torch.tensor([[0.5], [1.0]]), torch.tensor([[-2.0]]))
    first, second = -torch.tensor([0.5, 1.0]).sigmoid().log().mean(), torch.tensor(-2.0).sigmoid()
    torch.testing.assert_close(discriminator_loss(judge, means, (1.0, 0.0)), first - (1 - second).log())
    torch.testing.assert_close(discriminator_loss(judge, means, (1.0, 1.0)), first - second.log())


def test_pixels_are_scaled_to_minus_1_to_1() -> None:
    torch.testing.assert_close(
        scale_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8)), torch.tensor([-1.0, -0.6, 1.0])
    )


@pytest.mark.parametrize("flip", [True, False])
def test_batches_show_each_image_once_an_epoch(flip: bool) -> None:
    """Image n has n in its left column and n + 100 in the right one; about half of the images are mirrored, if any."""
    images = torch.zeros(50, 3, 4, 4, dtype=torch.uint8)
    images[..., 0], images[..., -1] = torch.arange(50)[:, None, None], 100 + torch.arange(50)[:, None, None]
    stream = batches(images, recipe(flip=flip), torch.Generator().manual_seed(0))
    epochs = []
    for _ in range(2):
        parts = [next(stream) for _ in range(7)]
        assert [len(part) for part in parts] == [8] * 6 + [2]
        epochs.append(((torch.cat(parts) + 1) * 127.5).round().int())
    left, right = (values[:, 0, 0, [0, -1]].sort(1).values.T for values in epochs)
    assert all(torch.equal(values[0].sort().values, torch.arange(50).int()) for values in (left, right))
    assert all(torch.equal(values[0] + 100, values[1]) for values in (left, right))
    assert not torch.equal(left[0], right[0])
    mirrored = int((epochs[0][:, 0, 0, 0] >= 100).sum())
    assert 15 < mirrored < 35 if flip else mirrored == 0


def test_each_step_trains_its_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps train the autoencoder on new batches; then one trains the discriminator on the last of them."""
    steps, shown, descend, forward = [], [], module.take_step, Autoencoder.forward

    def spy(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        before = [p.detach().clone() for group in optimiser.param_groups for p in group["params"]]
        descend(optimiser, loss)
        after = [p for group in optimiser.param_groups for p in group["params"]]
        steps.append((len(after), any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))))

    def spy_forward(net: Autoencoder, pixels: Tensor) -> tuple[Tensor, Tensor]:
        shown.append(pixels)
        return forward(net, pixels)

    monkeypatch.setattr(module, "take_step", spy)
    monkeypatch.setattr(Autoencoder, "forward", spy_forward)
    net, judge = train(Pictures().pixels, 20, recipe(num_steps=2), seed=0)
    sizes = [len(list(module.parameters())) for module in (net, judge)]
    assert steps == [(sizes[0], True), (sizes[0], True), (sizes[1], True)] * 2
    assert len(shown) == 12
    assert torch.equal(shown[2], shown[4]) and torch.equal(shown[3], shown[5])  # noqa: PT018
    assert not torch.equal(shown[0], shown[2])
    assert all((part < 0).all() for part in shown[::2])  # the labelled ones are dark


def test_recorded_steps_end_in_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """21 labelled and 39 other images: batches of 8, of 5 and of 7. The optimiser is a GPU's."""
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *args, **options: adam(*args, **options | {"fused": True}))
    images = Pictures().pixels
    plain = train(images, 21, recipe(num_steps=25), seed=0)
    with graphs_on_cpu() as recordings:
        recorded = train(images, 21, recipe(num_steps=25), seed=0)
    assert len(recordings) > 2
    for network, other in zip(recorded, plain, strict=True):
        pairs = zip(network.state_dict().values(), other.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_the_autoencoder_learns_to_fool_a_fixed_discriminator(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a large adversarial weight and no divergence, all images end where the discriminator says labelled."""
    descend = module.take_step

    def unless_judge(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        if len(optimiser.param_groups[0]["params"]) != 6:
            descend(optimiser, loss)

    monkeypatch.setattr(module, "take_step", unless_judge)
    images = Pictures().pixels
    probabilities = [
        labelled_logits(
            images, *train(images, 20, recipe(num_steps=40, beta=0.0, adversary=weight, lr=3e-3), 0)
        ).sigmoid()
        for weight in (0.0, 10.0)
    ]
    assert (probabilities[1] > 0.95).all()
    assert probabilities[0].mean() < probabilities[1].mean() - 0.1


def test_scores_are_those_of_eval_mode_image_by_image(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Pictures().pixels
    net, judge = train(images, 20, recipe(), seed=0)
    assert net.training
    whole = labelled_logits(images, net, judge)
    assert not net.training
    monkeypatch.setattr(module, "SCORING_BATCH", 7)
    torch.testing.assert_close(labelled_logits(images, net, judge), whole)
    torch.testing.assert_close(labelled_logits(images[33:34], net, judge), whole[33:34])


def test_vaal_buys_what_is_unlike_the_labelled_images() -> None:
    """Dark images are labelled; of 35 dark and 20 bright unlabelled ones, bright ones are selected. Without the
    adversarial term that is easy."""
    task = Pictures()
    view = task.view([3, 8, 2, 30, 31])
    chosen = vaal(view, 20, RNG(0), **(FAST | {"epochs": 8, "adversary": 0.0, "beta": 1e-3}))
    assert set(chosen.tolist()) == set(range(40, 60))
    assert task.sizes == [(8, 8)]
    assert view.diagnostics["labelled"] > view.diagnostics["unlabelled"]


def test_vaal_ranks_and_logs_what_it_trained() -> None:
    task, labelled = Pictures(), [50, 3, 8]
    view = task.view(labelled)
    ordered = task.pixels[np.concatenate([labelled, view.unlabelled])]
    settings = recipe(num_steps=2 * 60 // 8, lr=5e-4)
    logit_N = labelled_logits(ordered, *train(ordered, 3, settings, int(RNG(1).integers(2**63))))
    chosen = vaal(view, 9, RNG(1), **FAST)
    np.testing.assert_array_equal(chosen, view.unlabelled[np.argsort(logit_N[3:].numpy(), kind="stable")[:9]])
    means = {"labelled": logit_N[:3].sigmoid().mean().item(), "unlabelled": logit_N[3:].sigmoid().mean().item()}
    assert view.diagnostics == pytest.approx(means)


def test_vaal_follows_rng_alone() -> None:
    view = Pictures().view([3, 8, 50])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (vaal(view, 12, RNG(seed), **FAST).tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("epochs", "num_images", "batch_size", "steps"), [(100, 50_000, 128, 39_062), (1, 60, 8, 7), (1, 5, 8, 1)]
)
def test_epochs_are_of_all_images(
    epochs: int, num_images: int, batch_size: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def spy(images: Tensor, num_labelled: int, recipe: Recipe, seed: int) -> Any:
        calls.append((len(images), num_labelled, recipe.num_steps))
        return train(images[:60], num_labelled, recipe_of_one_step, seed)

    recipe_of_one_step = recipe(num_steps=1)
    monkeypatch.setattr(module, "train", spy)
    vaal(Pictures(num_images).view([0, 1]), 2, RNG(0), **(FAST | {"epochs": epochs, "batch_size": batch_size}))
    assert calls == [(num_images, 2, steps)]


@pytest.mark.parametrize(
    "given", [{"size": 2}, {"size": 9}, {"epochs": 0}, {"width": 0}, {"latent": 0}, {"batch_size": 0}]
)
def test_vaal_refuses(given: dict[str, int]) -> None:
    [(name, value)] = given.items()
    with pytest.raises(ValueError, match=rf"vaal\[.*{name}={value}"):
        vaal(Pictures().view([0]), 2, RNG(0), **(FAST | given))
