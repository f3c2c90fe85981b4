"""Batches of a detection task, for tests of detectors."""

from collections.abc import Sequence

import numpy as np

from benchmark.vision.detection.inputs import ResizedBatch
from benchmark.vision.detection.task import Detection


def read_batch(task: Detection, indices: Sequence[int]) -> ResizedBatch:
    """The one batch that holds these pool images."""
    batches = task.pool_reader.map_images(
        np.asarray(indices), lambda batch: [batch] * len(batch.places), in_one_group=True
    )
    assert all(batch is batches[0] for batch in batches)
    return batches[0].resized
