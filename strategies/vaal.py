"""VAAL: variational adversarial active learning (Sinha, Ebrahimi and Darrell, 2019).

Shapes: N images of the pool or a batch, the labelled ones first; S pixels on a side; Z latent dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import CapturedFunction, Indices, View, register, seeded

MAX_DEPTH = 4  # convolutions that halve the image
VAE_STEPS = 2  # for each step of the discriminator
SCORING_BATCH = 1024  # images scored at once


@dataclass(frozen=True)
class Recipe:
    """How autoencoder and discriminator are trained."""

    num_steps: int
    batch_size: int
    lr: float
    beta: float
    adversary: float
    latent: int
    width: int
    flip: bool


@register(needs={"images"}, needs_without_labels={"images", "labels"}, version=1)
def vaal(
    view: View,
    budget: int,
    rng: np.random.Generator,
    *,
    epochs: int = 100,
    batch_size: int = 128,
    lr: float = 5e-4,
    beta: float = 1.0,
    adversary: float = 1.0,
    latent: int = 32,
    width: int = 128,
    size: int = 32,
    flip: bool = True,
) -> Indices:
    """Selects the images that a discriminator on latent codes most confidently calls unlabelled.

    A variational autoencoder and a discriminator are trained from scratch on all images, resized to size x size pixels.
    The autoencoder learns to reconstruct images and to make the discriminator take all of them for labelled; the
    discriminator learns to tell the two sets apart by the latent means. Their training steps alternate. The task's
    model plays no part.

    Args:
        epochs: passes over labelled and unlabelled images together (100: the authors', 39,062 steps for CIFAR).
        batch_size: images of each set in a step (128: the authors').
        lr: the learning rate of both Adam optimisers (5e-4: the authors').
        beta: the weight of the divergence from the prior (1: the authors'). As in their code the divergence is summed
            over the batch and the squared error is a mean over pixels, so that at 1 it outweighs the error by far.
        adversary: the weight of the adversarial term in the loss of the autoencoder, lambda_2 in the paper (1: the
            authors').
        latent: the number of latent dimensions (32: the authors').
        width: the channels of the first of up to four convolutions; each further one doubles them (128: the authors').
        size: height and width that images are resized to; an even number, 4 or more (32: CIFAR's).
        flip: `true` mirrors half of the images in training, as the authors do.

    Logs:
        labelled: the mean probability of being labelled that labelled images get.
        unlabelled: the mean probability of being labelled that unlabelled images get.

    References:
        Sinha, Ebrahimi and Darrell, Variational Adversarial Active Learning, ICCV 2019.

    Deviations:
        Both networks are trained when images are selected, whereas the authors' code trains them beside the model,
        which they do not affect. Images are scored unchanged and in eval mode, whereas that code mirrors them at random
        in train mode.

    Cost:
        epochs * N / batch_size steps, each of which takes two steps of the autoencoder and one of the discriminator on
        a labelled and an unlabelled batch: 4 epochs * N images pass forward and back through the autoencoder. This is
        slow on a CPU.
    """
    if min(epochs, batch_size, latent, width) < 1 or size < 4 or size % 2:
        settings = f"epochs={epochs},batch_size={batch_size},latent={latent},width={width},size={size}"
        raise ValueError(f"vaal[{settings}]: all must be 1 or more, and size an even number from 4")
    if not (num_labelled := len(view.labelled)):
        raise ValueError("vaal learns to tell labelled from unlabelled images, but none is labelled: set initial=N")
    images_N3SS = view.images(np.concatenate([view.labelled, view.unlabelled]), (size, size))
    num_steps = max(1, epochs * len(images_N3SS) // batch_size)
    recipe = Recipe(num_steps, batch_size, lr, beta, adversary, latent, width, flip)
    logit_N = labelled_logits(images_N3SS, *train(images_N3SS, num_labelled, recipe, int(rng.integers(2**63))))
    selection = view.lowest(logit_N[num_labelled:], budget)
    parts = logit_N.sigmoid().tensor_split([num_labelled])
    view.log(**{name: part.mean().item() for name, part in zip(("labelled", "unlabelled"), parts, strict=True)})
    return selection


class Autoencoder(nn.Module):
    """A variational autoencoder with up to four convolutions of stride 2, and their mirror image as decoder.

    Each convolution halves the side, as long as that leaves a whole number of at least 2 pixels.
    """

    def __init__(self, size: int, width: int, latent: int) -> None:
        super().__init__()
        depth = 1
        while depth < MAX_DEPTH and size % 2 ** (depth + 1) == 0 and size >= 2 ** (depth + 2):
            depth += 1
        channels, side = [width * 2**number for number in range(depth)], size // 2**depth
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([3, *channels]):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        self.mean, self.log_variance = (nn.Linear(channels[-1] * side**2, latent) for _ in range(2))
        shape = (channels[-1], 2 * side, 2 * side)
        layers = [nn.Linear(latent, shape[0] * shape[1] * shape[2]), nn.Unflatten(1, shape)]
        for inputs, outputs in pairwise(channels[::-1]):
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.decoder = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 1))
        for module in (self.encoder, self.decoder):
            init_kaiming(module)

    def forward(self, pixels_N3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the means and the log-variances of the latent codes, (N, Z) each."""
        features = self.encoder(pixels_N3SS)
        return self.mean(features), self.log_variance(features)


def build_discriminator(latent: int) -> nn.Sequential:
    """Builds the network Z -> 512 -> 512 -> 1 with ReLU; its output is the logit of being labelled."""
    net = nn.Sequential(nn.Linear(latent, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1))
    return init_kaiming(net)


def init_kaiming(net: nn.Sequential) -> nn.Sequential:
    """Initialises convolutions and linear layers after He et al. (2015), with biases 0; returns the network."""
    for module in net:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def train(images_N3SS: Tensor, num_labelled: int, recipe: Recipe, seed: int) -> tuple[Autoencoder, nn.Sequential]:
    """Trains autoencoder and discriminator for `num_steps` steps of the latter.

    Each step has one labelled and one unlabelled batch, which pass through the networks separately.
    """
    with seeded(seed):
        net = Autoencoder(images_N3SS.shape[2], recipe.width, recipe.latent).to(images_N3SS.device)
        discriminator = build_discriminator(recipe.latent).to(images_N3SS.device)
    generator = torch.Generator().manual_seed(seed)
    streams = [batches(part, recipe, generator) for part in images_N3SS.tensor_split([num_labelled])]
    on_gpu = images_N3SS.is_cuda
    net_adam, discriminator_adam = (
        torch.optim.Adam(module.parameters(), lr=recipe.lr, fused=on_gpu, capturable=on_gpu)
        for module in (net, discriminator)
    )

    def train_autoencoder(*batch: Tensor) -> None:
        parts = zip(batch[:2], batch[2:], strict=True)
        losses, means = zip(*(vae_loss(net, *part, recipe.beta) for part in parts), strict=True)
        discriminator_adam.zero_grad()  # its gradients of this step are not used
        take_step(net_adam, sum(losses) + recipe.adversary * discriminator_loss(discriminator, means, (1.0, 1.0)))

    def train_discriminator(*batch: Tensor) -> None:
        with torch.no_grad():
            means = tuple(net(pixels)[0] for pixels in batch)
        take_step(discriminator_adam, discriminator_loss(discriminator, means, (1.0, 0.0)))

    autoencoder_step = CapturedFunction(train_autoencoder, "the training of vaal's autoencoder")
    discriminator_step = CapturedFunction(train_discriminator, "the training of vaal's discriminator")
    for _ in range(recipe.num_steps):
        for _ in range(VAE_STEPS):
            pair = [next(stream) for stream in streams]
            noise = [torch.randn(len(pixels), recipe.latent, generator=generator).to(pixels.device) for pixels in pair]
            autoencoder_step(*pair, *noise)
        discriminator_step(*pair)
    return net, discriminator


def take_step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Takes one optimiser step on a loss."""
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()


def batches(images_N3SS: Tensor, recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields shuffled batches of pixels in -1..1 without end, each image once per epoch, half of them mirrored."""
    while True:
        for part in torch.randperm(len(images_N3SS), generator=generator).split(recipe.batch_size):
            pixels = scale_pixels(images_N3SS[part.to(images_N3SS.device)])
            if recipe.flip:
                mirrored = (torch.rand(len(part), generator=generator) < 0.5).to(pixels.device)
                pixels = pixels.flip(3).where(mirrored[:, None, None, None], pixels)
            yield pixels


def scale_pixels(images_N3SS: Tensor) -> Tensor:
    """Maps pixel values from 0..255 to -1..1."""
    return images_N3SS / 127.5 - 1


def vae_loss(net: Autoencoder, pixels_N3SS: Tensor, noise_NZ: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Returns the loss of a batch, with standard normal noise, and its latent means, (N, Z).

    The loss is the mean squared error plus beta times the divergence from the prior, summed over the batch.
    """
    mean_NZ, log_variance_NZ = net(pixels_N3SS)
    reconstruction = net.decoder(mean_NZ + noise_NZ * (log_variance_NZ / 2).exp())
    divergence = (mean_NZ.square() + log_variance_NZ.exp() - 1 - log_variance_NZ).sum() / 2
    return F.mse_loss(reconstruction, pixels_N3SS) + beta * divergence, mean_NZ


def discriminator_loss(discriminator: nn.Sequential, means: tuple[Tensor, ...], targets: tuple[float, float]) -> Tensor:
    """Returns the sum of the discriminator's cross entropies on the labelled and the unlabelled batch.

    Each batch has one target: 1 for labelled, 0 for unlabelled.
    """
    logits = [discriminator(mean_NZ) for mean_NZ in means]
    parts = [F.binary_cross_entropy_with_logits(x, torch.full_like(x, y)) for x, y in zip(logits, targets, strict=True)]
    return torch.stack(parts).sum()


@torch.no_grad()
def labelled_logits(images_N3SS: Tensor, net: Autoencoder, discriminator: nn.Sequential) -> Tensor:
    """Returns the logit of being labelled, (N,), in eval mode."""
    net.eval()
    return torch.cat([discriminator(net(scale_pixels(part))[0]) for part in images_N3SS.split(SCORING_BATCH)]).squeeze(
        1
    )
