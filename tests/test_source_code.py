"""Edits of a plug-in are noticed, also in what it imports; words and other people's code are no edits."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _cells import cell, run

from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery, registry
from benchmark.plugins.code_hash import hash_code
from benchmark.records.checksummed_lines import encode_line, read_lines
from benchmark.records.store import Store
from benchmark.runner import record_checks

FILES = {
    "mine.py": "'Words.'\nimport math\nimport numpy\nfrom {0}_shared import a\ndef f():\n    from {0}_late import b\n",
    "_shared.py": "from {1}_deep import c  # words\na = c\n",
    "_deep.py": "c = 1\n",
    "_late.py": "async def b():\n    '''Words.'''\n",
    "_other.py": "d = 1\n",
}
STYLES = {"sibling": ("", ""), "package": ("own.", "own."), "relative": (".", ".")}


@pytest.fixture(params=STYLES)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[], str]]:
    """A folder of a plug-in and what that imports, and the hash of its code."""
    style = request.param
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for name, text in FILES.items():
        (folder / name).write_text(text.format(*STYLES[style]))
    module = "plug_mine" if style == "sibling" else "own.mine"
    return folder, lambda: hash_code(folder / "mine.py", module, style == "sibling")


@pytest.mark.parametrize("name", ["mine.py", "_shared.py", "_deep.py", "_late.py"])
def test_an_edit_is_noticed_wherever_it_is_imported_from(home: tuple[Path, Callable[[], str]], name: str) -> None:
    folder, code = home
    before = code()
    assert re.fullmatch("files-[0-9a-f]{16}", before)
    with open(folder / name, "a") as file:
        file.write("more = 2\n")
    assert code() != before


def test_words_and_files_that_it_does_not_import_are_no_edit(home: tuple[Path, Callable[[], str]]) -> None:
    folder, code = home
    before = code()
    for name in FILES:
        path = folder / name
        path.write_text(path.read_text().replace("ords", "ORDS") + "# a comment\n")
    for name in ("_other.py", "math.py", "benchmark.py", "strategies.py"):
        (folder / name).write_text("d = 2\n")
    assert code() == before


def test_files_that_import_each_other_or_nothing_that_is_there_have_a_code(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("import two, gone\nfrom . import three\nfrom .. import four\n")
    (tmp_path / "two.py").write_text("import one\n")
    assert hash_code(tmp_path / "one.py", "plug_one", in_user_folder=True).startswith("files-")
    (tmp_path / "two.py").write_text("import (\n")
    with pytest.raises(SyntaxError):
        hash_code(tmp_path / "one.py", "plug_one", in_user_folder=True)


def test_ours_take_in_the_maths_that_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    discovery.discover()
    read, names = Path.read_bytes, set[str]()

    def watched(path: Path) -> bytes:
        names.add(path.name)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", watched)
    for name, files in {"isal": {"isal.py", "influence.py"}, "coreset": {"coreset.py", "kcenter.py"}}.items():
        names.clear()
        plugin = registry.get("strategy", name)
        assert hash_code(registry.source_file(plugin), plugin.function.__module__, in_user_folder=False)
        assert files <= names
        assert "api.py" not in names


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A file that a strategy of a user's folder imports; the folder is forgotten afterwards."""
    code = "from benchmark.api import Indices, View, register\nimport numpy as np\nfrom _first import first\n\n\n"
    code += "@register(version=1)\ndef helped(view: View, budget: int, rng: np.random.Generator) -> Indices:\n"
    (tmp_path / "helped.py").write_text(f"{code}    return first(view.unlabelled, budget)\n")
    (tmp_path / "_first.py").write_text("def first(places, budget):\n    return places[:budget]\n")
    discovery.discover(tmp_path)
    yield tmp_path / "_first.py"
    registry.REGISTRY["strategy"].pop("helped", None)
    sys.modules.pop("_first", None)
    sys.path.remove(str(tmp_path.resolve()))


def test_an_edited_helper_of_a_users_strategy_is_said(shared: Path, tmp_path: Path) -> None:
    helped_cell = cell("helped", rounds=2, task="shelf")
    run([helped_cell], tmp_path)
    store = Store(tmp_path / "run")
    assert list(record_checks.edited_code_remarks([helped_cell], store)) == []
    shared.write_text("def first(places, budget):\n    return places[-budget:]\n")
    registry.REGISTRY["strategy"].pop("helped")
    discovery.discover(tmp_path)
    [said] = record_checks.edited_code_remarks([cell("helped", rounds=2, task="shelf")], store)
    assert said.startswith("helped, or what it imports, was edited since 1 of its cells were recorded")


def test_the_code_of_what_is_named_counts(shared: Path, tmp_path: Path) -> None:
    plain, named = (Spec.read("strategy", text) for text in ("random", "matched_random[like=helped]"))
    assert plain.code_hash == plain.plugin.code_hash()
    before = named.code_hash
    assert re.fullmatch("files-[0-9a-f]{16}", before)
    shared.write_text("def first(places, budget):\n    return places[-budget:]\n")
    registry.REGISTRY["strategy"].pop("helped")
    discovery.discover(tmp_path)
    again = Spec.read("strategy", "matched_random[like=helped]")
    assert again.plugin.code_hash() == named.plugin.code_hash()
    assert again.code_hash != before


def test_a_code_of_the_older_rule_raises_no_alarm(shared: Path, tmp_path: Path) -> None:
    helped_cell = cell("helped", rounds=1, task="shelf")
    run([helped_cell], tmp_path)
    store = Store(tmp_path / "run")
    path = store.path(helped_cell.path, "measured")
    [line], *_ = read_lines(path, ordered=False)
    path.write_bytes(encode_line(line | {"code": "0123456789abcdef"}))
    assert store.code_hashes(helped_cell.path) == set()
    assert list(record_checks.edited_code_remarks([helped_cell], store)) == []
