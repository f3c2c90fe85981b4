"""What `pick` returns: images in the order in which they should be labelled, with scores and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.text.frames import build_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PredictedObject:
    """What the model predicts on a picked image: a class, with a box where it is a detector.

    Args:
        label: the name of the class.
        confidence: its probability.
        corners: x1, y1, x2, y2 of the box in pixels; None for the class of a whole image.
    """

    label: str
    confidence: float
    corners: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Pick:
    """One image to label.

    Args:
        rank: 1 for the image that the strategy wants most.
        path: its file, as found in `unlabelled`.
        name: its path inside the folder of `unlabelled`.
        score: the strategy's value, greater for more wanted images; None where the strategy gives none.
        size: width and height in pixels.
        predictions: what the model predicts; none without a model.
    """

    rank: int
    path: Path
    name: str
    score: float | None
    size: tuple[int, int]
    predictions: Sequence[PredictedObject] = ()


@dataclass(frozen=True)
class Picks:
    """The next images to label.

    Args:
        strategy: the strategy that chose them.
        picks: the images, the most wanted first.
        classes: the names of the task's classes; empty without a task.
        num_labelled: the number of labelled images.
        num_unlabelled: the number of images that could be chosen.
        seconds: seconds of training (`fit`, 0 where an earlier call trained the model), selection (`select`), and of
            the encodings that it uses (`encode`, whenever they were computed).
        remarks: sentences on what was left out.
    """

    strategy: str
    picks: Sequence[Pick]
    classes: Sequence[str]
    num_labelled: int
    num_unlabelled: int
    seconds: dict[str, float] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    def __len__(self) -> int:
        """Number of picked images."""
        return len(self.picks)

    @property
    def paths(self) -> list[Path]:
        """The files, the most wanted first."""
        return [pick.path for pick in self.picks]

    def frame(self) -> pd.DataFrame:
        """Returns a row for each image: rank, path, score."""
        rows = ({"rank": pick.rank, "path": str(pick.path), "score": pick.score} for pick in self.picks)
        return build_frame(rows, ["rank", "path", "score"])
