"""Shows where two machines part on the way from an image to its influence on a detector.

    python -m tools.device_parity                      the CPU beside the GPU, in float32
    python -m tools.device_parity cpu cpu:float64      rounding alone
    python -m tools.device_parity cpu cuda 'scenes[model=faster_rcnn,epochs=5]'

A detector is trained on the first machine. Both machines then take one image and its boxes through the same steps:
pixels, feature maps, outputs of the last layers, terms of the loss, gradients at these outputs, and the slope of the
loss along each layer's weights, which is what influence adds up. The first step with a large difference is where to
look.

The boxes are the detector's own, grown by a pixel. Without that, each box lies where some place predicts it, which is
the kink of an IoU loss: there, rounding decides the sign of the box layer's gradient, on any two machines. The last
line shows it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.api import Boxes, Machine, seeded
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.vision.detection.detector import Batch, Detector, record_calls
from benchmark.vision.detection.task import Detection

TASK, NUM_LABELLED, NUM_CANDIDATES = "scenes[epochs=5]", 60, 30
MIN_SCORE = 0.1  # of pseudo-labels, as in ISAL
SLOPE = "slope along "
TOLERANCE = 1e-2  # a larger difference, as a share of the largest value of a step, is marked


@dataclass(frozen=True)
class Place:
    """Where a detector runs: a device and a type of numbers, written `cuda` or `cpu:float64`."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def read(cls, text: str) -> Place:
        """Reads `DEVICE` or `DEVICE:TYPE`."""
        device, _, dtype = text.partition(":")
        return cls(torch.device(device), getattr(torch, dtype or "float32"))


@dataclass(frozen=True)
class Difference:
    """How far two machines differ in one step."""

    step: str
    largest_value: float
    largest_difference: float

    @property
    def is_large(self) -> bool:
        """Whether the difference is more than TOLERANCE of the largest value."""
        return self.largest_difference > TOLERANCE * self.largest_value


def trace_influence(detector: Detector, batch: Batch, targets: Sequence[Boxes]) -> dict[str, Tensor]:
    """Computes the influence of one image along the last layers' own weights, and every step on the way to it.

    Args:
        detector: a detector in eval mode.
        batch: one image.
        targets: its boxes.

    Returns:
        The results of each step by name, in the order in which they are computed.
    """
    weights = detector.last_weights()
    names = dict(zip(detector.last_layers(), weights, strict=True))
    with torch.no_grad():
        maps = detector.feature_maps(batch.images_N3HW)
    with seeded(batch.seeds[0]), record_calls(names) as calls:
        terms = detector.loss_terms(maps, batch, targets)
    loss = torch.stack(list(terms.values())).sum()
    gradients = torch.autograd.grad(loss, [call.output for call in calls], materialize_grads=True)
    outputs, slopes = dict[str, list[Tensor]](), dict[str, list[Tensor]]()
    for call, gradient in zip(calls, gradients, strict=True):
        outputs.setdefault(names[call.layer], []).append(call.output.detach().flatten())
        slopes.setdefault(names[call.layer], []).append(gradient.flatten())
    trace = {"pixels": batch.images_N3HW}
    trace |= {f"feature map {number}": level for number, level in enumerate(maps)}
    trace |= {f"output of {name}": torch.cat(parts) for name, parts in outputs.items()}
    trace |= {f"loss: {name}": term.detach() for name, term in terms.items()}
    trace |= {f"gradient at {name}": torch.cat(parts) for name, parts in slopes.items()}
    for name in weights:
        direction = [weight.detach() * (name == other) for other, weight in weights.items()]
        trace[SLOPE + name] = detector.directional_derivatives(batch, targets, direction)
    return trace


def find_differences(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[Difference]:
    """Compares the results of each step."""
    pairs = {step: (values.cpu().double(), second[step].cpu().double()) for step, values in first.items()}
    return [Difference(step, a.abs().max().item(), (a - b).abs().max().item()) for step, (a, b) in pairs.items()]


def grow_boxes(boxes: Sequence[Boxes], pixels: float) -> list[Boxes]:
    """Moves every side of every box outwards."""
    outwards_4 = pixels * torch.tensor([-1.0, -1.0, 1.0, 1.0])
    return [Boxes(image.corners_M4 + outwards_4.to(image.corners_M4), image.labels_M) for image in boxes]


def trace_at(place: Place, detector: Detector, batch: Batch, targets: Sequence[Boxes]) -> dict[str, Tensor]:
    """Traces a copy of a detector on another device or in another type of numbers."""
    copied = copy.deepcopy(detector).to(device=place.device, dtype=place.dtype)
    moved = Batch(batch.images_N3HW.to(place.device, place.dtype), batch.sizes, batch.seeds)
    boxes = [Boxes(b.corners_M4.to(place.device, place.dtype), b.labels_M.to(place.device)) for b in targets]
    return trace_influence(copied, moved, boxes)


def compare_places(first: Place, second: Place, label: str = TASK) -> tuple[list[Difference], list[Difference]]:
    """Trains a small detector and compares its influence on the image with most boxes.

    Args:
        first: where the detector is trained.
        second: the other place.
        label: the task with its parameters, on which the detector is trained.

    Returns:
        The differences on the detector's own boxes grown by a pixel, and those on its own boxes.
    """
    spec = Spec.read("task", label)
    task = spec.plugin.build(Machine(first.device), spec.values)
    assert isinstance(task, Detection), "only detectors are traced"
    model = task.fit(np.arange(NUM_LABELLED), 0)
    candidates = np.arange(NUM_LABELLED, NUM_LABELLED + NUM_CANDIDATES)
    boxes = task.pseudo_labels(model, candidates, 1, MIN_SCORE)
    index = max(range(len(boxes)), key=lambda number: len(boxes[number]))
    [read] = task.pool_reader.map_images(candidates[[index]], lambda batch: [batch])
    batch, own = read.resized.batch, read.resized.to_batch_pixels([boxes[index]])
    grown, unchanged = (
        find_differences(*(trace_at(place, model, batch, targets) for place in (first, second)))
        for targets in (grow_boxes(own, 1.0), own)
    )
    return grown, unchanged


def render(grown: Sequence[Difference], own: Sequence[Difference]) -> str:
    """One line for each step, the first with a large difference marked; and the largest difference on own boxes."""
    width = max(len(difference.step) for difference in grown)
    first = next((difference for difference in grown if difference.is_large), None)
    lines = [f"{'step':<{width}}  largest value  largest difference"]
    for difference in grown:
        mark = "  <- here they part" if difference is first else ""
        numbers = f"{difference.largest_value:>13.6g}  {difference.largest_difference:>18.3g}"
        lines.append(f"{difference.step:<{width}}  {numbers}{mark}")
    worst = max((row for row in own if row.step.startswith(SLOPE)), key=lambda row: row.largest_difference)
    lines.append(f"on own boxes, at the kink of the loss: {worst.step} {worst.largest_value:.6g}, "
                 f"difference {worst.largest_difference:.3g}")  # fmt: skip
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Prints the comparison of two machines."""
    first, second, label = [*arguments, *("cpu", "cuda", TASK)[len(arguments) :]]
    discovery.discover()
    sys.stdout.write(render(*compare_places(Place.read(first), Place.read(second), label)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
