"""What a strategy sees of a round.

Shapes: N images, P predictions, C classes, D features. `Indices` are positions in the pool.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from benchmark.contract.capabilities import (
    ClassifiesFeatures,
    ComputesLosses,
    DescribesBoxes,
    Differentiates,
    Embeds,
    Encodes,
    GivesPseudoLabels,
    Predicts,
    PredictsAugmented,
    PredictsPerturbed,
    Proposes,
    RunsCompanion,
    Samples,
    ShowsImages,
    ShowsLabels,
    ShowsWeights,
)
from benchmark.contract.data import Augmentation, Direction, Encoding, EncodingTime, Indices, Predictions, Targets
from benchmark.contract.lookup import find_strategy
from benchmark.contract.tasks import Task
from benchmark.plugins.registry import EncoderName

UNPAID_LABELS = "the labels of unlabelled images are not yours to read: buy them first"


class Reference:
    """A labelled set that a strategy may differentiate through, without seeing its labels."""

    def __init__(self, task: Task, model: nn.Module, indices: Indices, test: bool) -> None:
        self._batch = lambda part: task.losses(model, part, test=test)
        self._parts = [indices[i : i + task.batch_size] for i in range(0, len(indices), task.batch_size)]
        self.num_images = len(indices)

    def losses(self) -> Iterator[Tensor]:
        """Batches of (N,) losses on the true labels, each differentiable in the parameters."""
        return map(self._batch, self._parts)


class View:
    """All that a strategy sees of one round: the model, the two sets and the capabilities it declared.

    `labelled` is in the order of purchase, the `num_initial` random ones first; `unlabelled` ascends.
    Labels of the pool and the test set are out of reach, and asking for one raises.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        labelled: Indices,
        unlabelled: Indices,
        *,
        num_initial: int,
        held_out: Indices,
        needs: Collection[str],
        purchase_sizes: Sequence[int] = (),
        tie_seed: int = 0,
    ) -> None:
        self.model, self.num_initial = model, num_initial
        self.__sizes, self.__tie_seed = purchase_sizes or (num_initial, len(labelled) - num_initial), tie_seed
        self.diagnostics: dict[str, float] = {}
        self.encoding_time = EncodingTime()
        self.__labelled, self.__unlabelled = labelled.copy(), unlabelled.copy()
        self.__task, self.__held_out, self.__needs = task, held_out, frozenset(needs)
        self.__visible = frozenset(labelled.tolist()) | frozenset(unlabelled.tolist())
        self.__tie_rank_N: Indices | None = None  # drawn where it is wanted

    @property
    def labelled(self) -> Indices:
        """A copy of the labelled positions, in the order of purchase."""
        return self.__labelled.copy()

    @property
    def unlabelled(self) -> Indices:
        """A copy of the positions that may be bought, ascending."""
        return self.__unlabelled.copy()

    @property
    def purchases(self) -> list[Indices]:
        """`labelled` round by round, the initial ones first."""
        return np.split(self.labelled, np.cumsum(self.__sizes)[:-1])

    # --- what a strategy returns -------------------------------------------------------------
    def lowest(self, values_N: Tensor, budget: int) -> Indices:
        """The `budget` unlabelled images with the smallest values (one each, in the order of `unlabelled`).

        Ties go by `tie_ranks`. Raises ValueError on NaN or on a wrong number of values.
        """
        values = values_N.detach().cpu().double().numpy()
        if values.shape != self.__unlabelled.shape:
            raise ValueError(f"{values.shape} scores for {len(self.__unlabelled)} unlabelled images")
        if num_nan := int(np.isnan(values).sum()):
            raise ValueError(f"{num_nan} of {len(values)} scores are NaN")
        chosen: Indices = self.__unlabelled[np.lexsort((self.tie_ranks(self.__unlabelled), values))[:budget]]
        return chosen

    def highest(self, values_N: Tensor, budget: int) -> Indices:
        """The `budget` unlabelled images with the largest values; see `lowest`."""
        return self.lowest(-values_N, budget)

    def tie_ranks(self, indices: Indices) -> Indices:
        """(N,): the ranks of images of the pool in a random order, the same throughout a round: of images that a
        strategy finds equal, the one of the lowest rank comes first, so that the order of the pool decides nothing."""
        if self.__tie_rank_N is None:
            num = 1 + max(self.__visible, default=-1)
            self.__tie_rank_N = np.random.default_rng(self.__tie_seed).permutation(num)
        return self.__tie_rank_N[indices]

    def log(self, **values: float) -> None:
        """Puts numbers that explain the selection into the record of the round."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"the diagnostic {name} is {value}: something diverged")
            self.diagnostics[name] = float(value)

    # --- capabilities of the task, the model bound: see `capabilities` -------------------------
    def predict(self, indices: Indices) -> Predictions:
        """Class probabilities (and boxes) of the model in eval mode, without augmentation."""
        task: Predicts = self.__task_for("predict")
        return task.predict(self.model, self.__seen(indices))

    def sample(self, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """`num_samples` predictions of a stochastic model: dropout on, batch normalisation in eval mode."""
        task: Samples = self.__task_for("sample")
        return task.sample(self.model, self.__seen(indices), num_samples, seed)

    def perturbed(self, indices: Indices, sigma: float, seed: int) -> Predictions:
        """`predict` on images with Gaussian noise of deviation `sigma` on every pixel value (0..255, not clipped)."""
        task: PredictsPerturbed = self.__task_for("perturbed")
        return task.perturbed(self.model, self.__seen(indices), sigma, seed)

    def proposals(self, indices: Indices) -> Predictions:
        """`predict` of a two-stage detector, with the proposal behind each box in `proposals_P4`."""
        task: Proposes = self.__task_for("proposals")
        return task.proposals(self.model, self.__seen(indices))

    def embed(self, indices: Indices) -> Tensor:
        """(N, D) float32: the input of the last layer, averaged over places. Not to be changed in place."""
        task: Embeds = self.__task_for("embed")
        return task.embed(self.model, self.__seen(indices))

    def classify(self, features_ND: Tensor) -> Tensor:
        """(N, C): the logits that a classifier's last layer gives for inputs of it, see `embed`; differentiable."""
        task: ClassifiesFeatures = self.__task_for("classify")
        return task.classify(self.model, features_ND)

    def images(self, indices: Indices, size: tuple[int, int]) -> Tensor:
        """(N, 3, *size) uint8: the images themselves, squashed to height and width `size`."""
        task: ShowsImages = self.__task_for("images")
        return task.images(self.model, self.__seen(indices), size)

    def encode(self, indices: Indices, encoder: EncoderName) -> Iterator[Encoding]:
        """The encodings of these images by a frozen encoder, in order, some images at a time."""
        task: Encodes = self.__task_for("encode")
        for part in task.encode(self.model, self.__seen(indices), encoder):
            self.encoding_time.seconds += part.seconds
            self.encoding_time.seconds_now += part.seconds_now
            yield part

    def labels(self, indices: Indices) -> Targets:
        """The true labels of labelled images: (N,) classes of a classifier, a list of `Boxes` of a detector, (N, h, w)
        classes of a segmenter."""
        if not np.isin(indices, self.__labelled).all():
            raise PermissionError(UNPAID_LABELS)
        task: ShowsLabels = self.__task_for("labels")
        return task.labels(self.model, self.__seen(indices))

    def augmented(self, indices: Indices, how: Augmentation, seed: int) -> Predictions:
        """`predict` of a detector on changed images, its boxes in pixels of the images as they were: mirrored (`flip`),
        with two patches cut out (`cutout`), at 0.8 of their size (`shrink`), turned by five degrees (`rotate`)."""
        task: PredictsAugmented = self.__task_for("augmented")
        return task.augmented(self.model, self.__seen(indices), how, seed)

    def box_features(self, indices: Indices) -> Tensor:
        """(P, D): for each box of `predict`, what a detector's classification layer saw where it found it."""
        task: DescribesBoxes = self.__task_for("box_features")
        return task.box_features(self.model, self.__seen(indices))

    def companion(self, indices: Indices) -> Tensor:
        """(N,): the output of the strategy's own companion (its class is declared in `register`)."""
        task: RunsCompanion = self.__task_for("companion")
        return task.companion(self.model, self.__seen(indices))

    def weights(self) -> dict[str, nn.Parameter]:
        """The parameters that influence is computed over, by name."""
        task: ShowsWeights = self.__task_for("weights")
        return task.weights(self.model)

    def pseudo_labels(self, indices: Indices, k: int, min_score: float) -> Targets:
        """Targets built from the model's own predictions. A classifier's: its best guess for k = 1, the k likeliest
        weighted by their probability, not renormalised, for k > 1. A detector's: the boxes it finds with a
        confidence of at least `min_score`."""
        task: GivesPseudoLabels = self.__task_for("pseudo_labels")
        return task.pseudo_labels(self.model, self.__seen(indices), k, min_score)

    def losses(self, indices: Indices, targets: Targets | None = None) -> Tensor:
        """(N,) losses, differentiable in `weights()`; true labels, of labelled images only, by default."""
        if targets is None and not np.isin(indices, self.__labelled).all():
            raise PermissionError(UNPAID_LABELS)
        task: ComputesLosses = self.__task_for("losses")
        return task.losses(self.model, self.__seen(indices), targets)

    def directional(self, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """(N,): the derivative of each image's loss along `direction` in weight space."""
        task: Differentiates = self.__task_for("directional")
        return task.directional(self.model, self.__seen(indices), targets, direction)

    def choice_of(self, label: str, budget: int, rng: np.random.Generator) -> Indices:
        """What another strategy would choose here: `isal[k=2]`. Its needs (`strategy` tells them) must be declared."""
        plugin, values = find_strategy(label)
        for need in plugin.resolve_needs(values):
            self.__task_for(need)
        chosen: Indices = plugin.function(self, budget, rng, **values)
        return chosen

    def reference(self, which: str) -> Reference:
        """A labelled set to differentiate through: `labelled`, `initial`, `held_out` or `test`.

        The last two must be declared (needs "held_out", "test_labels"): the first is charged for,
        the second marks every row of every table with a dagger.
        """
        if which == "test":
            self.__task_for("test_labels")
            return Reference(self.__task, self.model, np.arange(self.__task.num_test()), test=True)
        if which == "held_out":
            self.__task_for("held_out")
        parts = {
            "held_out": self.__held_out,
            "initial": self.__labelled[: self.num_initial],
            "labelled": self.__labelled,
        }
        if which not in parts:
            raise ValueError(f"reference={which}: use {', '.join(sorted([*parts, 'test']))}")
        return Reference(self.__task, self.model, parts[which], test=False)

    def __task_for(self, need: str) -> Any:
        """The task, where the strategy declared the need."""
        if need not in self.__needs:
            raise PermissionError(f"this strategy did not declare the need {need!r}: @register(needs={{{need!r}}})")
        return self.__task

    def __seen(self, indices: Indices) -> Indices:
        if not self.__visible.issuperset(np.asarray(indices).tolist()):
            raise PermissionError("an index outside labelled and unlabelled: test or validation images are not yours")
        return np.asarray(indices, dtype=np.int64)
