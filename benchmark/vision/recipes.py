"""What the recipes of all kinds of task share: how one is read from a task's parameters, and how it is checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any, TypeVar

AnyRecipe = TypeVar("AnyRecipe")


def build_recipe(recipe_class: type[AnyRecipe], values: Mapping[str, Any]) -> AnyRecipe:
    """The recipe of that kind among a task's parameters."""
    return recipe_class(**{name: values[name] for name in signature(recipe_class).parameters})


def check_recipe(
    recipe: Any, ranges: Mapping[str, bool], ineffective: Iterable[tuple[tuple[str, ...], bool, str]]
) -> None:
    """Checks the fields of a recipe.

    Args:
        recipe: whose class holds the defaults.
        ranges: a field's name and what it must be ("lr positive"), and whether it is.
        ineffective: fields, whether they have no effect, and beside what.

    Raises:
        ValueError: A field is out of range, or was changed without effect; it is named.
    """
    for what, good in ranges.items():
        if not good:
            name = what.split()[0]
            raise ValueError(f"{name}={getattr(recipe, name)}: must be {what.removeprefix(name).strip()}")
    for names, off, why in ineffective:
        changed = [name for name in names if getattr(recipe, name) != getattr(type(recipe), name)]
        if off and changed:
            raise ValueError(f"{changed[0]}={getattr(recipe, changed[0])} has no effect with {why}")
