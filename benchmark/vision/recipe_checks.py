"""Functions that the recipes of all kinds of task share: building one from a task's parameters, and checking it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any, TypeVar

AnyRecipe = TypeVar("AnyRecipe")


def build_recipe(recipe_class: type[AnyRecipe], values: Mapping[str, Any]) -> AnyRecipe:
    """Builds a recipe from a task's parameters.

    Args:
        recipe_class: dataclass of the recipe.
        values: the task's parameters, the recipe's fields among them.
    """
    return recipe_class(**{name: values[name] for name in signature(recipe_class).parameters})


def check_recipe(
    recipe: Any, ranges: Mapping[str, bool], ineffective: Iterable[tuple[tuple[str, ...], bool, str]]
) -> None:
    """Checks the fields of a recipe.

    Args:
        recipe: the recipe; its class holds the defaults.
        ranges: maps a field's name and its condition ("lr positive") to whether the condition holds.
        ineffective: triples of field names, whether these fields have no effect, and the setting that makes them
            ineffective.

    Raises:
        ValueError: a field is out of range, or a field without effect was changed. The message names the field.
    """
    for condition, is_met in ranges.items():
        if not is_met:
            name = condition.split()[0]
            raise ValueError(f"{name}={getattr(recipe, name)}: must be {condition.removeprefix(name).strip()}")
    for names, is_ineffective, reason in ineffective:
        changed_fields = [name for name in names if getattr(recipe, name) != getattr(type(recipe), name)]
        if is_ineffective and changed_fields:
            name = changed_fields[0]
            raise ValueError(f"{name}={getattr(recipe, name)} has no effect with {reason}")
