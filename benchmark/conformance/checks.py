"""The conformance kit: what every plug-in must do, checked on one plug-in and said in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmark.api import Machine
from benchmark.conformance.strategy_checks import STRATEGY
from benchmark.conformance.task_checks import TASK
from benchmark.conformance.trials import Fitted, Trial
from benchmark.experiment.spec import Spec
from benchmark.plugins.registry import Plugin, source
from benchmark.system.process_state import restore, snapshot
from benchmark.text.words import named


@dataclass(frozen=True)
class Finding:
    """One check of one plug-in: `words` is empty where it holds."""

    check: str
    words: str


def check(spec: Spec, on: Spec, machine: Machine) -> list[Finding]:
    """All findings on a strategy (tried on the task `on`) or on a task."""
    checks = [*SHAPE, *(STRATEGY if spec.plugin.kind == "strategy" else TASK)]
    subject = Trial(spec, on, machine) if spec.plugin.kind == "strategy" else Fitted(spec, machine)
    return [Finding(title, found(rule, subject)) for title, rule in checks]


def found(rule: Callable[[Any], str | None], subject: Any) -> str:
    """What a check says; an exception counts as a finding. What it leaves changed spoils no later check."""
    before = snapshot()
    try:
        return rule(subject) or ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return named(error)
    finally:
        restore(before)


def named_as_file(subject: Trial | Fitted) -> str | None:
    """The plug-in, its function and its file have one name."""
    stem = source(subject.plugin).stem
    return None if stem == subject.plugin.name else f"it is called {subject.plugin.name}, its file {stem}.py"


def typed(subject: Trial | Fitted) -> str | None:
    """Parameters without an annotation."""
    bare = [p.name for p in inspect.signature(subject.plugin.function).parameters.values() if p.annotation is p.empty]
    return f"no type on: {', '.join(bare)}" if bare else None


def documented(subject: Trial | Fitted) -> str | None:
    """A missing docstring."""
    return None if inspect.getdoc(subject.plugin.function) else "no docstring: say the paper and what the numbers mean"


def versioned(subject: Trial | Fitted) -> str | None:
    """A version that is no whole number from 1."""
    version = subject.plugin.version
    return None if type(version) is int and version >= 1 else f"version={version}: a whole number from 1"


SHAPE: list[tuple[str, Callable[[Any], str | None]]] = [
    ("its name is its file's", named_as_file),
    ("every parameter has a type", typed),
    ("it has a docstring", documented),
    ("its version is a number", versioned),
]


def failures(plugin: Plugin, on: Spec, machine: Machine) -> list[str]:
    """What failed, in words; empty where the plug-in conforms. For tests."""
    results = check(Spec.read(plugin.kind, plugin.name), on, machine)
    return [f"{one.check}: {one.words}" for one in results if one.words]
