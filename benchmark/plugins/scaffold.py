"""`new strategy NAME`: a strategy of about ten lines and its test, ready to run."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from benchmark.plugins.registry import REGISTRY
from benchmark.system import files

STRATEGY = '''"""{name}: say in one sentence what it chooses, and the paper."""

from numpy.random import Generator

from benchmark.api import How, Indices, View, register


@register(needs={{"predict"}}, version=1)
def {name}(view: View, budget: int, rng: Generator, *, how: How = "mean") -> Indices:
    """The images whose likeliest class is least likely; `how` joins the boxes of an image."""
    predictions = view.predict(view.unlabelled)
    doubt_P = 1 - predictions.scores_PC.amax(1)
    return view.highest(predictions.per_image(doubt_P, how), budget)
'''

TEST = '''"""{name} does what every strategy must, and what it alone promises."""

import torch

from benchmark.plugins import discovery, registry
from benchmark.api import Machine
from benchmark.conformance.checks import failures
from benchmark.experiment.spec import Spec


def test_{name}_conforms() -> None:
    discovery.discover({folder})
    machine = Machine(torch.device("cpu"))
    assert failures(registry.get("strategy", "{name}"), Spec.read("task", "{on}"), machine) == []
'''


def new_strategy(name: str, folder: str | None, on: str) -> list[Path]:
    """Writes NAME.py and test_NAME.py, into `folder` or into a checkout's strategies/ and tests/.

    ValueError where the name cannot be one, is taken, or where there is no place to write.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no name for a strategy: lower-case letters, digits and _")
    if name.startswith("test_"):
        raise ValueError(f"{name}: files called test_* are taken for tests, not for plug-ins")
    if name in REGISTRY["strategy"]:
        raise ValueError(f"there is a strategy {name} already")
    if folder is None and not Path("strategies/__init__.py").is_file():
        raise ValueError("not in a checkout of al-benchmark: name a folder for your plug-ins, plugins=DIR")
    code = Path(folder or "strategies") / f"{name}.py"
    test = Path(folder or "tests") / f"test_{name}.py"
    where = "" if folder is None else repr(folder)
    for path, text in ((code, STRATEGY.format(name=name)), (test, TEST.format(name=name, folder=where, on=on))):
        if path.exists():
            raise ValueError(f"{path} is there already")
        files.replace(path, text)
    return [code, test]
