"""The contract: a protocol for each capability, and one name for all of it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

import pytest

from benchmark import api
from benchmark.contract import capabilities
from benchmark.plugins.capability_names import CAPABILITIES, LABEL_NEEDS, Capability, Need, capabilities_of
from benchmark.plugins.registry import Plugin
from benchmark.vision.classification import Classification, Classifier, Probe
from benchmark.vision.detection import Detection
from benchmark.vision.segmentation import Segmentation
from tests._toy import Toy

ROOT = Path(__file__).parent.parent


def method(protocol: type) -> str:
    """The one method of a protocol."""
    [name] = [name for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"]
    return name


PROTOCOLS = {
    method(kind): kind
    for kind in vars(capabilities).values()
    if inspect.isclass(kind) and kind.__module__ == capabilities.__name__
}


def test_each_capability_has_a_protocol_and_words() -> None:
    assert PROTOCOLS.keys() == set(get_args(Capability)) == CAPABILITIES.keys()
    assert {kind.__name__ for kind in PROTOCOLS.values()} <= set(api.__all__)
    needs = {name for part in get_args(Need) for name in get_args(part) or [part]}
    assert needs == CAPABILITIES.keys() | LABEL_NEEDS


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_view_hands_a_capability_on_with_the_model_bound(name: str) -> None:
    theirs, ours = (inspect.signature(getattr(kind, name)).parameters for kind in (PROTOCOLS[name], api.View))
    hidden = {"model", "test"}  # bound; of the loop alone
    assert [name for name in theirs if name not in hidden] == list(ours)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_protocol_says_what_it_takes_and_gives(name: str) -> None:
    kind = PROTOCOLS[name]
    assert f"Need `{name}`:" in str(inspect.getdoc(kind))
    text = str(inspect.getdoc(getattr(kind, name)))
    assert "Args:" in text
    assert "Returns:" in text
    for parameter in list(inspect.signature(getattr(kind, name)).parameters)[1:]:
        assert f"\n    {parameter}: " in text


@pytest.mark.parametrize("kind", [Classification, Classifier, Probe, Detection, Segmentation])
def test_a_task_of_the_library_keeps_the_signatures(kind: type) -> None:
    names = capabilities_of(kind)
    assert names == {name for name, protocol in PROTOCOLS.items() if issubclass(kind, protocol)} > {"predict", "losses"}
    for name in names:
        ours, theirs = (inspect.signature(getattr(owner, name)).parameters for owner in (kind, PROTOCOLS[name]))
        assert list(ours) == list(theirs), name


def test_what_a_task_has_besides_is_no_capability() -> None:
    assert capabilities_of(Toy) == {
        "predict", "sample", "embed", "companion", "weights", "pseudo_labels", "losses", "directional",
    }  # fmt: skip


@pytest.mark.parametrize("needs", [{"predcit"}, lambda: {"predict", "predcit"}])
def test_a_need_that_nothing_gives_is_named(needs: Collection[Any]) -> None:
    def wishful() -> None:
        """Nothing."""

    plugin = Plugin("strategy", "wishful", wishful, 1, needs=needs)
    with pytest.raises(
        ValueError,
        match=r"wishful has an unknown need: no capability is called 'predcit' .did you mean 'predict'",
    ):
        plugin.resolve_needs({})


def test_the_contract_has_one_name() -> None:
    assert sorted(api.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)) == api.__all__
    tree = ast.parse((ROOT / "benchmark" / "api.py").read_text())
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported - {"annotations"} == set(api.__all__)


STRATEGY = """
import numpy as np
from benchmark.api import Indices, View, register

@register(needs={"NEED"}, version=1)
def picky(view: View, budget: int, rng: np.random.Generator) -> Indices:
    return view.unlabelled[:budget]
"""


@pytest.mark.slow
@pytest.mark.parametrize(("need", "said"), [("predict", "Success"), ("predcit", "picky.py:5: error: Argument 1")])
def test_mypy_checks_the_needs_of_a_strategy(need: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(STRATEGY.replace("NEED", need))
    words = [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "picky.py")]
    assert said in subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout
