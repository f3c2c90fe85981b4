"""The interface of detectors, whichever library builds them.

Shapes: N images, H x W pixels of the padded batch, M boxes of one image, A candidates of one image, C classes, K = C +
1 columns with background last, D features, S x S locations that a layer's kernel covers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Boxes, seeded
from benchmark.vision.detection.suppression import Detections
from benchmark.vision.networks import at_least_float32
from benchmark.vision.training import Precision, in_precision


@dataclass(frozen=True)
class Batch:
    """A batch of images as a detector takes it.

    Args:
        images_N3HW: normalised images, zero-padded on the right and below to one size.
        sizes: height and width of each image without its padding.
        seeds: seed of each image, for the sampling of anchors and proposals.
    """

    images_N3HW: Tensor
    sizes: list[tuple[int, int]]
    seeds: list[int]

    def select_image(self, number: int) -> Batch:
        """The batch that holds one of these images, with its padding unchanged."""
        part = slice(number, number + 1)
        return Batch(self.images_N3HW[part], self.sizes[part], self.seeds[part])


@dataclass(frozen=True)
class DetectionsWithFeatures:
    """The detections on one image, with the inputs of the classification layer that produced them.

    Args:
        detections: the detections.
        inputs_MDSS: inputs of the classification layer around the place of each box; S = 1 where the layer takes
            proposals.
        classify: maps inputs of that shape to `scores_MK`.
    """

    detections: Detections
    inputs_MDSS: Tensor
    classify: Callable[[Tensor], Tensor]

    @property
    def features_MD(self) -> Tensor:
        """The input at the place of the box itself."""
        middle = self.inputs_MDSS.shape[2] // 2
        return self.inputs_MDSS[:, :, middle, middle].contiguous()


@dataclass(frozen=True)
class PixelFormat:
    """The pixel values that a detector expects: (x - mean) / deviation by channel, from values in 0..255.

    Args:
        mean: mean of each channel, in the detector's channel order.
        deviation: standard deviation of each channel, in the same order.
        bgr: True when the channel order is blue, green, red.
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    bgr: bool = False


class Detector(nn.Module):
    """Base class of detectors; a subclass wraps a library's model.

    The companion, if there is one, reads the detector's feature maps. Targets are in pixels of the batch. No method
    changes the mode (train or eval) of the model permanently.
    """

    pixel_format: PixelFormat
    channels: list[int]  # of the feature maps
    is_two_stage: bool
    companion: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.precision: Precision = "float32"  # of the feature maps
        self.companion = None

    def feature_maps(self, images_N3HW: Tensor) -> list[Tensor]:
        """Computes the feature maps (FPN levels) in the detector's precision.

        Args:
            images_N3HW: normalised images.

        Returns:
            Maps of shape (N, channels[i], H_i, W_i), in float32.
        """
        with in_precision(self.precision, images_N3HW.device):
            maps = self.backbone_maps(images_N3HW)
        return [at_least_float32(level) for level in maps]

    @abstractmethod
    def backbone_maps(self, images_N3HW: Tensor) -> Sequence[Tensor]:
        """Computes the feature maps with the library's backbone and neck."""

    @abstractmethod
    def loss_terms(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> dict[str, Tensor]:
        """Computes the terms of the library's training loss of a batch.

        They are the same in eval mode: the statistics and samplers of training are used there too.

        Args:
            maps: feature maps of the batch.
            batch: the images.
            targets: the boxes of each image.

        Returns:
            Scalars by name. Random draws come from torch's generator, which the caller seeds.
        """

    def loss(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> Tensor:
        """The sum of `loss_terms`, a scalar."""
        return torch.stack(list(self.loss_terms(maps, batch, targets).values())).sum()

    def loss_divisor(self, targets: Sequence[Boxes]) -> Tensor:
        """What the library has divided the last loss of a batch by (or 1 if that is 0), to add up losses of parts.

        By default the number of images; detectors that divide by the number of positives return that.

        Args:
            targets: the boxes of each image, as `loss` got them.
        """
        return torch.tensor(len(targets))

    @abstractmethod
    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """Returns the detections on each image, after the library's non-maximum suppression."""

    @abstractmethod
    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """(N, D): the inputs of the last layers, averaged over places and levels, or over proposals."""

    @abstractmethod
    def last_layers(self) -> list[nn.Module]:
        """Returns the last layers, in the order of ISAL's blocks.

        FCOS: classes, boxes, centerness. Faster R-CNN: RPN classes, RPN boxes, classes, boxes.
        """

    def detect_with_features(self, maps: Sequence[Tensor], batch: Batch) -> list[DetectionsWithFeatures]:
        """Returns what `detect` returns, with the inputs of the classification layer for each box.

        Raises:
            ValueError: this kind of detector does not provide them.
        """
        raise ValueError(f"{type(self).__name__} does not provide the classification layer's inputs for its boxes")

    def detect_with_samples(
        self, maps: Sequence[Tensor], batch: Batch, rate: float, seeds: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Detections, list[Tensor]]]:
        """Yields what `detect` returns on each image, with class distributions of its boxes under dropout.

        The dropout is that before the classification layer; here each box has masks of its own.

        Args:
            maps: feature maps of the batch.
            batch: the images.
            rate: rate of dropout.
            seeds: for each image, the seed of each sample.

        Returns:
            For each image, the detections and one `scores_MK` for each sample.

        Raises:
            ValueError: this kind of detector has no dropout.
        """
        for part, image_seeds in zip(self.detect_with_features(maps, batch), seeds, strict=True):
            generators = [torch.Generator().manual_seed(seed) for seed in image_seeds]
            samples = [part.classify(apply_dropout(part.inputs_MDSS, rate, generator)) for generator in generators]
            yield part.detections, samples

    def last_weights(self) -> dict[str, nn.Parameter]:
        """Returns the weights of the last layers, without biases, by parameter name."""
        weights = [layer.weight for layer in self.last_layers()]
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        return {names[id(weight)]: weight for weight in weights if isinstance(weight, nn.Parameter)}

    def forward(self, batch: Batch, targets: Sequence[Boxes]) -> Tensor:
        """Computes the loss of each image as if it were alone in its batch.

        Args:
            batch: the images.
            targets: the boxes of each image.

        Returns:
            (N,) losses, differentiable in every parameter after the feature maps.
        """
        with torch.no_grad():
            maps = self.feature_maps(batch.images_N3HW)
        return self.image_losses(maps, batch, targets)

    def directional_derivatives(self, batch: Batch, targets: Sequence[Boxes], direction: Sequence[Tensor]) -> Tensor:
        """Computes the derivative of each image's loss along a direction of the last layers' weights.

        The last layers are linear in their weights. The tangent of an output z is therefore the layer's output with the
        direction in place of its weights, and the derivative is the inner product of dL/dz with that tangent. This is
        exact, and backpropagation stops at z.

        Args:
            batch: the images.
            targets: the boxes of each image.
            direction: one tensor for each of `last_layers`.

        Returns:
            (N,) derivatives.
        """
        directions = dict(zip(self.last_layers(), direction, strict=True))
        with torch.no_grad():
            maps = self.feature_maps(batch.images_N3HW)
        losses, call_counts = list[Tensor](), list[int]()
        with torch.enable_grad(), record_calls(directions) as calls:
            for loss in self.iter_losses(maps, batch, targets):
                losses.append(loss)
                call_counts.append(len(calls))
            outputs = [call.output for call in calls]
            gradients = torch.autograd.grad(torch.stack(losses).sum(), outputs, materialize_grads=True)
        dots = [(gradient * call.tangent(directions)).sum() for gradient, call in zip(gradients, calls, strict=True)]
        return torch.stack([image.sum() for image in torch.stack(dots).tensor_split(call_counts[:-1])])

    def image_losses(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> Tensor:
        """(N,): the losses of `iter_losses`, stacked."""
        return torch.stack(list(self.iter_losses(maps, batch, targets)))

    def iter_losses(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> Iterator[Tensor]:
        """Yields the loss of each image, normalised by its own positives and with samplers seeded by its own seed.

        The padding stays that of the batch.
        """
        for number, target in enumerate(targets):
            image_maps = [level[number : number + 1] for level in maps]
            with seeded(batch.seeds[number]):
                loss = self.loss(image_maps, batch.select_image(number), [target])
            yield loss


@dataclass(frozen=True)
class LayerCall:
    """One recorded call of a layer."""

    layer: nn.Module
    input: Tensor
    output: Tensor

    @torch.no_grad()
    def tangent(self, directions: Mapping[nn.Module, Tensor]) -> Tensor:
        """The layer's output with its direction in place of its weights and without its bias."""
        layer, weight = self.layer, directions[self.layer]
        if isinstance(layer, nn.Linear):
            return F.linear(self.input, weight)
        if isinstance(layer, nn.ConvTranspose2d):
            assert not isinstance(layer.padding, str)
            options = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
            return F.conv_transpose2d(self.input, weight, None, *options)
        assert isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros"
        return F.conv2d(self.input, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


@contextmanager
def record_calls(layers: Iterable[nn.Module]) -> Iterator[list[LayerCall]]:
    """Records every call of these layers inside the block, in order."""
    calls: list[LayerCall] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(LayerCall(layer, inputs[0], output))

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def add_dropout_before(layer: nn.Module, rate: float, whole_channels: bool = False) -> None:
    """Applies dropout to a layer's input whenever the layer is in training mode; does nothing for a rate of 0."""
    dropout = F.dropout2d if whole_channels else F.dropout

    def drop(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (dropout(inputs[0], rate, layer.training), *inputs[1:])

    if rate:
        layer.register_forward_pre_hook(drop)


def apply_dropout(values: Tensor, rate: float, generator: torch.Generator, whole_channels: bool = False) -> Tensor:
    """Applies dropout to values of shape (N, D, H, W).

    Args:
        values: the values.
        rate: the share of values that become 0.
        generator: draws the mask, on the CPU, so that it is the same on every device.
        whole_channels: drop whole channels of an image.
    """
    shape = (*values.shape[:2], 1, 1) if whole_channels else values.shape
    kept_mask = torch.rand(shape, generator=generator) >= rate
    return values * kept_mask.to(values.device) / (1 - rate)


def add_background(scores_AC: Tensor) -> Tensor:
    """(A, C + 1): turns the scores of a sigmoid head into a distribution, with background as the remainder.

    Scores that sum to more than one are scaled to sum to one, and background is then zero.
    """
    total_A1 = scores_AC.sum(1, keepdim=True)
    return torch.cat([scores_AC / total_A1.clamp(min=1), (1 - total_A1).clamp(min=0)], 1)


@contextmanager
def training_mode(*modules: nn.Module) -> Iterator[None]:
    """Sets the `training` flag of these modules, but not of their children, inside the block."""
    before = [module.training for module in modules]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module, flag in zip(modules, before, strict=True):
            module.training = flag
