"""Strategies that do what none may: the harness must name each, in one line."""

import time

import numpy as np
import torch
from numpy.random import Generator

from benchmark.api import Indices, View, register


@register(needs=(), version=1)
def too_few(view: View, budget: int, rng: Generator) -> Indices:
    """One index short."""
    return view.unlabelled[: budget - 1]


@register(needs=(), version=1)
def duplicates(view: View, budget: int, rng: Generator) -> Indices:
    """The same image again and again."""
    return np.repeat(view.unlabelled[:1], budget)


@register(needs=(), version=1)
def labelled(view: View, budget: int, rng: Generator) -> Indices:
    """Images that are labelled already."""
    return view.labelled[:budget]


@register(needs=(), version=1)
def out_of_range(view: View, budget: int, rng: Generator) -> Indices:
    """Positions that the pool does not have."""
    return np.arange(budget) + 10**6


@register(needs=(), version=1)
def floats(view: View, budget: int, rng: Generator) -> Indices:
    """Numbers that are no positions."""
    return view.unlabelled[:budget] / 2  # type: ignore[no-any-return]


@register(needs={"predict"}, version=1)
def nan(view: View, budget: int, rng: Generator) -> Indices:
    """Scores that are not numbers."""
    scores_N = view.predict(view.unlabelled).scores_PC[:, 0].clone()
    scores_N[3] = torch.nan
    return view.lowest(scores_N, budget)


@register(needs=(), version=1)
def crash(view: View, budget: int, rng: Generator) -> Indices:
    """An error of its own."""
    raise KeyError("a bug in a strategy")


@register(needs=(), version=1)
def undeclared(view: View, budget: int, rng: Generator) -> Indices:
    """Asks for a capability that it did not declare."""
    view.embed(view.unlabelled)
    return view.unlabelled[:budget]


@register(needs={"losses"}, version=1)
def peek(view: View, budget: int, rng: Generator) -> Indices:
    """Asks for labels it has not bought."""
    return view.highest(view.losses(view.unlabelled).detach(), budget)


@register(needs={"losses"}, version=1)
def cheat(view: View, budget: int, rng: Generator) -> Indices:
    """Goes round the view and reads labels that it has not bought: only the leak test can see it."""
    task = view._View__task  # type: ignore[attr-defined]
    return view.highest(task.losses(view.model, view.unlabelled).detach(), budget)


@register(needs=(), version=1)
def forgetful(view: View, budget: int, rng: Generator) -> Indices:
    """Draws from numpy's global generator."""
    return np.random.permutation(view.unlabelled)[:budget]  # noqa: NPY002


@register(needs=(), version=1)
def remembers(view: View, budget: int, rng: Generator) -> Indices:
    """Keeps state between calls."""
    MEMORY.append(budget)
    return np.roll(view.unlabelled, len(MEMORY))[:budget]


@register(needs=(), version=1)
def meddles(view: View, budget: int, rng: Generator) -> Indices:
    """Changes the model."""
    with torch.no_grad():
        next(view.model.parameters()).add_(1)
    return view.unlabelled[:budget]


@register(needs=(), version=1)
def front(view: View, budget: int, rng: Generator) -> Indices:
    """The first of the pool."""
    return view.unlabelled[:budget]


@register(needs=(), version=1)
def flat(view: View, budget: int, rng: Generator) -> Indices:
    """The same score for all images."""
    return view.lowest(torch.zeros(len(view.unlabelled)), budget)


@register(needs=(), version=1)
def single_class(view: View, budget: int, rng: Generator) -> Indices:
    """Images of one class, and others once these are used up."""
    task = view._View__task  # type: ignore[attr-defined]
    return view.lowest((task.labels(view.model, view.unlabelled) != 3).float(), budget)


@register(needs={"predict"}, version=1, selects_high="class_entropy")
def flipped(view: View, budget: int, rng: Generator) -> Indices:
    """Entropy with its sign flipped: the most certain images."""
    return view.lowest(torch.special.entr(view.predict(view.unlabelled).scores_PC).sum(1), budget)


@register(needs={"predict"}, needs_without_labels=(), version=1)
def needs_a_model(view: View, budget: int, rng: Generator) -> Indices:
    """Says that it starts without labels, and asks the model nevertheless."""
    return view.lowest(view.predict(view.unlabelled).scores_PC[:, 0], budget)


@register(needs={"predict"}, version=1)
def sorts(view: View, budget: int, rng: Generator) -> Indices:
    """Sorts by itself, by scores that tie: one of ten classes first, the last of the pool before the others."""
    classes_N = view.predict(view.unlabelled).scores_PC.argmax(1)
    return view.unlabelled[np.argsort(classes_N.numpy(), kind="stable")[::-1][:budget]]


@register(needs=(), version=1)
def scattered(view: View, budget: int, rng: Generator) -> Indices:
    """Certain places, all over the pool."""
    return view.unlabelled[np.argsort(view.unlabelled * 7919 % 1009, kind="stable")[:budget]]


@register(needs=(), version=1)
def hangs(view: View, budget: int, rng: Generator) -> Indices:
    """Does not choose within half a minute."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.01)
    return view.unlabelled[:budget]


@register(needs=(), version=1)
def hoards(view: View, budget: int, rng: Generator, *, megabytes: int = 200) -> Indices:
    """Keeps what it computed: more with every round."""
    HOARD.append(np.ones(megabytes * 2**17))
    return view.unlabelled[:budget]


@register(needs=(), version=1)
def chokes(view: View, budget: int, rng: Generator, *, megabytes: int = 20) -> Indices:
    """Raises beside a large array of its own."""
    own = np.ones(megabytes * 2**17)
    raise KeyError(f"{own.nbytes / 2**20:.0f} MB in hand")


MEMORY: list[int] = []
HOARD: list[np.ndarray] = []
