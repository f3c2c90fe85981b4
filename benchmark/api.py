"""The contract between the harness and its plug-ins: all that a strategy or a task imports.

Shapes: N images, P predictions, C classes, D features. `Indices` are positions in the pool.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmark.plugins import registry
from benchmark.plugins.places import inside
from benchmark.plugins.registry import EncoderName, Plugin, StrategyName, add
from benchmark.system import activity, tensor_files
from benchmark.system.process_state import seeded
from benchmark.system.working_time import working_seconds
from benchmark.text import quoted

Indices: TypeAlias = npt.NDArray[np.int64]
Targets: TypeAlias = (
    Any  # what losses are computed against: (N,) or (N, C) for a classifier, list[Boxes] or (N, h, w) for the others
)
How: TypeAlias = Literal["sum", "mean", "max"]  # from an image's predictions to one number
Augmentation: TypeAlias = Literal["flip", "cutout", "shrink", "rotate"]  # a detector's views of an image, see View
Direction: TypeAlias = dict[str, Tensor]  # a tangent of the weights, by parameter name


WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")  # endings of files of weights
UNPAID = "the labels of unlabelled images are not yours to read: buy them first"


@dataclass(frozen=True)
class Machine:
    """Where a task runs; nothing here may change a number on the same device."""

    device: torch.device
    data: Path | None = None  # folder of the data sets, for tasks that read files
    scratch: Path | None = None  # folder for checkpoints of fits in work; None: keep none
    workers: int = 0  # processes that read images, for tasks whose images do not fit in memory
    select_timeout: float | None = None  # seconds that a strategy may take for one choice

    def located(self, path: str) -> Path:
        """A path that the user gave: absolute, or inside the data folder. ValueError where there is none."""
        return inside(path, self.data)


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image: its labels, or pseudo labels."""

    corners_M4: Tensor  # x1, y1, x2, y2 in pixels of the stored image
    labels_M: Tensor  # classes 0..C-1

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.labels_M)


@dataclass(frozen=True)
class Annotations:
    """What a pool is labelled with, for pictures of a run that is through. No View hands it out."""

    classes: Sequence[str]
    image_L: Indices  # the image of each label
    class_L: Indices  # its class, 0..C-1
    side_L: npt.NDArray[np.float32] | None = None  # the root of each box's area in pixels; None: labels of images


@dataclass(frozen=True)
class Predictions:
    """P predictions on N images: one an image for a classifier, any number for a detector, one a place for a
    segmenter.

    Rows of `scores_PC` sum to one. For a detector the last column is background: what a sigmoid head leaves over.
    """

    scores_PC: Tensor  # class probabilities
    image_P: Tensor  # the image (0..N-1) of each prediction
    num_images: int
    boxes_P4: Tensor | None = None  # x1, y1, x2, y2 in pixels of the stored image
    proposals_P4: Tensor | None = None  # the proposal that each box was refined from (two-stage detectors)
    paper_score_P: Tensor | None = None  # of each box, as the detector's paper has it, where `scores_PC` are another's

    @property
    def confidence_P(self) -> Tensor:
        """(P,): the probability of the likeliest class; background is none."""
        return (self.scores_PC if self.boxes_P4 is None else self.scores_PC[:, :-1]).amax(1)

    @property
    def score_P(self) -> Tensor:
        """(P,): what the detector's paper ranks boxes by: FCOS's class probability times centerness, of which its
        library may take a root. The confidence of all others."""
        return self.confidence_P if self.paper_score_P is None else self.paper_score_P

    @property
    def one_each(self) -> bool:
        """Whether there is one prediction an image, in the order of the images: a classifier's."""
        return self.boxes_P4 is None and len(self.scores_PC) == self.num_images

    def per_image(self, values_P: Tensor, how: How = "mean") -> Tensor:
        """(N,): one value an image; 0 for an image without predictions, so let 0 mean what such an image deserves."""
        if self.one_each:
            return values_P
        reduce = {"sum": "sum", "mean": "mean", "max": "amax"}[how]
        out_N = values_P.new_zeros(self.num_images)
        return out_N.scatter_reduce(0, self.image_P, values_P, reduce, include_self=False)


@dataclass(frozen=True)
class Encoding:
    """What a frozen encoder tells of N images: T patches of D features each, by rows of the image, and the whole."""

    patches_NTD: Tensor
    attention_NT: Tensor  # how much each patch matters; rows sum to one
    global_NE: Tensor  # E features of the image
    seconds: float = 0.0  # that making it took, whenever that was
    now: float = 0.0  # seconds that went into making encodings when it was asked for; a task that tells none of what
    # it makes has them counted in the selection too

    def __len__(self) -> int:
        """Number of images."""
        return len(self.global_NE)


class Pool(Protocol):
    """The images of a pool, without their labels: what an encoder may be trained on."""

    @property
    def num_images(self) -> int:
        """Number of images."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first image: of all of them, where they are of one size."""

    def images(self, indices: Indices, size: tuple[int, int]) -> Tensor:
        """(N, 3, *size) uint8 on the machine's device, squashed to `size` where they are of another (bilinear)."""


class Encoder(Protocol):
    """A frozen network, or anything else that maps images to features. Equal images give equal features.

    One that keeps its weights may have `seconds`: what their training took.
    """

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that it wants its images in."""

    def __call__(self, images_N3HW: Tensor) -> Encoding:
        """The encoding of uint8 images of its size."""


class Companion(Protocol):
    """What a strategy trains beside the model. A frozen dataclass: its repr is part of the fit's identity."""

    @property
    def detach_after(self) -> float:
        """Share of training after which the companion's gradient stops reaching the model (0 = never does)."""

    def module(self, channels: Sequence[int]) -> nn.Module:
        """A fresh module that maps the model's stage maps, (N, channels[i], H_i, W_i) each, to (N,)."""

    def loss(self, output_N: Tensor, losses_N: Tensor) -> Tensor:
        """The scalar added to the training loss; `losses_N`, the model's losses, carry no gradient."""


class Task(Protocol):
    """A pool, a training recipe, a metric and a cost. Equal arguments give equal results.

    Its other methods are capabilities, each optional: a task states one by having the method.
    View documents them; a task's take `model` first. A task that reads files may be `FromFiles` too.
    """

    num_pool: int
    batch_size: int  # images a call of `losses` takes comfortably
    metric: str  # the score that tables read: "accuracy", "map", "ap", "miou"
    fingerprint: str  # a hash of the data: equal fingerprints, equal images and labels

    def model(self, companion: Companion | None = None) -> nn.Module:
        """An untrained model with the companion attached, ready to load a fit's weights."""

    def fit(self, labelled: Indices, seed: int, companion: Companion | None = None) -> nn.Module:
        """A model trained from scratch on the set `labelled` (its order must not matter), in eval mode."""

    def score(self, model: nn.Module) -> dict[str, float]:
        """Scores on the test set, `metric` among them. Loop only.

        A task that has classes tells `num_predicted_classes` and `num_test_classes` too: how many the model predicts on
        the test set, and how many there are. By these the audit names a model that predicts one class, or no box.
        """

    def cost(self, indices: Indices) -> dict[str, float]:
        """What the labels of these images cost: "images", and "boxes" for a detector. Loop only."""

    def num_test(self) -> int:
        """Number of test images."""

    def losses(
        self, model: nn.Module, indices: Indices, targets: Targets | None = None, *, test: bool = False
    ) -> Tensor:
        """(N,) losses, differentiable in the task's `weights`; true labels where `targets` is None."""

    def scrambled(self, paid: Indices, seed: int, *, test: bool = True) -> Task:
        """The same task with every label but those of `paid` drawn at random, the test set's too with `test`.

        For the leak test.
        """


@runtime_checkable
class Batched(Protocol):
    """A task that tells in what batches it trains: its audit need not guess."""

    def smallest_batch(self, num_images: int) -> int | None:
        """Images in the smallest batch of a fit on `num_images`; None where no layer takes statistics of its batch."""


@runtime_checkable
class FromFiles(Protocol):
    """What a task may have beside its capabilities, where its images are from files. No View hands it out."""

    def source_files(self) -> dict[str, list[tuple[str, str]]]:
        """What the images are, for messages and reports.

        Returns:
            For "pool" and "test", in the order of positions, each image's file and a hash of its pixels as they are
            read; the file is named by its path inside the data set's folder, with `/`. Empty where the images are in
            no files.
        """

    def data_remarks(self) -> list[str]:
        """What is odd about the images, in sentences: those that are there twice. "FAULT: " begins what makes results
        wrong: test images that are in the pool."""


class Reference:
    """A labelled set that a strategy may differentiate through, without seeing its labels."""

    def __init__(self, task: Task, model: nn.Module, indices: Indices, test: bool) -> None:
        self._batch = lambda part: task.losses(model, part, test=test)
        self._parts = [indices[i : i + task.batch_size] for i in range(0, len(indices), task.batch_size)]
        self.num_images = len(indices)

    def losses(self) -> Iterator[Tensor]:
        """Batches of (N,) losses on the true labels, each differentiable in the parameters."""
        return map(self._batch, self._parts)


@dataclass
class EncodingTime:
    """Seconds that went into the encodings of a selection: a cache may have made them sooner."""

    making: float = 0.0  # what making them took, whenever that was
    now: float = 0.0  # what making encodings took in this selection


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
        self.encoding = EncodingTime()
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
        return self.__unlabelled[np.lexsort((self.tie_ranks(self.__unlabelled), values))[:budget]]

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

    # --- capabilities of the task, the model bound --------------------------------------------
    def predict(self, indices: Indices) -> Predictions:
        """Class probabilities (and boxes) of the model in eval mode, without augmentation."""
        return self.__ask("predict")(self.model, self.__seen(indices))

    def sample(self, indices: Indices, num_samples: int, seed: int) -> Iterator[Predictions]:
        """`num_samples` predictions of a stochastic model: dropout on, batch normalisation in eval mode."""
        return self.__ask("sample")(self.model, self.__seen(indices), num_samples, seed)

    def perturbed(self, indices: Indices, sigma: float, seed: int) -> Predictions:
        """`predict` on images with Gaussian noise of deviation `sigma` on every pixel value (0..255, not clipped)."""
        return self.__ask("perturbed")(self.model, self.__seen(indices), sigma, seed)

    def proposals(self, indices: Indices) -> Predictions:
        """`predict` of a two-stage detector, with the proposal behind each box in `proposals_P4`."""
        return self.__ask("proposals")(self.model, self.__seen(indices))

    def embed(self, indices: Indices) -> Tensor:
        """(N, D) float32: the input of the last layer, averaged over places. Not to be changed in place."""
        return self.__ask("embed")(self.model, self.__seen(indices))

    def classify(self, features_ND: Tensor) -> Tensor:
        """(N, C): the logits that a classifier's last layer gives for inputs of it, see `embed`; differentiable."""
        return self.__ask("classify")(self.model, features_ND)

    def images(self, indices: Indices, size: tuple[int, int]) -> Tensor:
        """(N, 3, *size) uint8: the images themselves, squashed to height and width `size`."""
        return self.__ask("images")(self.model, self.__seen(indices), size)

    def encode(self, indices: Indices, encoder: EncoderName) -> Iterator[Encoding]:
        """The encodings of these images by a frozen encoder, in order, some images at a time."""
        parts: Iterator[Encoding] = self.__ask("encode")(self.model, self.__seen(indices), encoder)
        for part in parts:
            self.encoding.making += part.seconds
            self.encoding.now += part.now
            yield part

    def labels(self, indices: Indices) -> Targets:
        """The true labels of labelled images: (N,) classes of a classifier, a list of `Boxes` of a detector, (N, h, w)
        classes of a segmenter."""
        if not np.isin(indices, self.__labelled).all():
            raise PermissionError(UNPAID)
        return self.__ask("labels")(self.model, self.__seen(indices))

    def augmented(self, indices: Indices, how: Augmentation, seed: int) -> Predictions:
        """`predict` of a detector on changed images, its boxes in pixels of the images as they were: mirrored (`flip`),
        with two patches cut out (`cutout`), at 0.8 of their size (`shrink`), turned by five degrees (`rotate`)."""
        return self.__ask("augmented")(self.model, self.__seen(indices), how, seed)

    def box_features(self, indices: Indices) -> Tensor:
        """(P, D): for each box of `predict`, what a detector's classification layer saw where it found it."""
        return self.__ask("box_features")(self.model, self.__seen(indices))

    def companion(self, indices: Indices) -> Tensor:
        """(N,): the output of the strategy's own companion (its class is declared in `register`)."""
        return self.__ask("companion")(self.model, self.__seen(indices))

    def weights(self) -> dict[str, nn.Parameter]:
        """The parameters that influence is computed over, by name."""
        return self.__ask("weights")(self.model)

    def pseudo_labels(self, indices: Indices, k: int, min_score: float) -> Targets:
        """Targets built from the model's own predictions. A classifier's: its best guess for k = 1, the k likeliest
        weighted by their probability, not renormalised, for k > 1. A detector's: the boxes it finds with a
        confidence of at least `min_score`."""
        return self.__ask("pseudo_labels")(self.model, self.__seen(indices), k, min_score)

    def losses(self, indices: Indices, targets: Targets | None = None) -> Tensor:
        """(N,) losses, differentiable in `weights()`; true labels, of labelled images only, by default."""
        if targets is None and not np.isin(indices, self.__labelled).all():
            raise PermissionError(UNPAID)
        return self.__ask("losses")(self.model, self.__seen(indices), targets)

    def directional(self, indices: Indices, targets: Targets, direction: Direction) -> Tensor:
        """(N,): the derivative of each image's loss along `direction` in weight space."""
        return self.__ask("directional")(self.model, self.__seen(indices), targets, direction)

    def choice_of(self, label: str, budget: int, rng: np.random.Generator) -> Indices:
        """What another strategy would choose here: `isal[k=2]`. Its needs (`strategy` tells them) must be declared."""
        plugin, values = strategy(label)
        for need in plugin.needed(values):
            self.__ask(need)
        return plugin.function(self, budget, rng, **values)

    def reference(self, which: str) -> Reference:
        """A labelled set to differentiate through: `labelled`, `initial`, `held_out` or `test`.

        The last two must be declared (needs "held_out", "test_labels"): the first is charged for,
        the second marks every row of every table with a dagger.
        """
        if which == "test":
            self.__ask("test_labels")
            return Reference(self.__task, self.model, np.arange(self.__task.num_test()), test=True)
        if which == "held_out":
            self.__ask("held_out")
        parts = {
            "held_out": self.__held_out,
            "initial": self.__labelled[: self.num_initial],
            "labelled": self.__labelled,
        }
        if which not in parts:
            raise ValueError(f"reference={which}: use {', '.join(sorted([*parts, 'test']))}")
        return Reference(self.__task, self.model, parts[which], test=False)

    def __ask(self, need: str) -> Callable[..., Any]:
        if need not in self.__needs:
            raise PermissionError(f"this strategy did not declare the need {need!r}: @register(needs={{{need!r}}})")
        return getattr(self.__task, need, lambda: None)  # the label needs are not methods

    def __seen(self, indices: Indices) -> Indices:
        if not self.__visible.issuperset(np.asarray(indices).tolist()):
            raise PermissionError("an index outside labelled and unlabelled: test or validation images are not yours")
        return np.asarray(indices, dtype=np.int64)


def strategy(label: str) -> tuple[Plugin, dict[str, Any]]:
    """The strategy that a label names, with every parameter. ValueError names what does not fit."""
    name, given = quoted.parse(label)
    plugin = registry.get("strategy", name)
    return plugin, plugin.bind(given)


def encoder(label: EncoderName, pool: Pool, machine: Machine) -> Encoder:
    """The encoder that a label names, built on a pool. ValueError names what does not fit."""
    name, given = quoted.parse(label)
    plugin = registry.get("encoder", name)
    return plugin.build(machine, plugin.bind(given), pool)


def check_encoder(label: EncoderName, machine: Machine) -> None:
    """Raises ValueError where a file of weights of the encoder that a label names is not there or does not fit."""
    name, given = quoted.parse(label)
    plugin = registry.get("encoder", name)
    if files(label, machine) and plugin.check_weights is not None:
        plugin.check_weights(machine, **plugin.bind(given))


def identity(label: EncoderName, machine: Machine) -> str:
    """Everything that decides what an encoder makes of images, but for the pool it is built on, in words: files of
    weights by their content. ValueError where there is no such file."""
    name, given = quoted.parse(label)
    plugin = registry.get("encoder", name)
    return f"{name} {plugin.version} {sorted((plugin.bind(given) | files(label, machine)).items())}"


def encoder_code(label: EncoderName) -> str:
    """A hash of what an encoder's file and those that it imports do: what it made before it was edited is not used."""
    return registry.get("encoder", quoted.parse(label)[0]).code()


def files(label: EncoderName, machine: Machine) -> dict[str, str]:
    """sha256 of the files of weights among an encoder's parameters. ValueError where there is no such file."""
    name, given = quoted.parse(label)
    found = {}
    for key, value in registry.get("encoder", name).bind(given).items():
        if isinstance(value, str) and value.endswith(WEIGHTS):
            path = machine.located(value)
            if not path.is_file():
                raise ValueError(f"{label}: no such file: {path}")
            told = path.stat()
            found[key] = hashed(path, told.st_mtime_ns, told.st_ctime_ns, told.st_size, told.st_ino)
    return found


@lru_cache(64)
def hashed(path: Path, *_: int) -> str:
    """sha256 of a file, which is read again where what the system tells of it has changed: the time of that change,
    too, which nobody can set."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


StrategyF = TypeVar("StrategyF", bound=Callable[..., Indices])
TaskF = TypeVar("TaskF", bound=Callable[..., Task])
EncoderF = TypeVar("EncoderF", bound=Callable[..., Encoder])


def register(
    *,
    needs: Collection[str] | Callable[..., Collection[str]] = (),
    version: int,
    companion: Callable[..., Companion | None] | None = None,
) -> Callable[[StrategyF], StrategyF]:
    """Registers a strategy under its function's name.

    needs: capabilities of the task (and label needs) it uses; where they depend on its hyperparameters,
        a function of those, called with keywords.
    version: raised by hand when its numbers move.
    companion: builds its Companion from its hyperparameters, called with keywords; None where those need none.
    """

    def decorate(function: StrategyF) -> StrategyF:
        add(Plugin("strategy", function.__name__, function, version, needs=needs, companion=companion))
        return function

    return decorate


def register_task(
    *,
    version: int,
    default: Any = None,
    published: Any = None,
    lacks: Callable[..., Collection[str]] | None = None,
    reveals: Callable[..., str] | None = None,
    check: Callable[..., object] | None = None,
) -> Callable[[TaskF], TaskF]:
    """Registers a task under its factory's name: `factory(machine, recipe, *, own parameters) -> Task`.

    The factory's return annotation is a class: its methods are the task's capabilities.
    default, published: recipes, frozen dataclasses whose fields become parameters of the task;
        `published=true` starts from the second. A factory without recipes takes `machine` alone. A recipe may have
        `for_cpu()`, which gives the settings of a fit that CPUs do in minutes, {} where they are set.
    lacks: from the task's parameters, the capabilities that those take away.
    reveals: from the task's parameters, in words, what labels shaped the pool before they were paid for ("" for none):
        such rows carry a dagger.
    check: called as `check(machine, recipe)` before the task reads its data; raises ValueError where a file of weights
        does not fit.
    """

    def decorate(function: TaskF) -> TaskF:
        recipes = {False: default, True: published}
        name = function.__name__
        add(Plugin("task", name, function, version, (), None, recipes, lacks, reveals, check_weights=check))
        return function

    return decorate


def register_encoder(*, version: int, check: Callable[..., object] | None = None) -> Callable[[EncoderF], EncoderF]:
    """Registers an encoder under its factory's name: `factory(machine, pool, *, own parameters) -> Encoder`.

    check: called as `check(machine, **own parameters)` before a task reads its images, where one of the parameters is a
        file of weights; raises ValueError where it does not fit.
    """

    def decorate(function: EncoderF) -> EncoderF:
        add(Plugin("encoder", function.__name__, function, version, check_weights=check))
        return function

    return decorate


__all__ = [
    "WEIGHTS", "Annotations", "Augmentation", "Batched", "Boxes", "Companion", "Direction", "Encoder", "EncoderName",
    "Encoding", "EncodingTime", "FromFiles", "How", "Indices", "Machine", "Pool", "Predictions", "Reference",
    "StrategyName", "Targets", "Task", "View", "activity", "check_encoder", "encoder", "encoder_code", "files",
    "identity", "register", "register_encoder", "register_task", "seeded", "strategy", "tensor_files",
    "working_seconds",
]  # fmt: skip
