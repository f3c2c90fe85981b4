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
    """A plug-in with its parameters. Two spellings of the same parameters give equal specs."""

    plugin: Plugin
    label: str
    values: dict[str, Any] = field(compare=False)  # every parameter with its value; the label is equivalent

    @classmethod
    def read(cls, kind: str, text: object) -> Spec:
        """Reads `coreset[metric=cosine]` or {"coreset": {"metric": "cosine"}}.

        Args:
            kind: strategy, task or encoder.
            text: the label or mapping.

        Raises:
            ValueError: there is no such plug-in, or a parameter does not fit.
        """
        name, overrides = notation.parse_label(text)
        plugin = registry.get(kind, name)
        return cls(plugin, plugin.label(overrides), plugin.bind(overrides))

    @property
    def name(self) -> str:
        """The plug-in's name."""
        return self.plugin.name

    @property
    def needs(self) -> frozenset[str]:
        """The needs of a strategy with its parameters."""
        return self.plugin.resolve_needs(self.values)

    @property
    def needs_without_labels(self) -> frozenset[str]:
        """The needs of a strategy with its parameters while nothing is labelled."""
        return self.plugin.resolve_needs(self.values, without_labels=True)

    def nested_plugins(self) -> Iterator[tuple[Plugin, str]]:
        """The encoders and strategies that its parameters name, with their labels."""
        return self.plugin.nested_plugins(self.values)

    @property
    def code_hash(self) -> str:
        """A hash of its code and of the encoders and strategies that it names; see `Plugin.code_hash`."""
        codes = [self.plugin.code_hash(), *(plugin.code_hash() for plugin, _ in self.nested_plugins())]
        return codes[0] if len(codes) == 1 else f"files-{hashlib.sha256(' '.join(codes).encode()).hexdigest()[:16]}"

    def identity(self, only_non_defaults: bool = False) -> dict[str, Any]:
        """Everything about the plug-in that can change a number.

        Args:
            only_non_defaults: leave out parameters at their default, so that a parameter that a later release adds
                changes no key. When a default changes, `version` is raised.
        """
        parameters = self.plugin.non_defaults(self.values) if only_non_defaults else self.values
        version = self.plugin.resolve_version(self.values)
        fields: dict[str, Any] = {"name": self.name, "version": version, "parameters": parameters}
        for plugin, label in self.nested_plugins():
            fields.setdefault(FOLDERS[plugin.kind], {})[label] = plugin.version
        return fields
