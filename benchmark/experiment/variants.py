"""Variants: runs from the same initial set that differ only in their training or their selection.

The seed of a cell draws its initial and its held-out set. It also seeds training and selection, unless the cell is a
variant, whose training or selection has a seed of its own. Variants of different seeds have nothing in common:
training 1 of seed 3 is unrelated to training 1 of seed 4. Imports neither torch nor numpy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, order=True)
class Variant:
    """Which training and which selection of a seed a cell is; number 0 depends on the seed alone.

    Attributes:
        training: seeds the training of the model and of its companion.
        selection: seeds the random draws of a strategy, and how its ties are broken.
    """

    training: int = 0
    selection: int = 0

    @property
    def non_defaults(self) -> dict[str, int]:
        """The numbers that are not 0. The ordinary variant has none: its keys and manifests stay as they were."""
        return {name: number for name, number in asdict(self).items() if number}

    @property
    def description(self) -> str:
        """The text after the seed's number: `, training 1, selection 2`."""
        return "".join(f", {name} {number}" for name, number in self.non_defaults.items())

    @property
    def file_suffix(self) -> str:
        """The text after the seed's number in file names: `-training-1-selection-2`."""
        return "".join(f"-{name}-{number}" for name, number in self.non_defaults.items())

    @property
    def training_seed_names(self) -> list[str]:
        """The names that are appended where a seed of the training is derived."""
        return [f"training {self.training}"] * bool(self.training)

    @property
    def selection_seed_names(self) -> list[str]:
        """The names that are appended where a seed of the selection is derived."""
        return [f"selection {self.selection}"] * bool(self.selection)


ORDINARY = Variant()
# the staggered nested design of `analysis.variance`
STAGGERED = (ORDINARY, Variant(selection=1), Variant(training=1, selection=2))
