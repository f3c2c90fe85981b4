"""What the records of one experiment must have in common: versions and parameters of plug-ins, data, weight files.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.records.record import Header
from benchmark.records.record import plugin_parameters

PLUGIN_KINDS = ("encoders", "strategies", "tasks")  # what a plug-in's parameters may name, with its version


class MixedRecordsError(ValueError):
    """Records that must not stand in one table: their versions, parameters, data or weights differ."""


class Agreement:
    """Collects the facts that all records of an experiment must share, and finds the first that differs."""

    def __init__(self) -> None:
        self.known_facts: dict[str, tuple[object, str]] = {}  # by name: the value, and where it was read
        self.header_by_strategy: dict[str, Header] = {}

    def difference(self, header: Header, strategy: str, place: object) -> str:
        """Returns how these records differ from earlier ones, as a message; "" where they agree.

        Args:
            header: the header of the records.
            strategy: the label of their strategy.
            place: where the records are, for the message.
        """
        old = self.header_by_strategy.get(strategy)
        if old is not None and have_same_facts(old, header):  # the usual case, and fast
            return ""
        for name, value in shared_facts(header, strategy):
            known_value, other = self.known_facts.get(name, (value, ""))
            if known_value != value:
                return f"{name}: {value} in {place}, {known_value} in {other}"
        return ""

    def add(self, header: Header, strategy: str, place: object) -> str:
        """Returns `difference`, and remembers records that agree for the comparison with later ones."""
        difference = self.difference(header, strategy, place)
        if not difference and strategy not in self.header_by_strategy:
            self.header_by_strategy[strategy] = header
            for name, value in shared_facts(header, strategy):
                self.known_facts.setdefault(name, (value, str(place)))
        return difference


def have_same_facts(first: Header, second: Header) -> bool:
    """Whether two headers of one strategy agree on task, strategy, data and weights."""
    same_plugins = all(first.cell.get(part) == second.cell.get(part) for part in ("task", "strategy"))
    return same_plugins and (first.data, first.weights) == (second.data, second.weights)


def shared_facts(header: Header, strategy: str) -> Iterator[tuple[str, object]]:
    """Yields the facts, by name, that must be equal wherever two records of an experiment state them.

    A parameter that only one of them has was added by a later release, with a default that changes nothing.
    """
    if header.data:
        yield "data", header.data[:12]
    for part, label in (("task", "the task"), ("strategy", strategy)):
        plugin = header.cell.get(part)
        if isinstance(plugin, dict):
            yield f"versions of {label}", plugin.get("version")
            for name, value in plugin_parameters(header.cell, part).items():
                yield f"values of {name} of {label}", value
            for kind in PLUGIN_KINDS:
                inner = plugin.get(kind)
                for name, version in inner.items() if isinstance(inner, dict) else ():
                    yield f"versions of {name}", version
    for encoder, files in header.weights.items():
        for parameter, digest in files.items() if isinstance(files, dict) else ():
            yield f"files of {parameter} of {encoder}", str(digest)[:12]
