"""What a detector is to this project, whichever library built it.

Shapes: N images, H x W pixels of the padded batch, M boxes of one image, A candidates of one image, C classes,
K = C + 1 columns with background last, D features, S x S places that a layer's kernel covers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Boxes, seeded
from benchmark.vision.networks import at_least_float32
from benchmark.vision.training import Precision, in_precision


@dataclass(frozen=True)
class Batch:
    """Images on their way into a detector."""

    images_N3HW: Tensor  # normalised, zero-padded on the right and below to one size
    sizes: list[tuple[int, int]]  # height, width of each without the padding
    seeds: list[int]  # of what is drawn for each: samples of anchors and of proposals

    def select_image(self, number: int) -> Batch:
        """The batch of one of its images; the padding stays."""
        part = slice(number, number + 1)
        return Batch(self.images_N3HW[part], self.sizes[part], self.seeds[part])


@dataclass(frozen=True)
class Detections:
    """What a detector finds in one image, surest first."""

    corners_M4: Tensor  # x1, y1, x2, y2 in pixels of the batch
    labels_M: Tensor
    confidence_M: Tensor  # what ranks them: the score of the box as its library computes it
    scores_MK: Tensor  # rows sum to one
    proposals_M4: Tensor | None = None  # what each was refined from
    candidates_M: Tensor | None = None  # which of the image's candidates each is
    paper_scores_M: Tensor | None = None  # what the detector's paper ranks them by, where its library does otherwise

    def select(self, which_M: Tensor) -> Detections:
        """Those of a mask."""
        parts = {name: values[which_M] for name, values in vars(self).items() if values is not None}
        return replace(self, **parts)


@dataclass(frozen=True)
class DetectionsWithFeatures:
    """What a detector finds in one image, and what its class layer saw there."""

    detections: Detections
    inputs_MDSS: Tensor  # around the place of each box; S = 1 where the layer sees proposals
    classify: Callable[[Tensor], Tensor]  # from inputs of that shape to `scores_MK`

    @property
    def features_MD(self) -> Tensor:
        """What it saw at the place itself."""
        middle = self.inputs_MDSS.shape[2] // 2
        return self.inputs_MDSS[:, :, middle, middle].contiguous()


@dataclass(frozen=True)
class PixelFormat:
    """What a detector wants of a pixel: (x - mean) / deviation by channel, on the scale 0..255."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    bgr: bool = False  # blue first; mean and deviation are in that order too


@dataclass(frozen=True)
class Suppression:
    """How candidates become detections."""

    min_score: float = 0.05  # of a box
    iou_threshold: float = 0.5  # IoU above which the less sure of two boxes of a class goes
    num_boxes: int = 100  # kept, an image
    num_candidates: int = 1000  # of a level, box and class together, that enter suppression


class Detector(nn.Module):
    """A detector with a companion, where there is one, on its feature maps. Subclasses wrap a library's model.

    Targets are in pixels of the batch. Nothing here changes a mode (train, eval) for good.
    """

    pixel_format: PixelFormat
    channels: list[int]  # of the feature maps
    is_two_stage: bool
    companion: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.precision: Precision = "float32"  # of `trunk`
        self.companion = None

    def feature_maps(self, images_N3HW: Tensor) -> list[Tensor]:
        """The feature maps (FPN levels), (N, channels[i], H_i, W_i) each, in float32 whatever they are computed in."""
        with in_precision(self.precision, images_N3HW.device):
            maps = self.backbone_maps(images_N3HW)
        return [at_least_float32(level) for level in maps]

    @abstractmethod
    def backbone_maps(self, images_N3HW: Tensor) -> Sequence[Tensor]:
        """The feature maps, as the library's backbone and neck compute them."""

    @abstractmethod
    def loss(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> Tensor:
        """The library's own training loss of the batch: all its parts summed, a scalar. Draws are the caller's to seed.

        Works in eval mode too, and then with the statistics and the samplers of training.
        """

    @abstractmethod
    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """What it finds, after its library's suppression."""

    @abstractmethod
    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """(N, D): the inputs of the last layers, averaged over places and levels, or over proposals."""

    @abstractmethod
    def last_layers(self) -> list[nn.Module]:
        """The last layers, in the order of ISAL's blocks: FCOS classes, boxes, centerness; Faster R-CNN RPN classes,
        RPN boxes, classes, boxes."""

    def detect_with_features(self, maps: Sequence[Tensor], batch: Batch) -> list[DetectionsWithFeatures]:
        """`detect`, and what the class layer saw of each box. ValueError where that is not known."""
        raise ValueError(f"{type(self).__name__}: what its class layer sees of a box is not known")

    def last_weights(self) -> dict[str, nn.Parameter]:
        """The weights (no biases) of the last layers, by parameter name."""
        weights = [layer.weight for layer in self.last_layers()]
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        return {names[id(weight)]: weight for weight in weights if isinstance(weight, nn.Parameter)}

    def forward(self, batch: Batch, targets: Sequence[Boxes]) -> Tensor:
        """(N,): the loss of each image as if it were alone in its batch; see `image_losses`.

        Differentiable in what follows the feature maps.
        """
        with torch.no_grad():
            maps = self.feature_maps(batch.images_N3HW)
        return self.image_losses(maps, batch, targets)

    def directional_derivatives(self, batch: Batch, targets: Sequence[Boxes], direction: Sequence[Tensor]) -> Tensor:
        """(N,): the derivative of each image's loss along a direction of the last layers' weights, one tensor a layer.

        The last layers are linear in their weights: the tangent of an output z is that of the layer with `along` for
        its weights, and the derivative <dL/dz, tangent>. Exact, and no gradient passes further back than z.
        """
        directions = dict(zip(self.last_layers(), direction, strict=True))
        with torch.no_grad():
            maps = self.feature_maps(batch.images_N3HW)
        losses, ends = list[Tensor](), list[int]()
        with torch.enable_grad(), record_calls(directions) as calls:
            for loss in self.iter_losses(maps, batch, targets):
                losses.append(loss)
                ends.append(len(calls))
            outputs = [call.output for call in calls]
            gradients = torch.autograd.grad(torch.stack(losses).sum(), outputs, materialize_grads=True)
        dots = [(slope * call.tangent(directions)).sum() for slope, call in zip(gradients, calls, strict=True)]
        return torch.stack([image.sum() for image in torch.stack(dots).tensor_split(ends[:-1])])

    def image_losses(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> Tensor:
        """(N,): see `each_loss`."""
        return torch.stack(list(self.iter_losses(maps, batch, targets)))

    def iter_losses(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> Iterator[Tensor]:
        """Image by image: normalised by its own positives, its samplers seeded by it; the padding is the batch's."""
        for number, target in enumerate(targets):
            one = [level[number : number + 1] for level in maps]
            with seeded(batch.seeds[number]):
                loss = self.loss(one, batch.select_image(number), [target])
            yield loss


@dataclass(frozen=True)
class LayerCall:
    """One call of a last layer."""

    layer: nn.Module
    input: Tensor
    output: Tensor

    @torch.no_grad()
    def tangent(self, directions: Mapping[nn.Module, Tensor]) -> Tensor:
        """The layer's output with its direction for weights and no bias."""
        layer, weight = self.layer, directions[self.layer]
        if isinstance(layer, nn.Linear):
            return F.linear(self.input, weight)
        assert isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros"
        return F.conv2d(self.input, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


@contextmanager
def record_calls(layers: Iterable[nn.Module]) -> Iterator[list[LayerCall]]:
    """Every call of these layers while a block runs, in order."""
    calls: list[LayerCall] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(LayerCall(layer, inputs[0], output))

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def suppress(
    scores_AC: Tensor,
    corners_ACx4: Tensor,
    size: tuple[int, int],
    suppression: Suppression,
    distributions_AK: Tensor,
    *,
    levels: Sequence[int] = (),
    proposals_A4: Tensor | None = None,
) -> Detections:
    """Class-wise non-maximum suppression of the candidates of one image.

    scores_AC: of each class; corners_ACx4: (A, 4), or (A, C, 4) where every class has its own box; rows_AK: the
    distribution each candidate goes with; levels: how many candidates each level has, where levels are thinned out.
    Boxes are clipped to the image, and dropped below a hundredth of a pixel.
    """
    from torchvision.ops import batched_nms, clip_boxes_to_image  # torchvision takes a second: only where it is used

    candidate_S, label_S = (scores_AC > suppression.min_score).nonzero(as_tuple=True)
    if levels:
        best_S = best_per_level(scores_AC[candidate_S, label_S], candidate_S, levels, suppression.num_candidates)
        candidate_S, label_S = candidate_S[best_S], label_S[best_S]
    picked_S4 = corners_ACx4[candidate_S] if corners_ACx4.ndim == 2 else corners_ACx4[candidate_S, label_S]
    corners_S4 = clip_boxes_to_image(picked_S4, size)
    large_S = ((corners_S4[:, 2:] - corners_S4[:, :2]) >= 1e-2).all(1)
    candidate_S, label_S, corners_S4 = candidate_S[large_S], label_S[large_S], corners_S4[large_S]
    score_S = scores_AC[candidate_S, label_S]
    keep = batched_nms(corners_S4, score_S, label_S, suppression.iou_threshold)[: suppression.num_boxes]
    picked = candidate_S[keep]
    found = None if proposals_A4 is None else proposals_A4[picked]
    return Detections(corners_S4[keep], label_S[keep], score_S[keep], distributions_AK[picked], found, picked)


def add_dropout_before(layer: nn.Module, share: float) -> None:
    """What a layer is given passes through dropout whenever the layer is in training mode. Nothing where share = 0."""

    def drop(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.dropout(given[0], share, layer.training), *given[1:])

    if share:
        layer.register_forward_pre_hook(drop)


def best_per_level(score_S: Tensor, candidate_S: Tensor, levels: Sequence[int], num_candidates: int) -> Tensor:
    """Positions of the `most` best of each level. `candidate_S` ascends, and levels are runs of candidates."""
    ends = torch.tensor(levels, device=candidate_S.device).cumsum(0)
    counts = torch.searchsorted(candidate_S, ends).diff(prepend=ends.new_zeros(1)).tolist()
    parts, begin = [], 0
    for count in counts:
        parts.append(begin + score_S[begin : begin + count].topk(min(num_candidates, count)).indices)
        begin += count
    return torch.cat(parts)


def add_background(scores_AC: Tensor) -> Tensor:
    """(A, C + 1): scores of a sigmoid head as a distribution, background taking what they leave over.

    Scores that sum to more than one are scaled to one, and leave nothing.
    """
    total_A1 = scores_AC.sum(1, keepdim=True)
    return torch.cat([scores_AC / total_A1.clamp(min=1), (1 - total_A1).clamp(min=0)], 1)


@contextmanager
def training_mode(*modules: nn.Module) -> Iterator[None]:
    """Sets the `training` flag of these modules, not of what is in them, for as long as a block runs."""
    before = [module.training for module in modules]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module, flag in zip(modules, before, strict=True):
            module.training = flag
