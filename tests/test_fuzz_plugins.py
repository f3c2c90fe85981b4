"""Plug-in folders as people leave them: every plug-in is there and can be used, or one line says what is wrong."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from _fuzz import SIZES, befall, corpus, damaged, folder, judged
from hypothesis import strategies as st

from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.plugins import registry as plugins_registry
from benchmark.plugins.registry import FOLDERS, REGISTRY, Plugin
from benchmark.text import notation

STRATEGY = """
from typing import Any, Literal
import numpy as np
from benchmark.api import register

@register(needs={needs}, version={version}{more})
def {name}(view, budget, rng, *, k: {kind} = {default}):
    '''The first ones.'''
    return view.unlabelled[:budget]
"""
TASK = """
from dataclasses import dataclass
import benchmark.api
from benchmark.api import Machine, register_task

class Own:
    num_pool = 3

@dataclass(frozen=True)
class Recipe:
    lr: {kind} = {default}

@register_task(version={version}, default={recipe}{more})
def {name}(machine: Machine, recipe: Recipe, *, root: str = "x") -> {returned}:
    '''A task.'''
    return Own()
"""
NEEDS = [
    "()", "()", "{'predict'}", "'predict'", "5", "None", "[1]", "{'no_such'}", "lambda **k: 3", "lambda: ()",
    "iter(())", "{1: 2}", "lambda k: {'embed'}", "lambda **k: 'embed'", "lambda **k: {}['a']", "object()",
]  # fmt: skip
VERSIONS = ["1", "1", "1", "2", "'1'", "-1", "None", "True", "1.5", "[]", "10**400", "float('nan')", "0"]
KINDS = [
    "int", "int", "float", "str", "bool", "int | None", "'no such type'", "undefined", "list[int]", "int | 'x'", "1",
    "[]", "Literal['a']", "lambda: 0", "dict", "Any", "object", "None", "float | str", "type", "'int'", "'np.nothing'",
]  # fmt: skip
DEFAULTS = [
    "1", "1", "2.5", "[]", "None", "float('nan')", "object()", "'x'", "...", "10**400", "'a\\nb'", "{}", "b'x'", "(1,)",
    "int", "True",
]  # fmt: skip
MORE = [
    "", "", "", ", companion=5", ", companion='x'", ", companion=lambda **k: 1 / 0", ", companion=lambda **k: None",
    ", unknown=3", ", companion=lambda: None",
]  # fmt: skip
MORE_TASK = [
    "",
    "",
    "",
    ", missing_capabilities=5",
    ", missing_capabilities=lambda **k: 1 / 0",
    ", label_leakage='x'",
    ", published=Recipe()",
    ", published=3",
]
WHOLE = [
    "", "\0", "# nothing", "raise KeyError('a\\nb')", "1 / 0", "def f(:", "(" * 500, "-" * 50_000 + "1",
    "import no_such",
    "raise ValueError('a\\nb')", "raise ValueError", "raise MemoryError", "import sys; sys.exit(0)", "raise SystemExit",
    "raise GeneratorExit", "raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'y')", "from benchmark.api import nothing",
    "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E", "import os; os._exit(0)",
    "import os; os.chdir('/')", "import torch; torch.set_default_dtype(torch.float64)",
    "class B(BaseException): 0\nraise B",
    "from other import x", "import sys; sys.setrecursionlimit(10**6)", "\ufeff# mark", "# coding: no-such", "\x0c",
    "é = 1",
    "def f(): f()\nf()", "import strategies.nothing", "x = " + "[" * 150 + "]" * 150, "raise OSError(2, 'gone')",
    "import benchmark.api\nbenchmark.api.register(needs=(), version=1)(lambda view, budget, rng: 0)",
    "from benchmark.api import register\nregister(needs=(), version=1)(len)",
    "from benchmark.api import register\nregister(needs=(), version=1)(int)",
    "from benchmark.api import register\nregister(needs=(), version=1)(3)",
    "from benchmark.api import register\n@register(needs=(), version=1)\nclass Odd: pass",
    "from benchmark.api import register\n@register\ndef odd(view, budget, rng): pass",
]  # fmt: skip
NAMES = [
    "mine.py",
    "mine.py",
    "other.py",
    "a-b.py",
    "a.b.py",
    "torch.py",
    "\udcff.py",
    "a\nb.py",
    "class.py",
    "é.py",
    " .py",
    "1.py",
]
CALLED = ["mine", "mine", "other", "entropy", "é", "_hidden", "a" * 300, "digits"]


@pytest.fixture(autouse=True, scope="module")
def discovered() -> None:
    """Our own plug-ins."""
    discovery.discover()


@contextlib.contextmanager
def registry() -> Iterator[None]:
    """Puts back what a folder of plug-ins leaves behind."""
    known, path, modules = {kind: dict(found) for kind, found in REGISTRY.items()}, list(sys.path), set(sys.modules)
    try:
        yield
    finally:
        for kind, found in known.items():
            REGISTRY[kind].clear()
            REGISTRY[kind].update(found)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if name in ("mine", "other") or name.startswith(plugins_registry.USER_MODULE_PREFIX):
                del sys.modules[name]


def source(data: st.DataObject) -> str:
    """The code of a plug-in file with something odd about it."""
    draw = lambda values: data.draw(st.sampled_from(values))  # noqa: E731
    what = draw(["strategy"] * 3 + ["task", "whole"])
    if what == "whole":
        return str(draw(WHOLE))
    values: dict[str, Any] = {"name": "mine", "needs": "()", "version": "1", "kind": "int", "default": "1", "more": ""}
    values |= {"recipe": "Recipe()", "returned": "Own"}
    odd = {
        "name": CALLED, "needs": NEEDS, "version": VERSIONS, "kind": KINDS, "default": DEFAULTS,
        "more": MORE if what == "strategy" else MORE_TASK, "recipe": ["Recipe", "None", "5", "{}", "object()"],
        "returned": ["None", "'Own'", "Own | None", "3", "list[Own]", "'Missing'", "benchmark.api.Task"],
    }  # fmt: skip
    for key in data.draw(st.lists(st.sampled_from(sorted(odd)), max_size=2)):
        values[key] = draw(odd[key])
    return (STRATEGY if what == "strategy" else TASK).format(**values)


def asked(root: Path) -> list[Plugin]:
    """Finds the plug-ins of a folder and asks each all that `list` and a grid ask."""
    known, path = {plugin for found in REGISTRY.values() for plugin in found.values()}, list(sys.path)
    try:
        discovery.load_folder(root)
    finally:
        sys.path[:] = path  # that it grows is meant
    found = [plugin for kind in REGISTRY.values() for plugin in kind.values() if plugin not in known]
    for plugin in found:
        plugin.check()
    for plugin in found:
        spec = Spec.read(plugin.kind, plugin.name)
        assert spec.label == plugin.name
        assert set(spec.needs) is not None
        assert isinstance(spec.code_hash, str)
        spec.identity(only_non_defaults=True)
        if plugin.kind == "task":
            plugin.capabilities(spec.values)
            plugin.recipe(spec.values)
        elif plugin.companion is not None:
            plugin.resolve_declaration("companion", spec.values)
        [
            notation.format_value(default)
            for _, default in plugin.parameters().values()
            if default is not plugins_registry.REQUIRED
        ]
    return found


def plugin_judged(data: st.DataObject) -> str:
    """One odd folder of plug-ins."""
    with folder() as root, registry():
        for _ in range(data.draw(st.integers(1, 2))):
            text = source(data).encode("utf-8", "surrogateescape")
            path = root / data.draw(st.sampled_from(NAMES))
            path.write_bytes(damaged(data, text) if data.draw(st.integers(0, 4)) == 0 else text)
        if data.draw(st.integers(0, 4)) == 0:
            befall(data, root)
        files = [path for path in root.glob("[!._]*.py")]

        def check(found: list[Plugin], lines: list[str]) -> bool:
            homes = {os.path.realpath(plugins_registry.source_file(plugin)) for plugin in found}
            others = [path for path in files if os.path.realpath(path) not in homes]
            assert len([line for line in lines if "registers no strategy" in line]) >= len(others)
            return not lines

        return judged(partial(asked, root), check, root, os.path.realpath(root), *(f"{name}[" for name in CALLED))


@SIZES
def test_folders_of_plug_ins_are_usable_or_refused(number: int) -> None:
    corpus("plug-in folders", number, plugin_judged)


# --- names and parameters ---------------------------------------------------------------------
VALUES = [
    "1",
    "null",
    "true",
    "nan",
    "1e400",
    "-1",
    "",
    "x",
    "'",
    '"',
    "[",
    "]",
    "{",
    "a,b",
    "é",
    "\0",
    "\ud800",
    "9" * 500,
    "euclidean",
]


def name_judged(data: st.DataObject) -> str:
    """One odd name of a plug-in with parameters."""
    kind = data.draw(st.sampled_from(sorted(FOLDERS)))
    name = data.draw(st.sampled_from([*sorted(REGISTRY[kind]), "nothing", "", "É", "a b"]))
    known = sorted(REGISTRY[kind][name].parameters()) if name in REGISTRY[kind] else ["x"]
    keys = st.sampled_from([*known, "x", "", "published", "a b"])
    given = data.draw(st.lists(st.tuples(keys, st.sampled_from(VALUES)), max_size=3))
    brackets = data.draw(
        st.sampled_from(["{}[{}]"] * 6 + ["{}{}", "{}[{}", "{}]{}[", "{}[[{}]]", " {} [ {} ] ", "{}[{}]x"])
    )
    text = brackets.format(name, ",".join(f"{key}={value}" for key, value in given))

    def check(spec: Spec, lines: list[str]) -> bool:
        again = Spec.read(kind, spec.label)
        assert (again, again.values) == (spec, spec.values)
        spec.identity()
        return True

    return judged(partial(Spec.read, kind, text), check, "")


@SIZES
def test_names_with_parameters_are_read_or_refused(number: int) -> None:
    corpus("plug-in names", number, name_judged)
