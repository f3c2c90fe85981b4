"""What others wrote is read, never run, and stays in the folder that it is for.

See also `files_run_no_code` in test_house_rules.py, CIFAR's archive in test_tasks_data.py and names in test_report.py.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from _curves import PLAIN, recorded
from torchvision.datasets import CIFAR10
from typer.testing import CliRunner

from benchmark.analysis.figures.gallery import Gallery
from benchmark.analysis.options import AnalysisOptions, parse_options
from benchmark.api import Machine
from benchmark.cli.commands import app
from benchmark.config import build_grid as grid_of
from benchmark.config import compose_settings
from benchmark.experiment.run_settings import Settings
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.plugins.scaffold import write_plugin
from benchmark.tasks.cifar10 import cifar10
from benchmark.text.words import slug
from benchmark.vision.classification.recipe import Recipe
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.torchvision_detectors import build_detector
from benchmark.vision.training import load_checkpoint

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


# --- code that runs what it reads -------------------------------------------------------------
RUNS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "runpy.run_module"}
LOADS = {"torch.jit.load", "torch.hub.load", "torch.serialization.load", "numpy.lib.npyio.read_array", "torch.package"}
UNPACKS = {"shutil.unpack_archive", "extractall", "extract", "tarfile.open", "zipfile.ZipFile"}
SHELLS = {"subprocess.getoutput", "subprocess.getstatusoutput"}


def name_of(node: ast.AST, imported: dict[str, str]) -> str:
    """`sp.run` as "subprocess.run" after `import subprocess as sp`."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value, imported)}.{node.attr}"
    return imported.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def imports(tree: ast.Module) -> dict[str, str]:
    """What the names in a file stand for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names |= {alias.asname or alias.name: f"{module}{alias.name}" for alias in node.names}
    return names


def dangers(text: str) -> Iterator[str]:
    """Calls that could run what a file or a user says, or unpack an archive."""
    tree = ast.parse(text)
    imported = imports(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func, imported)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        method = isinstance(node.func, ast.Attribute) and node.func.attr in UNPACKS
        writes = len(node.args) > 1 and ast.unparse(node.args[1]) == "'w'"  # an archive of our own
        if name in RUNS | LOADS | SHELLS or method or (name in UNPACKS and not writes):
            yield f"{node.lineno}: {name}"
        if given.get("shell", "False") != "False" or (name == "numpy.load" and len(node.args) > 2):
            yield f"{node.lineno}: {ast.unparse(node)}"
        if name.endswith(("jinja2.Environment", "jinja2.Template")) and given.get("autoescape") != "True":
            yield f"{node.lineno}: {name} without autoescape=True"


@pytest.mark.parametrize("folder", ["benchmark", "strategies", "tasks"])
def test_no_code_runs_or_unpacks_what_it_reads(folder: str) -> None:
    findings = [f"{path}:{words}" for path in (ROOT / folder).rglob("*.py") for words in dangers(path.read_text())]
    assert any((ROOT / folder).rglob("*.py"))
    assert not findings, "\n".join(findings)


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "exec(text)",
        "import os\nos.system('ls')",
        "from os import system as s\ns('ls')",
        "import subprocess as sp\nsp.run('ls', shell=True)",
        "from subprocess import getoutput\ngetoutput('ls')",
        "import torch\ntorch.jit.load('x')",
        "import numpy as np\nnp.load('x', None, True)",
        "import tarfile\nwith tarfile.open('x') as tar:\n    tar.getnames()",
        "tar.extractall('x')",
        "import shutil\nshutil.unpack_archive('x')",
        "from jinja2 import Environment\nEnvironment()",
        "import jinja2\njinja2.Template('x', autoescape=False)",
    ],
)
def test_a_danger_is_seen(text: str) -> None:
    assert list(dangers(text))


@pytest.mark.parametrize(
    "text", ["model.eval()", "import jinja2\njinja2.Environment(autoescape=True)", "import re\nre.compile('x')"]
)
def test_what_is_no_danger_passes(text: str) -> None:
    assert list(dangers(text)) == []


def test_templates_switch_no_escaping_off() -> None:
    paths = [*ROOT.glob("benchmark/**/*.html")]
    assert paths
    for path in paths:
        assert not re.findall(r"\|\s*safe\b|autoescape|Markup", path.read_text()), path


# --- files with code in them ------------------------------------------------------------------
class Evil:
    """Makes a folder when it is unpickled, through a shell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"mkdir {self.folder}",)


def test_the_payload_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "hacked")))
    assert (tmp_path / "hacked").exists()


def bare(folder: Path) -> Path:
    """A file that is nothing but a pickle, as torch.load once took them."""
    (folder / "bare.pth").write_bytes(pickle.dumps(Evil(folder / "hacked"), protocol=2))
    return folder / "bare.pth"


def whole(folder: Path) -> Path:
    """A file of torch.save."""
    torch.save(Evil(folder / "hacked"), folder / "whole.pth")
    return folder / "whole.pth"


def old(folder: Path) -> Path:
    """A file of torch.save before it wrote zip files."""
    torch.save({"a": Evil(folder / "hacked")}, folder / "old.pt", _use_new_zipfile_serialization=False)
    return folder / "old.pt"


def disguised(folder: Path) -> Path:
    """A pickle that calls itself safetensors."""
    return whole(folder).rename(folder / "x.safetensors")


FILES = [bare, whole, old, disguised]
UNREADABLE = r"^weights=.*: cannot be read \(\w+\)(: it holds Python objects \(.*\); only weights are read: .*)?$"


@pytest.mark.parametrize("write", FILES)
def test_a_classifiers_weights_run_nothing(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    discovery.discover()
    task = Spec.read("task", {"digits": {"weights": str(write(tmp_path))}})
    with pytest.raises(
        ValueError,
        match=UNREADABLE,
    ):
        task.plugin.build(Machine(CPU), task.values).fit(np.arange(10), 0)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("write", FILES)
def test_a_detectors_weights_run_nothing(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    with pytest.raises(
        ValueError,
        match=UNREADABLE,
    ):
        build_detector(DetectorRecipe(backbone="resnet18", weights=str(path), channels=32), 3, path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("write", FILES)
def test_a_checkpoint_runs_nothing(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    model = torch.nn.Linear(1, 1)
    assert load_checkpoint(write(tmp_path), model, torch.optim.SGD(model.parameters(), 0.1)) == 0
    assert not (tmp_path / "hacked").exists()


def test_a_gallery_runs_nothing(tmp_path: Path) -> None:
    """Its arrays of objects are pickles inside a zip file; so is a plain member that says it is an array."""
    np.savez(tmp_path / "objects.npz", labels_P=np.array([Evil(tmp_path / "hacked")], object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "members.npz", "w") as archive:
        archive.writestr("labels_P.npy", pickle.dumps(Evil(tmp_path / "hacked")))
    for name in ("objects.npz", "members.npz"):
        with pytest.raises(ValueError, match=f"{name} is no gallery: [^\n]*$"):
            Gallery.read(tmp_path / name)
    assert not (tmp_path / "hacked").exists()


# --- names and paths --------------------------------------------------------------------------
NAMES = ["../../x", "/x", "..", ".", "a/../../b", "~/x", "a\\..\\b", "a\0b", "a\nb", "-rf", "x" * 300, "${HOME}", ""]


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_never_leads_out_of_the_results(name: str, tmp_path: Path) -> None:
    discovery.discover()
    entry = {"task": {"image_folder": {"root": name}}, "strategies": ["random"], "seeds": 1}
    sizes = {"initial": 5, "budget": 5, "rounds": 2}
    [cell] = grid_of(replace(compose_settings([]), experiments={"x": entry | sizes})).cells()
    path = Path(os.path.normpath(tmp_path / "cells" / f"{cell.path}.jsonl"))
    assert path.relative_to(tmp_path / "cells").parts == (*cell.path.split("/")[:-1], "seed-0.jsonl")
    assert len(path.relative_to(tmp_path / "cells").parts) == 4
    path.parent.mkdir(parents=True)  # the disk takes such a name


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_never_leads_out_of_the_results(name: str) -> None:
    assert slug(name) not in ("", ".", "..")
    assert re.fullmatch(r"[A-Za-z0-9_.=,+-]{1,110}", slug(name))
    assert not slug(name).startswith(".")


@pytest.mark.parametrize("name", [item for item in NAMES if item != "x" * 300])
def test_a_new_strategy_is_written_into_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="is not a valid name for a strategy"):
        write_plugin("strategy", name, str(tmp_path / "mine"), "digits")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "a.b"])
def test_a_plugin_has_no_path_for_a_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not a name|no strategy is called"):
        Spec.read("strategy", name)
    with pytest.raises(ValueError, match=r"must be METRIC VALUE"):
        Schedule(1, 1, 1, until=f"{name} 0.1 +- 0.1")


LOOKED_UP = [
    "${oc.env:SECRET}", "a${ oc.env : SECRET}b", "${oc.decode:${oc.env:SECRET}}", "${hydra:runtime.cwd}",
    "${oc.create:{a: ${oc.env:SECRET}}}", "[${oc.env:SECRET}]", '"${oc.env:SECRET}"', "\\${oc.env:SECRET}",
    "{digits: {weights: ${oc.env:SECRET}}}", "image_folder[root=${oc.env:SECRET}]", "{${oc.env:SECRET}: {}}",
    "${oc.env:SECRET,null}",
]  # fmt: skip


@pytest.mark.parametrize("text", LOOKED_UP)
def test_nothing_is_looked_up_in_what_a_user_types(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end up in records and failures; only our own configs/config.yaml reads the environment."""
    monkeypatch.setenv("SECRET", "s3cr3t")
    for name in (*(item.name for item in fields(Settings)), "nonsense"):
        with pytest.raises(ValueError, match="is not resolved in arguments") as caught:
            compose_settings([f"{name}={text}"])
        assert "s3cr3t" not in str(caught.value)
    for name in (*(item.name for item in fields(AnalysisOptions)), "nonsense"):
        with pytest.raises(ValueError, match="is not resolved in arguments"):
            parse_options([f"{name}={text}"], "savings")


@pytest.mark.parametrize("text", ["${SECRET}", "$SECRET", "${}", "$(SECRET)", "%SECRET%"])
def test_what_a_user_types_stays_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cr3t")
    discovery.discover()
    words = [f"tasks=[image_folder[root={text}]]", "strategies=[random]", "seeds=1", f"out={text}", f"data={text}"]
    chosen = compose_settings([*words, "initial=5", "budget=5", "rounds=2"])
    assert (chosen.out, chosen.data) == (text, text)
    [cell] = grid_of(chosen).cells()
    assert cell.identity()["task"]["parameters"]["root"] == text


def test_what_plugins_and_the_environment_say_is_not_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cr3t")
    monkeypatch.setenv("AL_BENCHMARK_DATA", "${oc.env:SECRET}")
    assert compose_settings([]).data == "${oc.env:SECRET}"
    values = {"root": "${oc.env:SECRET}"}
    assert Spec.read("task", {"image_folder": values}).values["root"] == "${oc.env:SECRET}"


def hostile(folder: Path, path: str) -> Path:
    """A results folder, the first cell of its grid.json at `path`; a sound record lies where that leads."""
    store = recorded(folder / "run", PLAIN)
    manifest = store.folder / "grid.json"
    content = json.loads(manifest.read_text())
    cell = content["experiments"][0]["cells"][0]
    led_to = store.folder / "cells" / f"{path}.jsonl"  # an absolute path stays one
    shutil.move(store.path(cell["path"]), os.path.normpath(led_to))
    cell["path"] = path
    manifest.write_text(json.dumps(content))
    return store.folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("verb", ["status", "tables", "report", "savings", "verify", "explain"])
@pytest.mark.parametrize("place", ["../../secret", "made/../../../secret", "ABSOLUTE/secret"])
def test_a_hostile_manifest_is_refused(verb: str, place: str, tmp_path: Path) -> None:
    folder = hostile(tmp_path, place.replace("ABSOLUTE", str(tmp_path)))
    before = contents(tmp_path)
    words = {"explain": ["explain", "made/mine/seed-0"], "savings": ["savings", "strategy=mine"]}.get(verb, [verb])
    done = CliRunner().invoke(app, [*words, f"out={folder}"])
    assert isinstance(done.exception, ValueError), done.output
    assert "leads out of the folder" in str(done.exception)
    assert contents(tmp_path) == before


# --- archives ---------------------------------------------------------------------------------
def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """A file of three bytes, or a link, of any name."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, 3 if kind == tarfile.REGTYPE else 0
    return info


def escapes(outside: Path) -> Iterator[list[tarfile.TarInfo]]:
    """Archives that would write to `outside`."""
    yield [member("../outside/x")]
    yield [member(str(outside / "x"))]
    yield [member("link", tarfile.SYMTYPE, str(outside)), member("link/x")]
    yield [member("cifar-10-batches-py/../../outside/x")]
    yield [member("hard", tarfile.LNKTYPE, "../outside/x")]


@pytest.mark.parametrize("number", range(5))
def test_an_archive_of_another_is_not_unpacked(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only archives that are unpacked are torchvision's CIFAR and Oxford-IIIT Pet, after their md5 is checked."""
    data, outside = tmp_path / "data", tmp_path / "outside"
    data.mkdir()
    outside.mkdir()
    with tarfile.open(data / CIFAR10.filename, "w:gz") as tar:
        for info in [*escapes(outside)][number]:
            tar.addfile(info, io.BytesIO(b"abc"[: info.size]))

    def offline(*args: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    with pytest.raises(ValueError, match="with the right md5"):
        cifar10(Machine(CPU, data), Recipe())
    assert list(outside.iterdir()) == []
    assert {path.name for path in data.iterdir()} <= {CIFAR10.filename, ".download.lock"}


# --- what is installed ------------------------------------------------------------------------
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))
PIN = re.compile(r"([a-z0-9-]+)==(\S+)(?: ; [^\\\n]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")
EXTRAS = {
    "requirements.lock": ["train", "test"],
    "requirements-extras.lock": ["train", "pycls", "ray", "tsne", "video", "wandb"],
    "requirements-docs.lock": ["train", "docs"],
    "requirements-mmdet.lock": ["train", "mmdet"],
}
OWN = {"requirements-audit.lock"}  # its tool is no part of the environment


def pins(text: str) -> dict[str, str]:
    """Package -> version of a lock whose every line is a comment, a pin or its hashes. ValueError: another line."""
    rest = PIN.sub("", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE))
    if rest.strip():
        raise ValueError(f"no pin with a hash: {rest.splitlines()[0]}")
    return {match[1]: match[2] for match in PIN.finditer(text)}


def fixed() -> dict[str, str]:
    """What constraints.txt says."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_a_hash_and_the_version_of_the_constraints(name: str) -> None:
    pinned, known = pins((ROOT / name).read_text()), fixed()
    assert pinned
    differ = {item: (version, known.get(item)) for item, version in pinned.items() if known.get(item) != version}
    if name in OWN:
        differ = {item: versions for item, versions in differ.items() if versions[1] is not None}
    assert not differ, "make lock"


def test_the_locks_hold_all_that_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first = pins((ROOT / "requirements.lock").read_text())
    for name, extras in EXTRAS.items():
        requirements = [
            *project["dependencies"],
            *(item for extra in extras for item in project["optional-dependencies"][extra]),
        ]
        names = {re.split(r"[^A-Za-z0-9._-]", item)[0].lower() for item in requirements}
        assert names <= {*first, *pins((ROOT / name).read_text())}, "make lock"
    assert {*fixed()} == {item for name in LOCKS if name not in OWN for item in pins((ROOT / name).read_text())}


@pytest.mark.parametrize("line", ["a==1\n", "a>=1 \\\n    --hash=sha256:" + 64 * "0" + "\n", "--index-url https://x\n"])
def test_a_line_without_version_or_hash_is_seen(line: str) -> None:
    sound = "b==1 \\\n    --hash=sha256:" + 64 * "a" + "\n"
    assert pins("# by uv\n" + sound) == {"b": "1"}
    with pytest.raises(ValueError, match="no pin with a hash"):
        pins(sound + line)


def test_the_locks_name_no_index() -> None:
    assert LOCKS
    for name in LOCKS:
        assert "://" not in (ROOT / name).read_text()


def test_set_up_installs_by_hash_alone() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in re.findall(r".*pip install.*", makefile):
        ours = line.endswith("--no-deps --no-build-isolation -e .")
        pinned = re.search(
            r"install --quiet --disable-pip-version-check uv==[0-9.]+$", line
        )  # resolves, never in .venv
        newest = "$(NEWEST)/bin/pip" in line  # an environment of its own, for one test run
        assert "--require-hashes" in line or ours or pinned or newest, line


AUDITOR = """#!/bin/sh
case "$*" in
  *requirements.lock*) {lock} ;;
  *"-s {service} "*) {canary} ;;
  *) exit 1 ;;
esac
"""
KNOWN = "echo 'jinja2 2.4.1   PYSEC-2014-8 2.7.2'; exit 1"
SILENT = "echo 'jinja2 Dependency not found on PyPI and could not be audited: jinja2 (2.4.1)'; exit 0"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("service", "canary", "lock", "code", "words"),
    [
        ("pypi", KNOWN, "echo No known vulnerabilities found", 0, "advisories: pypi\nNo known vulnerabilities found\n"),
        ("osv", KNOWN, "echo No known vulnerabilities found", 0, "advisories: osv\nNo known vulnerabilities found\n"),
        ("pypi", KNOWN, "echo torch 2.11.0 PYSEC-1; exit 1", 2, "advisories: pypi\ntorch 2.11.0 PYSEC-1\n"),
        ("pypi", SILENT, "echo never; exit 1", 0, "not audited: no advisory database reachable (tried pypi, osv)\n"),
        ("none", SILENT, "echo never; exit 1", 0, "not audited: no advisory database reachable (tried pypi, osv)\n"),
    ],
)
def test_an_audit_never_passes_in_silence(
    service: str, canary: str, lock: str, code: int, words: str, tmp_path: Path
) -> None:
    """A service counts only where it knows an old hole; a hole of ours fails."""
    fake = tmp_path / "auditor"
    fake.write_text(AUDITOR.format(service=service, canary=canary, lock=lock))
    fake.chmod(0o755)
    done = subprocess.run(["make", "-s", "audit", f"AUDITOR={fake}"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, words), done.stderr
