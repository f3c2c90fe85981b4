"""A pool of images without labels, for strategies that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from benchmark.api import Companion, Machine
from benchmark.vision.data.added_files import read_files
from benchmark.vision.data.duplicates import Sources
from benchmark.vision.encoding.encodings import Encodings
from benchmark.vision.task import VisionTask, encoder_pool


class ImagePool(VisionTask[nn.Identity]):
    """Images in files. Strategies can encode them and look at them; there is no model, no label and no test set.

    Args:
        machine: the device, the folders and the number of worker processes.
        paths: the files.

    Raises:
        BadImagesError: names all files that cannot be read.
    """

    batch_size, classes = 1, ()

    def __init__(self, machine: Machine, paths: Sequence[Path]) -> None:
        files = read_files(paths, "turn")
        self.num_pool, self.fingerprint = len(files), files.fingerprint
        self._machine, self._device, self._uses_batch_statistics = machine, machine.device, False
        self._encoder_pool = encoder_pool(files, machine)
        self._encodings = Encodings(self._encoder_pool, self._encoder_pool, files.fingerprint, machine)
        self._sources = Sources(files.scans())

    def _build_network(self, seed: int, companion: Companion | None) -> nn.Identity:
        """Returns a network that does nothing."""
        return nn.Identity().eval()
