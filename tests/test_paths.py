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
from benchmark.analysis.options import PUBLISHED_FOLDER, AnalysisOptions, resolve_paths
from benchmark.api import Machine
from benchmark.cli import commands
from benchmark.plugins import registry
from benchmark.plugins.paths import expand_home, parse_paths, path_as_typed

ODD = ["a,b", "O'Brien", "with space", "[x]", "k=v", '"quoted"', "~x", "ü", "{y}", "back\\slash", "a,b]"]
SMALL = ["seeds=1", "rounds=2", "initial=20", "budget=5", "validation=0"]


def output_of(*words: str) -> str:
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
    given = path_as_typed(Path(name))
    words = ["tasks=[shelf]", *SMALL, f"plugins={FAULTY}", "device=cpu"]
    for other in ("a", "b"):  # what a name with a comma must not be taken for
        (here / other).mkdir()
    output_of("run", *words, "strategies=[random]", f"out={given}")
    assert sorted(path.name for path in here.iterdir()) == sorted({name, "a", "b"})
    for verb in ("status", "tables", "seconds", "verify"):
        assert (
            output_of(verb, f"out={given}", "format=json")
            == output_of(verb, f"records={given}", "format=json")
            != "[]\n"
        )


def test_out_is_never_a_list(here: Path) -> None:
    for folder, strategy in (("p", "random"), ("q", "in_order"), ("p,q", "random")):
        output_of("run", "tasks=[shelf]", *SMALL, f"plugins={FAULTY}", f"strategies=[{strategy}]", f"out={folder}")
    names = {
        out: {row["strategy"] for row in json.loads(output_of("tables", f"out={out}", "format=json"))}
        for out in ("p,q", "q")
    }
    assert names == {"p,q": {"random"}, "q": {"in_order"}}
    both = {row["strategy"] for row in json.loads(output_of("tables", "records=[p,q]", "format=json"))}
    assert both == {"random", "in_order"}
    assert [row["cells"] for row in json.loads(output_of("status", "records=[p,q]", "format=json"))] == [1, 1]


# --- several ----------------------------------------------------------------------------------
def test_lists_of_folders_have_one_rule(here: Path) -> None:
    assert parse_paths("a,b", "x") == ["a", "b"]
    assert parse_paths(" a , b ,", "x") == ["a", "b"]
    assert parse_paths('[a,"b,c",O\'Brien]', "x") == ["a", "b,c", "O'Brien"]
    for name in ("a,b", "[a]", " c"):
        (here / name).mkdir()
        assert parse_paths(name, "x") == [name]
    assert parse_paths('["a,b",d]', "x") == ["a,b", "d"]
    with pytest.raises(ValueError, match=r"the quote .* is not closed"):
        parse_paths('a,"b', "x")


def test_published_is_a_path_where_there_is_one(here: Path) -> None:
    assert resolve_paths("published,a", "records") == [str(PUBLISHED_FOLDER), "a"]
    (here / "published").mkdir()
    assert resolve_paths("published", "records") == ["published"]


# --- home -------------------------------------------------------------------------------------
def test_the_home_folder_in_every_setting(here: Path) -> None:
    home = str(here.parent / "home")
    chosen = config.compose_settings(["data=~/d", "out=~/o", "plugins=~"])
    assert (chosen.data, chosen.out, chosen.plugins) == (f"{home}/d", f"{home}/o", home)
    assert AnalysisOptions(out="~/o").record_paths == [f"{home}/o"]
    assert AnalysisOptions(records="~/a,~/b,c~").record_paths == [f"{home}/a", f"{home}/b", "c~"]
    assert AnalysisOptions(against="~/a").published_paths == [f"{home}/a"]
    assert AnalysisOptions(to="~/t").output_folder == Path(home, "t")
    machine = Machine(torch.device("cpu"), Path("/data"))
    assert machine.resolve_path("~/pets") == Path(home, "pets")
    assert machine.resolve_path("pets~") == Path("/data/pets~")


def test_the_data_folder_of_the_environment_may_be_at_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AL_BENCHMARK_DATA", "~/d, with a comma")
    assert config.compose_settings([]).data == str(here.parent / "home" / "d, with a comma")


@pytest.mark.parametrize("setting", ["data", "out", "plugins"])
def test_an_unknown_home_is_one_line(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: Any) -> NoReturn:
        raise KeyError

    with pytest.raises(
        ValueError, match=f"^{setting}=~nobody-here/x: there is no user nobody-here: write the whole path"
    ):
        config.compose_settings([f"{setting}=~nobody-here/x"])
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(
        ValueError, match=rf"^{setting}=~/x: the home folder of this user is not known \(HOME is not set\)"
    ):
        config.compose_settings([f"{setting}=~/x"])


def test_an_unknown_home_is_one_line_where_records_are_read_too() -> None:
    for ask in (AnalysisOptions(out="~nobody-here"), AnalysisOptions(records="~nobody-here/a")):
        with pytest.raises(ValueError, match="there is no user nobody-here"):
            _ = ask.record_paths
    with pytest.raises(ValueError, match="there is no user nobody-here"):
        _ = AnalysisOptions(to="~nobody-here").output_folder
    with pytest.raises(ValueError, match="there is no user nobody-here"):
        Machine(torch.device("cpu")).resolve_path("~nobody-here/pets")
    assert expand_home("~", "x=~") != "~"


def test_without_a_data_folder_it_is_said_what_to_set() -> None:
    machine = Machine(torch.device("cpu"))
    with pytest.raises(ValueError, match=r"^the folder of your data sets is not known: set data=DIR or"):
        machine.resolve_path(".")
    with pytest.raises(ValueError, match=r"^pets is looked for in the folder of your data sets: set data=DIR"):
        machine.resolve_path("pets")


# --- text in the brackets of a name -------------------------------------------------------------
@pytest.mark.parametrize("name", ODD)
def test_data_may_be_called_anything_and_explain_tells_the_command(here: Path, name: str) -> None:
    for place, part in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        folder = here / "data" / name / part
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(10 * place + number).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    inside = {"root": path_as_typed(Path(name)), "size": 8, "model": "small_cnn", "epochs": 1, "precision": "float32"}
    label = registry.get("task", "image_folder").label(inside)
    words = [*SMALL[:2], "initial=2", "budget=1", "validation=0", "device=cpu"]
    output_of("run", f"tasks=[{label}]", "strategies=[random]", "data=data", f"out=./{name}_", *words)
    lines = output_of("explain", f"{label}/random/seed-0", f"out=./{name}_")
    command = shlex.split(lines.splitlines()[1].partition("python -m benchmark ")[2])
    done = CliRunner().invoke(commands.app, command)
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert "1 cell, 0 to do" in done.stderr
