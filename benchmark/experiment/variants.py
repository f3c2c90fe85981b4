"""Runs from one initial set that differ in their training or their selection alone.

The seed of a cell draws its initial and its held-out set, and, where nothing else is said, names all else that is
random: training and selection. A variant gives these two other random numbers, within that seed: training 1 of seed 3
has nothing to do with training 1 of seed 4, which starts from other images. Imports neither torch nor numpy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, order=True)
class Variant:
    """Which training and which selection of a seed; the zeros are those that the seed alone names.

    Attributes:
        training: decides what trainings draw, of the model and of what is trained beside it.
        selection: decides what a strategy draws, and how its ties are broken.
    """

    training: int = 0
    selection: int = 0

    @property
    def non_defaults(self) -> dict[str, int]:
        """What is not 0: nothing of the ordinary one, so that its keys, headers and manifests stay what they were."""
        return {name: number for name, number in asdict(self).items() if number}

    @property
    def description(self) -> str:
        """Behind the seed's number: `, training 1, selection 2`."""
        return "".join(f", {name} {number}" for name, number in self.non_defaults.items())

    @property
    def file_suffix(self) -> str:
        """Behind the seed's number in the name of a file: `-training-1-selection-2`."""
        return "".join(f"-{name}-{number}" for name, number in self.non_defaults.items())

    @property
    def training_seed_names(self) -> list[str]:
        """What the names of a training's seed end in."""
        return [f"training {self.training}"] * bool(self.training)

    @property
    def selection_seed_names(self) -> list[str]:
        """What the names of a selection's seed end in."""
        return [f"selection {self.selection}"] * bool(self.selection)


ORDINARY = Variant()
STAGGERED = (ORDINARY, Variant(selection=1), Variant(training=1, selection=2))  # see `analysis.variance`
