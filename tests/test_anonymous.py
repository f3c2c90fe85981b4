"""With anonymous=true nothing that is written reveals who ran it: no folder, user, host or commit."""

import io
import json
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _curves import PLAIN, recorded
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from benchmark.cli.commands import app
from benchmark.config import build_grid as grid_of
from benchmark.config import compose_settings
from benchmark.experiment.spec import Spec
from benchmark.plugins.discovery import discover
from benchmark.plugins.registry import REGISTRY
from benchmark.records import anonymous
from benchmark.records.image_file_list import Sources
from benchmark.records.store import Store

ROOT = Path(__file__).parent.parent
USER, HOST = "zoe-quill", "quillbox"
TELLING = (USER, HOST, "quill", "/home/", "/tmp", str(ROOT), os.path.expanduser("~"), sys.prefix)
PLUGIN = '''"""One that fails."""

from benchmark.api import View, register


@register(version=1)
def breaks_down(view: View, budget: int, rng) -> list[int]:
    """Fails."""
    with open("/home/zoe-quill/secret plans/a.txt") as handle:
        return handle
'''


def images(folder: Path) -> None:
    for place, part in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (folder / part).mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(10 * place + number).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / part / f"{number}.png")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder with data, a plug-in and the results of a run in which a cell failed."""
    home = tmp_path_factory.mktemp("machine") / "home" / USER
    images(home / "sets of mine" / "birds")
    (home / "plug").mkdir()
    (home / "plug" / "breaks_down.py").write_text(PLUGIN)
    yield home
    REGISTRY["strategy"].pop("breaks_down", None)
    sys.path[:] = [path for path in sys.path if path != str(home / "plug")]


def benchmark(home: Path, *words: str) -> Result:
    """Runs a command as the owner of that home folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HOME": str(home), "USER": USER, "LOGNAME": USER, "HOSTNAME": HOST}.items():
            patch.setenv(name, value)
        patch.chdir(home)
        patch.setattr("socket.gethostname", lambda: HOST)
        for cached in (anonymous.machine_names, anonymous.machine_folders):
            cached.cache_clear()
        done = CliRunner().invoke(app, list(words))
    for cached in (anonymous.machine_names, anonymous.machine_folders):
        cached.cache_clear()
    return done


def words_of(home: Path, out: str) -> list[str]:
    return [
        "tasks=[image_folder[root=birds,size=8,model=small_cnn,epochs=1,precision=float32]]",
        "strategies=[random,entropy,breaks_down]", "seeds=1", "initial=4", "budget=2", "rounds=2", "device=cpu",
        "threads=1", f"data={home / 'sets of mine'}", f"plugins={home / 'plug'}", f"out={out}", "anonymous=true",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    out = home / "results" / "one"
    done = benchmark(home, "run", *words_of(home, str(out)))
    assert done.exit_code == 1, done.output  # the cell of the plug-in failed
    assert "No such file or directory" in done.stderr
    done = benchmark(home, "report", f"out={out}", "anonymous=true")
    assert done.exit_code == 0, done.output
    return out


def parts(path: Path) -> Iterator[bytes]:
    """Yields the content of a file, and of what is compressed in it."""
    content = path.read_bytes()
    yield content
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name.encode() + archive.read(name)
    if path.suffix == ".pdf":
        for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
            try:
                yield zlib.decompress(stream)
            except zlib.error:
                yield stream


def test_nothing_in_the_folder_tells_who_ran_it(folder: Path) -> None:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in paths}
    assert {".json", ".jsonl", ".txt", ".npz", ".csv", ".md", ".tex", ".html", ".svg", ".pdf", ".png"} <= kinds
    assert any(".fits" in path.parts for path in paths)
    for path in paths:
        relative = str(path.relative_to(folder))
        numbers_only = path.suffix == ".safetensors" or path.suffix == ".npz"  # where four bytes meet by chance
        telling = [word.encode() for word in TELLING if len(word) > 5 or not numbers_only]
        hits = [word for word in telling if word in relative.encode() or any(word in part for part in parts(path))]
        assert not hits, path


def test_it_still_says_what_was_run(folder: Path) -> None:
    manifest = json.loads((folder / "grid.json").read_text())
    [run] = manifest["runs"]
    assert "data=DATA plugins=PLUGINS out=OUT anonymous=true" in run["command"]
    assert "root=birds" in run["command"]
    assert run["commit"] == ""
    [trace] = [path.read_text() for path in (folder / "failures").rglob("*.txt")]
    assert 'File "benchmark/runner/loop.py", line' in trace
    assert "breaks_down.py" in trace
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'a.txt'" in trace
    page = (folder / "report.html").read_text()
    assert "python -m benchmark report out=OUT anonymous=true" in page
    assert "commit" not in page
    assert 'href="cells/image_folder' in page


def test_the_same_command_goes_on(home: Path, folder: Path) -> None:
    before = (folder / "grid.json").read_bytes()
    done = benchmark(home, "run", *words_of(home, str(folder)))
    assert "3 cells, 1 to do" in done.stderr
    assert (folder / "grid.json").read_bytes() == before


@pytest.mark.parametrize("root", ["/home/zoe/birds", "~/birds", "~zoe/birds", "../zoe/birds", "a/../../b"])
def test_a_parameter_that_tells_a_folder_is_refused(root: str) -> None:
    discover()
    entry = {"task": {"image_folder": {"root": root}}, "strategies": ["random"], "seeds": 1}
    sizes = {"initial": 5, "budget": 5, "rounds": 2}
    cells = grid_of(replace(compose_settings([]), experiments={"x": entry | sizes})).cells()
    with pytest.raises(ValueError, match=r"^anonymous=true: image_folder\[root=.*\] would be in the records: [^\n]*$"):
        anonymous.check_parameters(cells)
    task = Spec.read("task", {"image_folder": {"root": "birds"}})
    anonymous.check_parameters([replace(cell, task=task) for cell in cells])


def test_wandb_tells_user_and_host() -> None:
    with pytest.raises(ValueError, match="tracking=wandb uploads the names of user and host"):
        compose_settings(["tracking=wandb", "anonymous=true"])


@pytest.mark.parametrize(
    ("text", "remainder"),
    [
        ('File "/opt/al/code/loop.py", line 3', 'File "loop.py", line 3'),
        ("image_folder[root=/home/zoe/birds]", "image_folder[root=birds]"),
        ('image_folder[root="/home/Zoe Q/birds,2"]', 'image_folder[root="birds,2"]'),
        ("No such file: '/data/zoe quill/a b.png'", "No such file: 'a b.png'"),
        ("see ~zoe/x and ~/y or /etc/ and C:/Users/zoe/z", "see x and y or etc and z"),
        ("10k x map / boxes, and/or 3/4, made/mine/seed-0", "10k x map / boxes, and/or 3/4, made/mine/seed-0"),
        ("https://example.org/a/b", "https://example.org/a/b"),
    ],
)
def test_of_a_path_the_last_part_is_left(text: str, remainder: str) -> None:
    assert anonymous.redact(text) == remainder
    assert anonymous.redact(remainder) == remainder


def test_names_of_user_and_host_are_left_out_where_they_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "zoe")
    monkeypatch.setattr("socket.gethostname", lambda: "quillbox.lab.example")
    anonymous.machine_names.cache_clear()
    try:
        assert anonymous.redact("zoe's on quillbox.lab.example, quillbox: zoetrope") == "USER's on HOST, HOST: zoetrope"
        monkeypatch.setenv("LOGNAME", "root")
        anonymous.machine_names.cache_clear()
        assert anonymous.redact("root=birds") == "root=birds"
    finally:
        anonymous.machine_names.cache_clear()


def telling(tmp_path: Path) -> Store:
    """A results folder of someone who ran it with full paths and without anonymous=true."""
    label = "digits[weights=/home/zoe/w.pth]"
    store = recorded(tmp_path / "zoe" / "run", PLAIN, name=label)
    manifest = json.loads((store.folder / "grid.json").read_text())
    manifest["experiments"][0]["task"] = label
    command = f"python -m benchmark run 'tasks=[{label}]' data=/home/zoe/sets out=../zoe"
    manifest["runs"] = [{"command": command, "version": "1", "commit": "abc123"}]
    (store.folder / "grid.json").write_text(json.dumps(manifest))
    store.save_sources(
        label, Sources("data", {"pool": [["/home/zoe/0.png", "0"]] * 100, "test": []}, ["FAULT: /home/zoe/odd"])
    )
    return store


def test_tables_and_report_of_a_folder_that_tells(tmp_path: Path) -> None:
    store = telling(tmp_path)
    for verb in ("tables", "report"):
        done = CliRunner().invoke(app, [verb, f"out={store.folder}", f"to={tmp_path / 'shown'}", "anonymous=true"])
        assert done.exit_code == 0, done.output + repr(done.exception)
    paths = [path for path in (tmp_path / "shown").rglob("*") if path.is_file()]
    assert {path.suffix for path in paths} >= {".csv", ".md", ".tex", ".html", ".svg", ".pdf"}
    for path in paths:
        assert "zoe" not in path.name
        assert not [part for part in parts(path) if b"zoe" in part or b"abc123" in part], path
    page = (tmp_path / "shown" / "report.html").read_text()
    assert "digits[<wbr>weights=w.pth]" in page
    assert "data=DATA out=OUT" in page
    assert "cells/" not in page


def test_a_run_takes_out_what_its_manifest_told(tmp_path: Path) -> None:
    store = telling(tmp_path)
    entries = store.manifest()["experiments"]
    Store(store.folder, anonymous=True).update_manifest(
        "made", entries, {"command": "x out=/a/b", "version": "1", "commit": "c"}
    )
    runs = store.manifest()["runs"]
    assert [run["commit"] for run in runs] == ["", ""]
    assert runs[0]["command"].endswith("'tasks=[digits[weights=w.pth]]' data=DATA out=OUT")
    assert runs[1]["command"] == "x out=OUT"
    Store(store.folder, anonymous=True).save_sources(
        "t", Sources("d", {"pool": [("/home/zoe/0.png", "0")]}, ["/home/zoe/odd"])
    )
    assert "zoe" not in store.sources_path("t").read_text()


def test_names_that_differ_by_their_folders_alone_are_refused(tmp_path: Path) -> None:
    for place in ("a", "b"):
        recorded(tmp_path / place, PLAIN, name=f"digits[weights=/{place}/w.pth]")
    with_both = ["tables", f"records={tmp_path / 'a'},{tmp_path / 'b'}", f"to={tmp_path / 'c'}", "anonymous=true"]
    done = CliRunner().invoke(app, with_both)
    assert "two names differ by their folders alone" in str(done.exception)
