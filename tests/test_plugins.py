"""Plug-ins come from the folders of the package, from a user's folder and from installed packages."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Optional

import pytest

from benchmark.plugins import discovery, registry
from benchmark.plugins.registry import REGISTRY, Plugin, convert_value
from benchmark.text.notation import parse_label

CODE = """
from numpy.random import Generator
from benchmark.api import Indices, View, register

@register(needs=(), version=1)
def {name}(view: View, budget: int, rng: Generator) -> Indices:
    '''The first ones.'''
    return view.unlabelled[:budget]
"""


Old = Optional[int]  # noqa: UP045 - as plug-ins may still write it


@dataclass(frozen=True)
class Setting:
    depth: int = 1


@pytest.fixture(autouse=True)
def fresh_registry() -> Iterator[None]:
    discovery.discover()
    before = {kind: dict(known) for kind, known in REGISTRY.items()}
    yield
    for kind, known in before.items():
        REGISTRY[kind].clear()
        REGISTRY[kind].update(known)


def test_a_users_folder(tmp_path: Path) -> None:
    (tmp_path / "first_ones.py").write_text(CODE.format(name="first_ones"))
    (tmp_path / "_maths.py").write_text("raise RuntimeError('is nobody\\'s plug-in')")
    (tmp_path / "test_first_ones.py").write_text("raise RuntimeError('is a test')")
    (tmp_path / "._first_ones.py").write_bytes(b"\0\5\26\7")  # macOS's, from a zip
    discovery.discover(tmp_path)
    assert registry.get("strategy", "first_ones").version == 1


def test_a_users_files_import_each_other_and_the_module_path_does_not_grow(tmp_path: Path) -> None:
    (tmp_path / "first_ones.py").write_text("from _doubling import double\n" + CODE.format(name="first_ones"))
    (tmp_path / "_doubling.py").write_text("def double(x): return 2 * x")
    for _ in range(3):
        discovery.discover(tmp_path)
        discovery.discover(f"{tmp_path}/.")
    assert sys.path.count(str(tmp_path)) == 1
    assert registry.get("strategy", "first_ones").function.__globals__["double"](2) == 4
    sys.path.remove(str(tmp_path))
    del sys.modules["_doubling"]


def test_a_plug_in_that_was_edited_within_a_second_runs_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for number in (1, 2):
        (tmp_path / "first_ones.py").write_text(
            f"from _half import half\nmine = {number}\n" + CODE.format(name="first_ones")
        )
        (tmp_path / "_half.py").write_text(f"half = {number}\n")
        for path in tmp_path.glob("*.py"):
            os.utime(path, (10**9, 10**9))
        discovery.discover(tmp_path)
        scope = registry.get("strategy", "first_ones").function.__globals__
        assert (scope["mine"], scope["half"]) == (number, number)
        del sys.modules["_half"]
    sys.path.remove(str(tmp_path))


def test_what_looks_for_its_neighbour_in_our_package_is_told_how_to_import_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from benchmark.strategies._of_mine import double")
    with pytest.raises(
        ValueError, match=r"No module named 'benchmark\.strategies\._of_mine'; files of one folder import each other"
    ):
        discovery.discover(tmp_path)


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    """So that what refers to a function by its module and name, as pickles do, finds the right one."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(CODE.format(name=name))
        discovery.discover(tmp_path / name)
    for name in ("one", "two"):
        function = registry.get("strategy", name).function
        assert getattr(sys.modules[function.__module__], name) is function
        sys.path.remove(str(tmp_path / name))


def test_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "somebodys_package.py").write_text(CODE.format(name="somebodys"))
    monkeypatch.syspath_prepend(str(tmp_path))
    entry_point = EntryPoint("somebodys", "somebodys_package", "al_benchmark.strategies")
    monkeypatch.setattr(discovery, "entry_points", lambda group: [entry_point] if group == entry_point.group else [])
    discovery.discover()
    assert registry.get("strategy", "somebodys").function.__module__ == "somebodys_package"


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE.format(name="entropy"))
    with pytest.raises(ValueError, match=r"two strategies are called entropy: .*mine\.py"):
        discovery.discover(tmp_path)


def test_a_file_that_does_not_import_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def broken(:")
    with pytest.raises(ValueError, match=r"broken\.py does not import: SyntaxError"):
        discovery.discover(tmp_path)


@pytest.mark.parametrize(
    ("text", "name", "given"),
    [
        ("coreset", "coreset", {}),
        ("coreset[]", "coreset", {}),
        (" isal[k=2, reference=test] ", "isal", {"k": "2", "reference": "test"}),
        ("x[a=true,b=null,c=1e-3]", "x", {"a": "true", "b": "null", "c": "1e-3"}),
        ({"coreset": {"metric": "cosine"}}, "coreset", {"metric": "cosine"}),
        ({"coreset": None}, "coreset", {}),
    ],
)
def test_labels_are_read(text: object, name: str, given: dict[str, object]) -> None:
    assert parse_label(text) == (name, given)


@pytest.mark.parametrize("text", ["", "a[", "a[b]", "a]b[", 3, None, ["a"], {"a": 1, "b": 2}, "a b"])
def test_what_is_no_label_is_said(text: object) -> None:
    with pytest.raises(ValueError, match=r"is not"):
        parse_label(text)


def test_labels_read_back() -> None:
    def f(*, lr: float = 0.1, name: str = "x", on: bool = True, most: int | None = 3, old: Old = None) -> None:
        pass

    plugin = Plugin("strategy", "f", f, 1)
    given = {"lr": 1e-5, "name": "2024", "on": False, "most": None, "old": 4}
    label = plugin.label(given)
    assert label == "f[lr=1e-05,most=null,name=2024,old=4,on=false]"
    assert plugin.bind(parse_label(label)[1]) == given


def test_an_int_passes_for_a_float_and_nothing_else_for_another() -> None:
    assert convert_value("x", 1, float) == 1.0
    for value, kind in ((1.0, int), (True, int), (True, float), ("one", int), ("1.5", int), (None, str)):
        with pytest.raises(ValueError, match=r"must be (a|true)"):
            convert_value("x", value, kind)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("from numpy.random import Generator", "from __future__ import annotations", "not imported: name 'Generator'"),
        ("needs=()", "needs='predict'", "needs='predict': must be a set of names"),
    ],
)
def test_what_nothing_can_use_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    (tmp_path / "odd.py").write_text(CODE.format(name="odd").strip().replace(old, new))
    with pytest.raises(ValueError, match=words):
        discovery.discover(tmp_path)


def test_a_broken_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_point = EntryPoint("x", "no_such_package_of_mine", "al_benchmark.tasks")
    monkeypatch.setattr(discovery, "entry_points", lambda group: [entry_point] if group == entry_point.group else [])
    with pytest.raises(ValueError, match="no_such_package_of_mine does not import: ModuleNotFoundError"):
        discovery.discover()


def test_finding_plug_ins_imports_no_library_that_only_some_use() -> None:
    """Every command that runs or lists begins with it, and each of these takes a second."""
    slow = ["torchvision", "sklearn", "timm", "matplotlib", "pandas", "ray", "mmdet", "cv2"]
    code = "import sys; from benchmark.plugins import discovery; discovery.discover()"
    code += f"; print(*(set({slow}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []


def test_a_task_checks_its_recipe_before_it_is_built() -> None:
    calls = list[object]()

    def task(machine: str, recipe: Setting) -> str:
        calls.append("built")
        return machine

    plugin = Plugin(
        "task", "task", task, 1, recipes={False: Setting()}, check_weights=lambda *given: calls.append(given)
    )
    plugin.build("here", plugin.bind({"depth": 3}))
    assert calls == [("here", Setting(3)), "built"]


def test_a_check_without_a_recipe_to_look_at_is_an_error() -> None:
    def task(machine: str) -> str:
        return machine

    with pytest.raises(ValueError, match=r"check= needs a recipe to check: set default= to one"):
        Plugin("task", "task", task, 1, check_weights=print).check()
