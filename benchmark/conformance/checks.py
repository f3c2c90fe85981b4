"""Runs all checks on one plug-in and collects the findings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmark.api import Machine
from benchmark.conformance.strategy_checks import STRATEGY_CHECKS
from benchmark.conformance.task_checks import TASK_CHECKS
from benchmark.conformance.trials import FittedTask, StrategyTrial
from benchmark.experiment.spec import Spec
from benchmark.plugins.registry import Plugin, source_file
from benchmark.system.process_state import restore, snapshot
from benchmark.text.words import describe_error


@dataclass(frozen=True)
class Finding:
    """The result of one check of a plug-in; `message` is empty if the check passes."""

    check: str
    message: str


def run_checks(spec: Spec, task_spec: Spec, machine: Machine) -> list[Finding]:
    """Returns the findings of all checks on a strategy, which is tried on the task `task_spec`, or on a task."""
    checks = [*DECLARATION_CHECKS, *(STRATEGY_CHECKS if spec.plugin.kind == "strategy" else TASK_CHECKS)]
    subject = StrategyTrial(spec, task_spec, machine) if spec.plugin.kind == "strategy" else FittedTask(spec, machine)
    return [Finding(title, run_check(rule, subject)) for title, rule in checks]


def run_check(rule: Callable[[Any], str | None], subject: Any) -> str:
    """Returns the message of one check, "" if it passes; an exception counts as a message.

    What the check changes in the process is restored.
    """
    before = snapshot()
    try:
        return rule(subject) or ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return describe_error(error)
    finally:
        restore(before)


def has_its_files_name(subject: StrategyTrial | FittedTask) -> str | None:
    """Returns a message if the plug-in's name is not the name of its file."""
    stem = source_file(subject.plugin).stem
    return None if stem == subject.plugin.name else f"it is called {subject.plugin.name}, its file {stem}.py"


def has_typed_parameters(subject: StrategyTrial | FittedTask) -> str | None:
    """Returns a message if parameters have no type."""
    untyped = [
        p.name for p in inspect.signature(subject.plugin.function).parameters.values() if p.annotation is p.empty
    ]
    return f"no type on: {', '.join(untyped)}" if untyped else None


def has_docstring(subject: StrategyTrial | FittedTask) -> str | None:
    """Returns a message if there is no docstring."""
    return (
        None
        if inspect.getdoc(subject.plugin.function)
        else "it has no docstring: name the paper, and explain the parameters"
    )


def has_whole_version(subject: StrategyTrial | FittedTask) -> str | None:
    """Returns a message if the version is no whole number from 1."""
    version = subject.plugin.version
    return None if type(version) is int and version >= 1 else f"version={version}: must be a whole number from 1"


DECLARATION_CHECKS: list[tuple[str, Callable[[Any], str | None]]] = [
    ("its name is its file's", has_its_files_name),
    ("every parameter has a type", has_typed_parameters),
    ("it has a docstring", has_docstring),
    ("its version is a number", has_whole_version),
]


def failures(plugin: Plugin, task_spec: Spec, machine: Machine) -> list[str]:
    """Returns the messages of the checks that fail, empty if the plug-in conforms; for tests of plug-ins.

    Args:
        plugin: the strategy or task.
        task_spec: the task that a strategy is tried on; not used for a task.
        machine: where it runs.
    """
    findings = run_checks(Spec.read(plugin.kind, plugin.name), task_spec, machine)
    return [f"{finding.check}: {finding.message}" for finding in findings if finding.message]
