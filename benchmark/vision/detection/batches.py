"""Reads images in batches, as a detector takes them, and puts results back into the order of the request.

On a CPU a batch holds consecutive images of the request. On a GPU, where small batches waste most of the time, images
of one padded size share a batch wherever they lie among a few hundred consecutive ones. A detector's output depends on
the padding, so images of different padded sizes never share a batch.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias, TypeVar

import numpy as np
from torch import Tensor

from benchmark.api import Boxes, Indices, Machine, activity
from benchmark.vision.data.annotations import Images, stored_sizes
from benchmark.vision.data.reading import ViewedImages, Views, read_groups
from benchmark.vision.detection.augmented_views import MapBack
from benchmark.vision.detection.detector import Batch, Detector
from benchmark.vision.detection.inputs import BatchBuilder, ResizedBatch
from benchmark.vision.detection.suppression import Detections
from benchmark.vision.fingerprints import derive_seed

PIXELS_PER_BATCH = {"cpu": 2**20, "cuda": 2**23}  # 256 images of 64x64; on a GPU seven of 800x1333
BATCHES_PER_PART = 128  # among the images of so many batches, those of one size are sought; memory grows with it

Result = TypeVar("Result")


@dataclass(frozen=True)
class ReadBatch:
    """A batch of images that were read.

    Args:
        resized: the batch.
        places: the place of each image in the request.
        view: 0: the images as stored; V: their V-th view.
    """

    resized: ResizedBatch
    places: list[int]
    view: int


Work: TypeAlias = Callable[[ReadBatch], Iterable[Result]]  # gives one result for each image of the batch


class BatchReader:
    """Reads the images of a pool or a test set.

    Args:
        images: the images.
        name: `pool` or `test`; an image's seed depends on it and on the image's position.
        builder: builds the batches.
        machine: the device and the number of worker processes.
    """

    def __init__(self, images: Images, name: str, builder: BatchBuilder, machine: Machine) -> None:
        self.images, self._name, self._builder, self._machine = images, name, builder, machine
        self._num_pixels, self._is_on_gpu = PIXELS_PER_BATCH[machine.device.type], machine.device.type == "cuda"
        height, width = images[0].shape[1:]
        self.batch_size = max(1, self._num_pixels // math.prod(builder.padded_size((height, width))))

    def read_images(self, groups: Sequence[list[int]]) -> Iterator[list[Tensor]]:
        """Yields each group of stored images, read by the machine's worker processes.

        Args:
            groups: positions of the images.
        """
        return read_groups(self.images, groups, self._machine.workers, self._is_on_gpu)

    def image_seeds(self, positions: Sequence[int]) -> list[int]:
        """A seed for each image.

        Args:
            positions: the positions of the images.
        """
        return [derive_seed(position, self._name) for position in positions]

    def map_images(self, indices: Indices, work: Work[Result], *, in_one_group: bool = False) -> list[Result]:
        """Applies `work` to stored images, batch by batch.

        Args:
            indices: (N,) positions of the images.
            work: returns one result for each image of a batch.
            in_one_group: hold all images in memory, instead of `batch_size` at a time.

        Returns:
            One result for each image, in the order of `indices`.
        """
        parts = self.map_views(indices, (), work, in_one_group=in_one_group)
        return [result for [of_stored_images] in parts for result in of_stored_images]

    def map_views(
        self, indices: Indices, views: Views, work: Work[Result], *, in_one_group: bool = False
    ) -> Iterator[list[list[Result]]]:
        """Applies `work` to stored images and to views of them. Each image is read and decoded once.

        Args:
            indices: (N,) positions of the images.
            views: what is made of each image.
            work: as in `map_images`.
            in_one_group: as in `map_images`.

        Returns:
            For consecutive parts of `indices`: the results on the stored images and on each view, in their order.
        """
        positions = np.asarray(indices).tolist()
        parts = [[list(range(len(positions)))]] if in_one_group else self.plan_groups(positions)
        groups = [group for part in parts for group in part]
        items = ViewedImages(self.images, views)
        read = read_groups(
            items, [[positions[place] for place in group] for group in groups], self._machine.workers, self._is_on_gpu
        )
        tracked = activity.track(zip(groups, read, strict=True), "going through images", "batches", len(groups))
        for part in parts:
            results = [dict[int, Result]() for _ in range(1 + len(views))]
            for _, (group, viewed) in zip(part, tracked, strict=False):
                for batch in self._build_batches(positions, group, viewed):
                    results[batch.view] |= zip(batch.places, work(batch), strict=True)
            yield [[of_view[place] for place in sorted(of_view)] for of_view in results]
        next(tracked, None)  # ends the stage on the display

    def plan_groups(self, positions: Sequence[int]) -> list[list[list[int]]]:
        """The images that are read together, as places in the request: groups, in parts of consecutive places.

        Args:
            positions: the requested images.
        """
        size = self.batch_size
        part_length = size * BATCHES_PER_PART
        parts = [
            range(start, min(start + part_length, len(positions))) for start in range(0, len(positions), part_length)
        ]
        sizes_N2 = stored_sizes(self.images) if self._is_on_gpu else None
        if sizes_N2 is None:
            return [[list(part[start : start + size]) for start in range(0, len(part), size)] for part in parts]
        return [self._group_by_size(part, positions, sizes_N2) for part in parts]

    def _group_by_size(self, places: Sequence[int], positions: Sequence[int], sizes_N2: Indices) -> list[list[int]]:
        """Groups the places of images of one padded size, as many as fit into a batch."""
        groups = list[list[int]]()

        def padded(place: int) -> tuple[int, int]:
            width, height = sizes_N2[positions[place]].tolist()
            return self._builder.padded_size((height, width))

        for size, run in groupby(sorted(places, key=padded), key=padded):
            same, limit = list(run), max(1, self._num_pixels // math.prod(size))
            groups += [same[start : start + limit] for start in range(0, len(same), limit)]
        return groups

    def _build_batches(
        self, positions: Sequence[int], group: list[int], viewed: list[list[Tensor]]
    ) -> Iterator[ReadBatch]:
        """Yields the batches of one group. Each image is padded as if it were alone."""
        for view, images in enumerate(zip(*viewed, strict=True)):
            for run in self._builder.split_by_size(images, self._num_pixels):
                seeds = self.image_seeds([positions[place] for place in group[run]])
                yield ReadBatch(self._builder(images[run], seeds), group[run], view)


def with_targets(
    function: Callable[[Batch, Sequence[Boxes]], Tensor], boxes: Sequence[Boxes]
) -> Callable[[ReadBatch], Tensor]:
    """Makes a function of a batch and its boxes one of a batch that was read. `boxes` are those of all images, in
    pixels of the stored images."""

    def work(batch: ReadBatch) -> Tensor:
        targets = batch.resized.to_batch_pixels([boxes[place] for place in batch.places])
        return function(batch.resized.batch, targets)

    return work


def detect_in_images(
    detector: Detector, undo: Sequence[MapBack | None] = (None,)
) -> Callable[[ReadBatch], Iterator[Detections]]:
    """A function that gives the detections on each image of a batch, in pixels of the stored images; `undo` maps those
    on each view to the stored image."""

    def work(batch: ReadBatch) -> Iterator[Detections]:
        resized, back = batch.resized, undo[batch.view]
        maps = detector.feature_maps(resized.batch.images_N3HW)
        for number, in_batch in enumerate(detector.detect(maps, resized.batch)):
            in_image = resized.to_image_pixels(number, in_batch)
            yield in_image if back is None else back(in_image, resized.image_size(number))

    return work
