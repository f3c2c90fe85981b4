"""Plug-ins come from the two folders, from a user's folder and from installed packages."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from benchmark import plugins
from benchmark.plugins import REGISTRY, Plugin, checked, parse

CODE = """
from numpy.random import Generator
from benchmark.api import Indices, View, register

@register(needs=(), version=1)
def {name}(view: View, budget: int, rng: Generator) -> Indices:
    '''The first ones.'''
    return view.unlabelled[:budget]
"""


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    plugins.discover()
    before = {kind: dict(known) for kind, known in REGISTRY.items()}
    yield
    for kind, known in before.items():
        REGISTRY[kind].clear()
        REGISTRY[kind].update(known)


def test_a_users_folder(tmp_path: Path) -> None:
    (tmp_path / "first_ones.py").write_text(CODE.format(name="first_ones"))
    (tmp_path / "_maths.py").write_text("raise RuntimeError('is nobody\\'s plug-in')")
    (tmp_path / "test_first_ones.py").write_text("raise RuntimeError('is a test')")
    plugins.discover(tmp_path)
    assert plugins.get("strategy", "first_ones").version == 1


def test_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "somebodys_package.py").write_text(CODE.format(name="somebodys"))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = EntryPoint("somebodys", "somebodys_package", "al_benchmark.strategies")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [found] if group == found.group else [])
    plugins.discover()
    assert plugins.get("strategy", "somebodys").function.__module__ == "somebodys_package"


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE.format(name="entropy"))
    with pytest.raises(ValueError, match=r"two strategies are called entropy: .*mine\.py"):
        plugins.discover(tmp_path)


def test_a_file_that_does_not_import_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def broken(:")
    with pytest.raises(ValueError, match=r"broken\.py does not import: SyntaxError"):
        plugins.discover(tmp_path)


@pytest.mark.parametrize(
    ("text", "name", "given"),
    [
        ("coreset", "coreset", {}),
        ("coreset[]", "coreset", {}),
        (" isal[k=2, reference=test] ", "isal", {"k": 2, "reference": "test"}),
        ("x[a=true,b=null,c=0.5,d=1e-3]", "x", {"a": True, "b": None, "c": 0.5, "d": 0.001}),
        ({"coreset": {"metric": "cosine"}}, "coreset", {"metric": "cosine"}),
        ({"coreset": None}, "coreset", {}),
    ],
)
def test_labels_are_read(text: object, name: str, given: dict[str, object]) -> None:
    assert parse(text) == (name, given)


@pytest.mark.parametrize("text", ["", "a[", "a[b]", "a]b[", 3, None, ["a"], {"a": 1, "b": 2}, "a b"])
def test_what_is_no_label_is_said(text: object) -> None:
    with pytest.raises(ValueError, match=r"is not"):
        parse(text)


def test_labels_read_back() -> None:
    made = Plugin("strategy", "f", lambda *, lr=0.1, name="x", on=True, none=None: None, 1)
    given = {"lr": 1e-4, "name": "y", "on": False}
    label = made.label(given)
    assert made.label(parse(label)[1]) == label
    assert made.bind(parse(label)[1]) == {"none": None, **given}


def test_an_int_passes_for_a_float_and_nothing_else_for_another() -> None:
    assert checked("x", 1, float) == 1.0
    for value, kind in ((1.0, int), (True, int), (True, float), ("1", int), (None, str)):
        with pytest.raises(ValueError, match=r"must be of type"):
            checked("x", value, kind)
