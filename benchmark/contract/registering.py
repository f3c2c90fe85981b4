"""The decorators that register plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from benchmark.contract.companion import Companion
from benchmark.contract.data import Indices
from benchmark.contract.requirements import Requirement
from benchmark.contract.sharded_pool import FromShards
from benchmark.contract.tasks import Encoder, Task
from benchmark.plugins.capability_names import Need, Property
from benchmark.plugins.registry import Plugin, add_plugin

StrategyF = TypeVar("StrategyF", bound=Callable[..., Indices])
TaskF = TypeVar("TaskF", bound=Callable[..., Task])
EncoderF = TypeVar("EncoderF", bound=Callable[..., Encoder])


def register(
    *,
    needs: Collection[Need] | Callable[..., Collection[Need]] = (),
    version: int,
    companion: Callable[..., Companion | None] | None = None,
    from_shards: FromShards | None = None,
    needs_without_labels: Collection[Need] | Callable[..., Collection[Need]] | None = None,
    selects_high: Property | None = None,
) -> Callable[[StrategyF], StrategyF]:
    """Registers a strategy under the name of its function: `strategy(view, budget, rng, *, parameters) -> Indices`.

    `view` is what the strategy sees of the round, `budget` the number of images to select, and `rng` the only source of
    randomness. The strategy returns `budget` distinct positions from `view.unlabelled`, the most wanted first. Its own
    parameters are keyword-only.

    Args:
        needs: the capabilities of the task that it uses, and the labels that it reads beyond those that are paid for.
            Where they depend on its parameters: a function that is called with the parameters as keywords.
        version: a whole number from 1, raised by hand when the strategy's numbers change.
        companion: builds the Companion that is trained beside the model, called with the strategy's parameters as
            keywords; may return None.
        from_shards: how it selects from a pool whose rows lie on disk; None if it cannot.
        needs_without_labels: what it uses instead of `needs` while nothing is labelled, when there is no model either:
            capabilities of the images alone, `encode` and `images`. None: the same as `needs`.
        selects_high: by what the images that it selects exceed the others, as its paper says; `check` finds a score
            whose sign is flipped. `class_entropy` is that of the prediction, `ambiguity` 1 minus the gap between its
            two largest probabilities, `disagreement` the mutual information of class and dropout mask, `predicted_loss`
            the output of its companion, `distance` that to the nearest labelled image in feature space. None: the paper
            gives no such direction.
    """

    def decorate(function: StrategyF) -> StrategyF:
        plugin = Plugin(
            "strategy",
            function.__name__,
            function,
            version,
            needs=needs,
            companion=companion,
            from_shards=from_shards,
            needs_without_labels=needs_without_labels,
            selects_high=selects_high,
        )
        add_plugin(plugin)
        return function

    return decorate


def register_task(
    *,
    version: int,
    default: Any = None,
    published: Any = None,
    missing_capabilities: Callable[..., Collection[str]] | None = None,
    label_leakage: Callable[..., str] | None = None,
    check: Callable[..., object] | None = None,
    missing_requirements: Callable[..., Iterable[Requirement]] | None = None,
) -> Callable[[TaskF], TaskF]:
    """Registers a task under the name of its factory: `factory(machine, recipe, *, parameters) -> Task`.

    `machine` says where the task runs, `recipe` how models are trained. The factory's return annotation must be a
    class: its methods are the task's capabilities.

    Args:
        version: a whole number from 1, raised by hand when the task's numbers change.
        default: the recipe, a frozen dataclass whose fields become parameters of the task. Without one the factory
            takes `machine` alone. A recipe may have a method `for_cpu()` that returns the settings with which a CPU
            trains a model in minutes, {} where they are set already. It may have a property `revision`, a whole number
            that is added to `version`: raised where the numbers of some of its models change, and not those of others.
        published: a second recipe, the one of a paper, from which `published=true` starts.
        missing_capabilities: a function of the task's parameters; returns the capabilities of the task's class that it
            lacks with these parameters.
        label_leakage: a function of the task's parameters; returns a text that says which labels shaped the pool before
            they were paid for, "" for none. Rows of such a task carry a dagger in tables.
        check: called as `check(machine, recipe)` before the task reads its data; raises ValueError where a file of
            weights does not fit.
        missing_requirements: a function of the factory's arguments; returns the packages and data sets that the task
            needs and that are not there, without reading or downloading anything.
    """

    def decorate(function: TaskF) -> TaskF:
        recipes = {False: default, True: published}
        name = function.__name__
        add_plugin(
            Plugin(
                "task",
                name,
                function,
                version,
                (),
                None,
                recipes,
                missing_capabilities,
                label_leakage,
                check_weights=check,
                missing_requirements=missing_requirements,
            )
        )
        return function

    return decorate


def register_encoder(*, version: int, check: Callable[..., object] | None = None) -> Callable[[EncoderF], EncoderF]:
    """Registers an encoder under the name of its factory: `factory(machine, pool, *, parameters) -> Encoder`.

    `machine` says where the encoder runs; `pool` holds the images that it may be trained on, without their labels.

    Args:
        version: a whole number from 1, raised by hand when the encoder's numbers change.
        check: called as `check(machine, **parameters)` before a task reads its images, where one of the parameters is a
            file of weights; raises ValueError where that file does not fit.
    """

    def decorate(function: EncoderF) -> EncoderF:
        add_plugin(Plugin("encoder", function.__name__, function, version, check_weights=check))
        return function

    return decorate
