"""Shell completion: what is suggested, that it costs no import of torch, and that bash takes it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.cli.completion import SCRIPTS, split_command_line, suggest
from benchmark.plugins import discovery, signatures
from benchmark.plugins.registry import REGISTRY, named_plugin_kind

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}


def at(line: str) -> list[str]:
    """What is suggested at the end of a line."""
    return suggest(*split_command_line(f"al-benchmark {line}"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sav", ["savings"]),
        ("--v", ["--version"]),
        ("run --", ["--help"]),
        ("run se", ["seeds=", "select_timeout="]),
        ("run seeds=3 see", []),  # it is set already
        ("run grid=neu", ["grid=neu_det"]),
        ("run launcher=", ["launcher=local", "launcher=ray"]),
        ("run dry_run=", ["dry_run=true", "dry_run=false"]),
        ("run strategies=[cor", ["strategies=[coreset"]),
        ("run strategies=cor", ["strategies=coreset"]),
        ("run 'strategies=[cor", ["strategies=[coreset"]),
        ('run "strategies=[random, cor', ["strategies=[random, coreset"]),
        ("run strategies=[random,cor", ["strategies=[random,coreset"]),
        ("run strategies=[coreset[met", ["strategies=[coreset[metric="]),
        (
            "run strategies=[coreset[metric=",
            ["strategies=[coreset[metric=euclidean", "strategies=[coreset[metric=cosine"],
        ),
        (
            "run strategies=[isal[k=2],coreset[metric=cosine,enc",
            ["strategies=[isal[k=2],coreset[metric=cosine,encoder="],
        ),
        ("run strategies=[isal[k=2],cor", ["strategies=[isal[k=2],coreset"]),
        ("run strategies=[typiclust[encoder=simc", ["strategies=[typiclust[encoder=simclr"]),
        ("run strategies=[typiclust[encoder=simclr[temp", ["strategies=[typiclust[encoder=simclr[temperature="]),
        ("run strategies=[matched_random[like=cores", ["strategies=[matched_random[like=coreset"]),
        ("run tasks=[dig", ["tasks=[digits"]),
        ("run grid=neu_det tasks=[neu", ["tasks=[neu_det"]),
        ("run tasks=[digits[normalise=cifar100", ["tasks=[digits[normalise=cifar100"]),
        ("run tasks=[image_folder[exif=t", ["tasks=[image_folder[exif=turn"]),
        ("run tasks=[coco[publi", ["tasks=[coco[published="]),
        ("run tasks=[scenes[model=", []),  # any text
        ("run out=", []),  # the shell knows files
        ("list enc", ["encoders"]),
        ("list strategies for", ["format="]),
        ("new ta", ["task"]),
        ("check digi", ["digits"]),
        ("check margin check_on=digi", ["check_on=digits"]),
        ("compare rando", ["random"]),
        ("compare isal[k=2] coreset[metric=c", ["coreset[metric=cosine"]),
        ("verify dev", ["devices"]),
        ("savings cost=", ["cost=images", "cost=boxes", "cost=time"]),
        ("tables against=publ", ["against=published"]),
        ("nonsense se", []),
        ("run nonsense=", []),
        ("run strategies=[nonsense[a", []),
        ("run strategies=]]][", []),
    ],
)
def test_what_is_suggested(line: str, expected: list[str]) -> None:
    assert at(line) == expected


def test_after_a_comma_every_strategy_may_stand() -> None:
    suggestions = at("run strategies=[coreset[metric=cosine],")
    assert {"strategies=[coreset[metric=cosine],margin", "strategies=[coreset[metric=cosine],geal"} <= set(suggestions)


def test_plugins_of_a_users_folder_are_suggested(tmp_path: Path) -> None:
    code = "from typing import Literal\nfrom benchmark import api\nHow = Literal['fast', 'slow']\n"
    code += "@api.register(version=1)\ndef my_own(view, budget, rng, *, how: How = 'fast'): ...\n"
    (tmp_path / "file.py").write_text(code)
    (tmp_path / "broken.py").write_text("def (")
    own = f"run plugins={tmp_path}"
    assert at(f"{own} strategies=[my") == ["strategies=[my_own"]
    assert at(f"{own} strategies=[my_own[how=") == ["strategies=[my_own[how=fast", "strategies=[my_own[how=slow"]
    assert at("run strategies=[my") == []


def test_signatures_tell_what_the_registry_does() -> None:
    """Read from the files alone: every parameter of every plug-in, and which of them name a plug-in."""
    discovery.discover()
    for kind, plugins in REGISTRY.items():
        files = signatures.plugin_files(kind)
        assert files.keys() == {
            name for name, plugin in plugins.items() if plugin.function.__module__.startswith("benchmark.")
        }
        for name, path in files.items():
            known, declared = plugins[name].parameters(), signatures.read_parameters(path, name)
            assert declared.keys() == known.keys(), name
            assert {key: parameter.plugin_kind for key, parameter in declared.items()} == {
                key: named_plugin_kind(of) or "" for key, (of, _) in known.items()
            }


def test_names_come_without_heavy_imports() -> None:
    code = "import sys; from benchmark.cli import completion\n"
    code += "print(completion.suggest(['run'], 'strategies=[coreset[met'))\n"
    code += "print({'torch', 'hydra', 'numpy', 'scipy', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout == "['strategies=[coreset[metric=']\nset()\n", done.stderr


def completed_by_bash(line: str, breaks: str) -> list[str]:
    """What bash would put in the place of the word at the end of a line: its own variables, set as it does."""
    code = f"""
        source <({shlex.quote(sys.executable)} -m benchmark) || exit 1
        unset _AL_BENCHMARK_COMPLETE
        complete -p al-benchmark >&2
        COMP_LINE={shlex.quote(line + " and what stands behind")} COMP_POINT={len(line)} COMP_WORDBREAKS={breaks}
        _al_benchmark
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = ENVIRONMENT | {"_AL_BENCHMARK_COMPLETE": "bash_source"}
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=environment)
    assert "-F _al_benchmark al-benchmark" in done.stderr
    return done.stdout.splitlines()


def test_bash_completes_a_line() -> None:
    breaks = "$' \\t\\n\"\\'><=;|&(:'"
    assert completed_by_bash("al-benchmark run se", breaks) == ["seeds=", "select_timeout="]
    assert completed_by_bash("al-benchmark run strategies=[random,cor", breaks) == ["[random,coreset"]
    assert completed_by_bash("al-benchmark run 'strategies=[cor", breaks) == ["strategies=[coreset"]
    assert completed_by_bash("python -m benchmark run strategies=[coreset[metric=c", breaks) == ["cosine"]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_each_shell_is_given_a_script(shell: str) -> None:
    environment = ENVIRONMENT | {"_AL_BENCHMARK_COMPLETE": f"{shell}_source"}
    script = subprocess.run([sys.executable, "-m", "benchmark"], capture_output=True, text=True, env=environment).stdout
    assert f"_AL_BENCHMARK_COMPLETE={shell}_complete {shlex.quote(sys.executable)}" in script
    environment |= {"_AL_BENCHMARK_COMPLETE": f"{shell}_complete", "COMP_LINE": "al-benchmark run grid=neu"}
    done = subprocess.run([sys.executable, "-m", "benchmark"], capture_output=True, text=True, env=environment)
    assert done.stdout == "grid=neu_det\n"
