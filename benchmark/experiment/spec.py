"""A plug-in with its parameters, as a cell names it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmark.plugins import registry
from benchmark.plugins.registry import FOLDERS, Plugin
from benchmark.text import notation


@dataclass(frozen=True)
class Spec:
    """A plug-in with its parameters. Two spellings of the same parameters are equal."""

    plugin: Plugin
    label: str
    values: dict[str, Any] = field(compare=False)  # every parameter, defaults filled in; the label tells the same

    @classmethod
    def read(cls, kind: str, text: object) -> Spec:
        """`coreset[metric=cosine]` or {"coreset": {"metric": "cosine"}}; ValueError names what does not fit."""
        name, given = notation.parse_label(text)
        plugin = registry.get(kind, name)
        return cls(plugin, plugin.label(given), plugin.bind(given))

    @property
    def name(self) -> str:
        """The plug-in's name."""
        return self.plugin.name

    @property
    def needs(self) -> frozenset[str]:
        """What a strategy needs under its parameters."""
        return self.plugin.resolve_needs(self.values)

    def nested_plugins(self) -> Iterator[tuple[Plugin, str]]:
        """The encoders and strategies that its parameters name, with their labels."""
        return self.plugin.nested_plugins(self.values)

    @property
    def code_hash(self) -> str:
        """A hash of what it does, and the encoders and strategies that it names; see `Plugin.code`."""
        codes = [self.plugin.code_hash(), *(plugin.code_hash() for plugin, _ in self.nested_plugins())]
        return codes[0] if len(codes) == 1 else f"files-{hashlib.sha256(' '.join(codes).encode()).hexdigest()[:16]}"

    def identity(self, only_non_defaults: bool = False) -> dict[str, Any]:
        """Everything about it that can change a number; told: of its parameters only those that are not at their
        default, so that a parameter that a later release adds changes nothing. A default is moved with `version`."""
        parameters = self.plugin.non_defaults(self.values) if only_non_defaults else self.values
        known: dict[str, Any] = {"name": self.name, "version": self.plugin.version, "parameters": parameters}
        for plugin, label in self.nested_plugins():
            known.setdefault(FOLDERS[plugin.kind], {})[label] = plugin.version
        return known
