"""A strategy whose whole order is known, and which tells what it was asked for."""

from numpy.random import Generator

from benchmark.api import Companion, Indices, View, register


def companion(**_: object) -> Companion | None:
    """None: a strategy may have a companion under some of its parameters only."""
    return None


@register(version=1, companion=companion)
def in_order(view: View, budget: int, rng: Generator) -> Indices:
    """The unlabelled images as they lie in the pool."""
    view.log(asked=budget, drawn=rng.random())
    return view.unlabelled[:budget]
