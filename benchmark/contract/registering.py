"""The decorators that register plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from benchmark.contract.data import Indices
from benchmark.contract.tasks import Companion, Encoder, Task
from benchmark.plugins.capabilities import Need
from benchmark.plugins.registry import Plugin, add_plugin

StrategyF = TypeVar("StrategyF", bound=Callable[..., Indices])
TaskF = TypeVar("TaskF", bound=Callable[..., Task])
EncoderF = TypeVar("EncoderF", bound=Callable[..., Encoder])


def register(
    *,
    needs: Collection[Need] | Callable[..., Collection[Need]] = (),
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
        add_plugin(Plugin("strategy", function.__name__, function, version, needs=needs, companion=companion))
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
            )
        )
        return function

    return decorate


def register_encoder(*, version: int, check: Callable[..., object] | None = None) -> Callable[[EncoderF], EncoderF]:
    """Registers an encoder under its factory's name: `factory(machine, pool, *, own parameters) -> Encoder`.

    check: called as `check(machine, **own parameters)` before a task reads its images, where one of the parameters is a
        file of weights; raises ValueError where it does not fit.
    """

    def decorate(function: EncoderF) -> EncoderF:
        add_plugin(Plugin("encoder", function.__name__, function, version, check_weights=check))
        return function

    return decorate
