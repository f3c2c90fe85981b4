"""Folders may be called anything, `~` is the home folder in every setting, and `out` is one folder."""

import json
import pwd
import shlex
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from _cells import FAULTY
from PIL import Image
from typer.testing import CliRunner

from benchmark import config
from benchmark.analysis.options import PUBLISHED, AnalysisOptions, located
from benchmark.api import Machine
from benchmark.cli import commands
from benchmark.plugins import registry
from benchmark.plugins.places import expanded, folders, written

ODD = ["a,b", "O'Brien", "with space", "[x]", "k=v", '"quoted"', "~x", "ü", "{y}", "back\\slash", "a,b]"]
SMALL = ["seeds=1", "rounds=2", "initial=20", "budget=5", "validation=0"]


def told(*words: str) -> str:
    done = CliRunner().invoke(commands.app, list(words))
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done.stdout


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a home folder beside it."""
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AL_BENCHMARK_DATA", raising=False)
    return tmp_path / "here"


# --- one folder -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ODD)
def test_a_results_folder_may_be_called_anything(here: Path, name: str) -> None:
    given = written(Path(name))
    words = ["tasks=[shelf]", *SMALL, f"plugins={FAULTY}", "device=cpu"]
    for other in ("a", "b"):  # what a name with a comma must not be taken for
        (here / other).mkdir()
    told("run", *words, "strategies=[random]", f"out={given}")
    assert sorted(path.name for path in here.iterdir()) == sorted({name, "a", "b"})
    for verb in ("status", "tables", "seconds", "verify"):
        assert told(verb, f"out={given}", "format=json") == told(verb, f"records={given}", "format=json") != "[]\n"


def test_out_is_never_a_list(here: Path) -> None:
    for folder, strategy in (("p", "random"), ("q", "in_order"), ("p,q", "random")):
        told("run", "tasks=[shelf]", *SMALL, f"plugins={FAULTY}", f"strategies=[{strategy}]", f"out={folder}")
    names = {
        out: {row["strategy"] for row in json.loads(told("tables", f"out={out}", "format=json"))}
        for out in ("p,q", "q")
    }
    assert names == {"p,q": {"random"}, "q": {"in_order"}}
    both = {row["strategy"] for row in json.loads(told("tables", "records=[p,q]", "format=json"))}
    assert both == {"random", "in_order"}
    assert [row["cells"] for row in json.loads(told("status", "records=[p,q]", "format=json"))] == [1, 1]


# --- several ----------------------------------------------------------------------------------
def test_lists_of_folders_have_one_rule(here: Path) -> None:
    assert folders("a,b", "x") == ["a", "b"]
    assert folders(" a , b ,", "x") == ["a", "b"]
    assert folders('[a,"b,c",O\'Brien]', "x") == ["a", "b,c", "O'Brien"]
    for name in ("a,b", "[a]", " c"):
        (here / name).mkdir()
        assert folders(name, "x") == [name]
    assert folders('["a,b",d]', "x") == ["a,b", "d"]
    with pytest.raises(ValueError, match=r"the quote .* is not closed"):
        folders('a,"b', "x")


def test_published_is_a_path_where_there_is_one(here: Path) -> None:
    assert located("published,a", "records") == [str(PUBLISHED), "a"]
    (here / "published").mkdir()
    assert located("published", "records") == ["published"]


# --- home -------------------------------------------------------------------------------------
def test_the_home_folder_in_every_setting(here: Path) -> None:
    home = str(here.parent / "home")
    chosen = config.settings(["data=~/d", "out=~/o", "plugins=~"])
    assert (chosen.data, chosen.out, chosen.plugins) == (f"{home}/d", f"{home}/o", home)
    assert AnalysisOptions(out="~/o").places == [f"{home}/o"]
    assert AnalysisOptions(records="~/a,~/b,c~").places == [f"{home}/a", f"{home}/b", "c~"]
    assert AnalysisOptions(against="~/a").compared_with == [f"{home}/a"]
    assert AnalysisOptions(to="~/t").folder == Path(home, "t")
    machine = Machine(torch.device("cpu"), Path("/data"))
    assert machine.located("~/pets") == Path(home, "pets")
    assert machine.located("pets~") == Path("/data/pets~")


def test_the_data_folder_of_the_environment_may_be_at_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AL_BENCHMARK_DATA", "~/d, with a comma")
    assert config.settings([]).data == str(here.parent / "home" / "d, with a comma")


@pytest.mark.parametrize("setting", ["data", "out", "plugins"])
def test_an_unknown_home_is_one_line(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: Any) -> NoReturn:
        raise KeyError

    with pytest.raises(
        ValueError, match=f"^{setting}=~nobody-here/x: there is no user nobody-here: write the whole path"
    ):
        config.settings([f"{setting}=~nobody-here/x"])
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(
        ValueError, match=rf"^{setting}=~/x: the home folder of this user is not known \(HOME is not set\)"
    ):
        config.settings([f"{setting}=~/x"])


def test_an_unknown_home_is_one_line_where_records_are_read_too() -> None:
    for ask in (AnalysisOptions(out="~nobody-here"), AnalysisOptions(records="~nobody-here/a")):
        with pytest.raises(ValueError, match="there is no user nobody-here"):
            _ = ask.places
    with pytest.raises(ValueError, match="there is no user nobody-here"):
        _ = AnalysisOptions(to="~nobody-here").folder
    with pytest.raises(ValueError, match="there is no user nobody-here"):
        Machine(torch.device("cpu")).located("~nobody-here/pets")
    assert expanded("~", "x=~") != "~"


def test_without_a_data_folder_it_is_said_what_to_set() -> None:
    machine = Machine(torch.device("cpu"))
    with pytest.raises(ValueError, match=r"^the folder of your data sets is not known: set data=DIR or"):
        machine.located(".")
    with pytest.raises(ValueError, match=r"^pets is looked for in the folder of your data sets: set data=DIR"):
        machine.located("pets")


# --- text in the brackets of a name -------------------------------------------------------------
@pytest.mark.parametrize("name", ODD)
def test_data_may_be_called_anything_and_explain_tells_the_command(here: Path, name: str) -> None:
    for place, part in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        folder = here / "data" / name / part
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(10 * place + number).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    inside = {"root": written(Path(name)), "size": 8, "model": "small_cnn", "epochs": 1, "precision": "float32"}
    label = registry.get("task", "image_folder").label(inside)
    words = [*SMALL[:2], "initial=2", "budget=1", "validation=0", "device=cpu"]
    told("run", f"tasks=[{label}]", "strategies=[random]", "data=data", f"out=./{name}_", *words)
    lines = told("explain", f"{label}/random/seed-0", f"out=./{name}_")
    command = shlex.split(lines.splitlines()[1].partition("python -m benchmark ")[2])
    done = CliRunner().invoke(commands.app, command)
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert "1 cell, 0 to do" in done.stderr
