"""What a strategy sees of a round. It refuses what the strategy has not declared, and labels that are not paid for.

Shapes: N images, P predictions, C classes, D features. `Indices` are positions in the pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
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
from benchmark.contract.tasks import KeepsImagesOnDevice, Task
from benchmark.plugins.registry import EncoderName

UNPAID_LABELS = "a strategy must not read labels of unlabelled images: they are not paid for"


class Reference:
    """A labelled set that a strategy may differentiate through without seeing its labels.

    Args:
        task: the task that computes the losses.
        model: the model of the round.
        indices: positions of the labelled images in the pool, or in the test set.
        test: whether the images are of the test set.
    """

    def __init__(self, task: Task, model: nn.Module, indices: Indices, test: bool) -> None:
        self._batch = lambda part: task.losses(model, part, test=test)
        self._parts = [indices[i : i + task.batch_size] for i in range(0, len(indices), task.batch_size)]
        self.num_images = len(indices)

    def losses(self) -> Iterator[Tensor]:
        """Yields batches of (N,) losses on the true labels, each differentiable in the parameters."""
        return map(self._batch, self._parts)


class View:
    """What a strategy sees of one round: the model, the labelled and unlabelled sets, and the capabilities it declared.

    The true labels of unlabelled images and of the test set cannot be read: a method that would reveal one raises
    PermissionError. Strategies use `model`, `num_initial` and the methods below; the harness builds the View.

    Args:
        task: the task whose capabilities the view passes on.
        model: the model of the round, in eval mode.
        labelled: positions of the labelled images, in the order of purchase; the initial random ones come first.
        unlabelled: positions of the images that may be selected, ascending.
        num_initial: number of initial random images.
        held_out: positions of the labelled images that are set aside and not trained on.
        needs: the capabilities and labels that the strategy declared.
        purchase_sizes: number of images bought in each round; by default the initial set, and all later ones together.
        tie_seed: seed of the random order that breaks ties.
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
        self.__purchase_sizes, self.__tie_seed = purchase_sizes or (num_initial, len(labelled) - num_initial), tie_seed
        self.diagnostics, self.encoding_time = dict[str, float](), EncodingTime()
        self.scores = dict[int, float]()  # of the images that `lowest` or `highest` returned last; descending
        self.__labelled, self.__unlabelled = labelled.copy(), unlabelled.copy()
        self.__task, self.__held_out, self.__needs = task, held_out, frozenset(needs)
        self.__visible = frozenset(labelled.tolist()) | frozenset(unlabelled.tolist())
        self.__tie_rank_N: Indices | None = None  # drawn on first use

    @property
    def labelled(self) -> Indices:
        """A copy of the labelled positions, in the order of purchase."""
        return self.__labelled.copy()

    @property
    def unlabelled(self) -> Indices:
        """A copy of the positions that may be selected, ascending."""
        return self.__unlabelled.copy()

    @property
    def purchases(self) -> list[Indices]:
        """The labelled positions round by round, the initial set first."""
        return np.split(self.labelled, np.cumsum(self.__purchase_sizes)[:-1])

    # --- what a strategy returns -------------------------------------------------------------
    def lowest(self, values_N: Tensor, budget: int) -> Indices:
        """Returns the unlabelled images with the smallest values; ties are broken by `tie_ranks`.

        Args:
            values_N: (N,) one value for each unlabelled image, in the order of `unlabelled`.
            budget: number of images to return.

        Raises:
            ValueError: values are NaN, or their number is wrong.
        """
        values = values_N.detach().cpu().double().numpy()
        if values.shape != self.__unlabelled.shape:
            raise ValueError(f"scores of shape {values.shape} for {len(self.__unlabelled)} images, not one each")
        if num_nan := int(np.isnan(values).sum()):
            raise ValueError(f"{num_nan} of {len(values)} scores are NaN")
        order = np.lexsort((self.tie_ranks(self.__unlabelled), values))[:budget]
        lowest: Indices = self.__unlabelled[order]
        self.scores = dict(zip(lowest.tolist(), (0.0 - values[order]).tolist(), strict=True))
        return lowest

    def highest(self, values_N: Tensor, budget: int) -> Indices:
        """Returns the unlabelled images with the largest values; see `lowest`.

        Args:
            values_N: (N,) one value for each unlabelled image, in the order of `unlabelled`.
            budget: number of images to return.
        """
        return self.lowest(-values_N, budget)

    def tie_ranks(self, indices: Indices) -> Indices:
        """Returns ranks of images in a random order that is the same throughout a round, (N,).

        Among images that a strategy finds equal, the one with the lowest rank comes first, so that the order of the
        pool decides nothing.

        Args:
            indices: (N,) positions in the pool.
        """
        if self.__tie_rank_N is None:
            num = 1 + max(self.__visible, default=-1)
            self.__tie_rank_N = np.random.default_rng(self.__tie_seed).permutation(num)
        return self.__tie_rank_N[indices]

    def log(self, **values: float) -> None:
        """Adds numbers that explain the selection to the record of the round.

        Args:
            values: finite numbers by name.

        Raises:
            ValueError: a number is NaN or infinite.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"view.log({name}={value}): must be a finite number")
            self.diagnostics[name] = float(value)

    # --- capabilities of the task, with the model bound: see `capabilities` --------------------
    def predict(self, indices: Indices) -> Predictions:
        """Predicts class probabilities (and boxes) in eval mode, without augmentation.

        Args:
            indices: (N,) positions in the pool.
        """
        task: Predicts = self.__task_for("predict")
        return task.predict(self.model, self.__check_visible(indices))

    def sample(self, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """Predicts several times with dropout left on and batch normalisation in eval mode.

        Args:
            indices: (N,) positions in the pool.
            num_samples: number of predictions for each image.
            seed: seed of the dropout masks.
        """
        task: Samples = self.__task_for("sample")
        return task.sample(self.model, self.__check_visible(indices), num_samples, seed)

    def perturbed(self, indices: Indices, sigmas: Sequence[float], seeds: Sequence[int]) -> Iterator[list[Predictions]]:
        """Yields, for consecutive parts of the images, what `predict` returns: without noise, and at each level of
        Gaussian noise.

        Args:
            indices: (N,) positions in the pool.
            sigmas: standard deviations of the noise on every pixel value (0 to 255, not clipped).
            seeds: seed of the noise of each level.
        """
        task: PredictsPerturbed = self.__task_for("perturbed")
        return task.perturbed(self.model, self.__check_visible(indices), sigmas, seeds)

    def proposals(self, indices: Indices) -> Predictions:
        """Predicts boxes together with the proposal behind each box, `proposals_P4`; for two-stage detectors.

        Args:
            indices: (N,) positions in the pool.
        """
        task: Proposes = self.__task_for("proposals")
        return task.proposals(self.model, self.__check_visible(indices))

    def embed(self, indices: Indices) -> Tensor:
        """Returns the input of the last layer, averaged over locations: (N, D) float32, not to be changed in place.

        Args:
            indices: (N,) positions in the pool.
        """
        task: Embeds = self.__task_for("embed")
        return task.embed(self.model, self.__check_visible(indices))

    def classify(self, features_ND: Tensor) -> Tensor:
        """Applies the classifier's last layer to features; returns (N, C) logits, differentiable in the features.

        Args:
            features_ND: (N, D) features, like those that `embed` returns.
        """
        task: ClassifiesFeatures = self.__task_for("classify")
        return task.classify(self.model, features_ND)

    def images(self, indices: Indices, size: tuple[int, int]) -> Tensor:
        """Returns the images themselves, resized without keeping their aspect ratio: (N, 3, *size) uint8.

        Args:
            indices: (N,) positions in the pool.
            size: height and width in pixels.
        """
        task: ShowsImages = self.__task_for("images")
        return task.images(self.model, self.__check_visible(indices), size)

    def encode(self, indices: Indices, encoder: EncoderName) -> Iterator[Encoding]:
        """Yields the encodings of images by a frozen encoder, in order, several images at a time.

        Args:
            indices: (N,) positions in the pool.
            encoder: the encoder with its parameters: `dino`, `patch_pca[patch=4]`.
        """
        task: Encodes = self.__task_for("encode")
        for part in task.encode(self.model, self.__check_visible(indices), encoder):
            self.encoding_time.seconds += part.seconds
            self.encoding_time.seconds_now += part.seconds_now
            yield part

    def labels(self, indices: Indices) -> Targets:
        """Returns the true labels of labelled images.

        Of a classifier (N,) classes; of a detector a list of `Boxes`; of a segmenter (N, h, w) classes; of a pose
        estimator a list of `Boxes` with keypoints.

        Args:
            indices: (N,) positions of labelled images.
        """
        if not np.isin(indices, self.__labelled).all():
            raise PermissionError(UNPAID_LABELS)
        task: ShowsLabels = self.__task_for("labels")
        return task.labels(self.model, self.__check_visible(indices))

    def augmented(
        self, indices: Indices, hows: Sequence[Augmentation], seeds: Sequence[int]
    ) -> Iterator[list[Predictions]]:
        """Yields, for consecutive parts of the images, what `predict` returns: on the original images, and on each
        augmentation of them, with the boxes mapped back to the original images.

        Args:
            indices: (N,) positions in the pool.
            hows: the augmentations. `flip` mirrors the image, `cutout` cuts out two patches, `shrink` reduces it to 0.8
                of its size, `rotate` turns it by five degrees.
            seeds: seed of what is random in each augmentation.
        """
        task: PredictsAugmented = self.__task_for("augmented")
        return task.augmented(self.model, self.__check_visible(indices), hows, seeds)

    def box_features(self, indices: Indices) -> Tensor:
        """Returns the input of a detector's classification layer for each box of `predict`, (P, D).

        Args:
            indices: (N,) positions in the pool.
        """
        task: DescribesBoxes = self.__task_for("box_features")
        return task.box_features(self.model, self.__check_visible(indices))

    def companion(self, indices: Indices) -> Tensor:
        """Returns the output of the strategy's own companion, (N,); `register` declares it.

        Args:
            indices: (N,) positions in the pool.
        """
        task: RunsCompanion = self.__task_for("companion")
        return task.companion(self.model, self.__check_visible(indices))

    def weights(self) -> dict[str, nn.Parameter]:
        """Returns the parameters that influence is computed over, by name."""
        task: ShowsWeights = self.__task_for("weights")
        return task.weights(self.model)

    def pseudo_labels(self, indices: Indices, k: int, min_score: float) -> Targets:
        """Returns labels from the model's own predictions, as targets for `losses` and `directional`.

        Args:
            indices: (N,) positions in the pool.
            k: the number of classes in a label. 1 gives the most likely class; more, for classifiers only, the k most
                likely ones, weighted by their probabilities, which are not renormalised.
            min_score: the smallest confidence (0 to 1) of a detector's boxes that become labels.
        """
        task: GivesPseudoLabels = self.__task_for("pseudo_labels")
        return task.pseudo_labels(self.model, self.__check_visible(indices), k, min_score)

    def losses(self, indices: Indices, targets: Targets | None = None) -> Tensor:
        """Returns (N,) losses, differentiable in `weights()`.

        Args:
            indices: (N,) positions in the pool.
            targets: the labels that losses are computed against; None for the true labels, of labelled images only.
        """
        if targets is None and not np.isin(indices, self.__labelled).all():
            raise PermissionError(UNPAID_LABELS)
        task: ComputesLosses = self.__task_for("losses")
        return task.losses(self.model, self.__check_visible(indices), targets)

    def row_losses(self, indices: Indices) -> Callable[[Tensor], Tensor] | None:
        """Returns a function for use in a `CapturedFunction` (need: `losses`); None where images are read from files.

        It takes (N,) rows of `indices`, int64 on the device, and returns (N,) losses of these labelled images on true
        labels, differentiable in `weights()`. It never waits for the device.

        Args:
            indices: positions of labelled images in the pool.
        """
        if not np.isin(indices, self.__labelled).all():
            raise PermissionError(UNPAID_LABELS)
        task = self.__task_for("losses")
        return task.row_losses(self.model, indices) if isinstance(task, KeepsImagesOnDevice) else None

    def directional(self, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """Returns the derivative of each image's loss along a direction in weight space, (N,).

        Args:
            indices: (N,) positions in the pool.
            targets: the labels that losses are computed against.
            direction: one tensor for each parameter of `weights()`, by its name.
        """
        task: Differentiates = self.__task_for("directional")
        return task.directional(self.model, self.__check_visible(indices), targets, direction)

    def choice_of(self, label: str, budget: int, rng: np.random.Generator) -> Indices:
        """Returns what another strategy would select here; this strategy must declare the other's needs too.

        Args:
            label: the other strategy with its parameters, `isal[k=2]`; see `find_strategy`.
            budget: number of images to select.
            rng: the generator that it draws from.
        """
        plugin, values = find_strategy(label)
        for need in plugin.resolve_needs(values):
            self.__task_for(need)
        selection: Indices = plugin.function(self, budget, rng, **values)
        return selection

    def reference(self, which: str) -> Reference:
        """Returns a labelled set to differentiate through.

        Args:
            which: `labelled`, `initial`, `held_out` or `test`. The last two must be declared as needs, "held_out" and
                "test_labels". The strategy pays for held-out labels; reading test labels marks its rows in every table
                with a dagger.

        Raises:
            ValueError: there is no such set.
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
            raise ValueError(f"reference={which}: must be one of {', '.join(sorted([*parts, 'test']))}")
        return Reference(self.__task, self.model, parts[which], test=False)

    def __task_for(self, need: str) -> Any:
        """Returns the task, if the strategy declared the need."""
        if need not in self.__needs:
            raise PermissionError(
                f"this strategy did not declare the need {need!r}: write @register(needs={{{need!r}}})"
            )
        return self.__task

    def __check_visible(self, indices: Indices) -> Indices:
        if not self.__visible.issuperset(np.asarray(indices).tolist()):
            raise PermissionError(
                "an index is neither in `labelled` nor in `unlabelled`: validation images cannot be read"
            )
        return np.asarray(indices, dtype=np.int64)
