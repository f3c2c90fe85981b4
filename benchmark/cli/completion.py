"""Shell completion: what may stand where something is being typed. Imports neither torch nor Hydra, numpy nor typer.

A shell runs this program with `_AL_BENCHMARK_COMPLETE=bash_complete` and, in COMP_LINE, the command as far as it is
typed; `_AL_BENCHMARK_COMPLETE=bash_source` prints what switches it on. See docs/command_line.md.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.cli.verbs import LISTED, VERBS, settings_of
from benchmark.plugins.places import grids
from benchmark.plugins.settings import Setting, alternatives
from benchmark.plugins.signatures import experiments, parameters, plugin_files

VARIABLE = "_AL_BENCHMARK_COMPLETE"
LABELS = {  # settings that name plug-ins, and of which kind
    "tasks": "task", "task": "task", "check_on": "task", "strategies": "strategy", "strategy": "strategy",
    "against": "strategy", "reference": "strategy",
}  # fmt: skip
SCRIPTS = {
    "bash": """\
_al_benchmark() {
    local suggestion
    COMPREPLY=()
    while IFS= read -r suggestion; do
        COMPREPLY+=("$suggestion")
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" BREAKS="$COMP_WORDBREAKS" VARIABLE=bash_complete PROGRAM 2>/dev/null)
}
complete -o nospace -o default -F _al_benchmark al-benchmark
""",
    "zsh": """\
#compdef al-benchmark
_al_benchmark() {
    local -a suggestions
    suggestions=("${(@f)$(COMP_LINE="${(j: :)words[1,CURRENT]}" VARIABLE=zsh_complete PROGRAM 2>/dev/null)}")
    [[ -n "$suggestions" ]] && compadd -U -S '' -a suggestions || _files
}
compdef _al_benchmark al-benchmark
""",
    "fish": """\
function __al_benchmark
    COMP_LINE=(commandline -cp) VARIABLE=fish_complete PROGRAM 2>/dev/null
end
complete -c al-benchmark -a '(__al_benchmark)'
""",
}


@dataclass(frozen=True)
class Place:
    """Where in a list of labels something is being typed."""

    start: int  # of the item in the text
    kind: str  # of the plug-ins that stand there, or of the one whose parameters do
    owner: str = ""  # the plug-in whose parameters stand there; "" where plug-ins do


def suggestions(words: Sequence[str], incomplete: str) -> list[str]:
    """What may stand in the place of the word that is being typed.

    Args:
        words: the words before it, without the program's own.
        incomplete: what is typed of it.

    Returns:
        Whole words that begin with `incomplete`; none where the shell may suggest names of files.
    """
    if not words:
        return starting(incomplete, [*VERBS, *["--help", "--version"] * incomplete.startswith("-")])
    verb, *rest = words
    if verb not in VERBS or incomplete.startswith("-"):
        return starting(incomplete, ["--help"])
    given = dict(word.split("=", 1) for word in rest if is_setting(word))
    known = {one.name: one for one in settings_of(verb)}
    key, equals, text = incomplete.partition("=")
    if equals and key in known:
        return [f"{key}={value}" for value in values(known[key], text, given)]
    place = sum(not is_setting(word) for word in rest)
    settings = starting(incomplete, [f"{name}=" for name in known if name not in given])
    return [*arguments(verb, place, incomplete, given), *settings]


def is_setting(word: str) -> bool:
    """Whether a word is key=value, and no label with parameters."""
    return re.match(r"\w+=", word) is not None


def starting(incomplete: str, names: Iterable[str]) -> list[str]:
    """The names that begin so."""
    return [name for name in names if name.startswith(incomplete)]


def arguments(verb: str, place: int, incomplete: str, given: dict[str, str]) -> list[str]:
    """What may stand in a place of a command's own arguments, settings aside."""
    words = {("list", 0): LISTED, ("new", 0): ("strategy", "task"), ("verify", 0): ("devices",)}
    kinds = {("check", 0): ("strategy", "task"), ("compare", 0): ("strategy",), ("compare", 1): ("strategy",)}
    found = starting(incomplete, words.get((verb, place), ()))
    return found + [one for kind in kinds.get((verb, place), ()) for one in labels(kind, incomplete, given)]


def values(setting: Setting, text: str, given: dict[str, str]) -> list[str]:
    """What may stand behind `key=`."""
    if setting.name == "grid":
        return starting(text, grids())
    more = ["published"] if setting.name in ("records", "against") else []
    if setting.name in ("tasks", "task"):
        more = experiments(given.get("grid", "quick"))
    if setting.name in LABELS:
        return labels(LABELS[setting.name], text, given, more)
    return starting(text, [*more, *choices(setting.kind)])


def choices(kind: Any) -> list[str]:
    """The values of a type that has few: a Literal's, and true and false."""
    literals = [str(one) for part in alternatives(kind) for one in typing.get_args(part) if one]
    return literals or ["true", "false"] * (bool in alternatives(kind))


def labels(kind: str, text: str, given: dict[str, str], more: Sequence[str] = ()) -> list[str]:
    """Text with the name, parameter or value that is being typed at its end.

    Args:
        kind: of the plug-ins: strategy, task or encoder.
        text: `coreset`, or a list with parameters as far as it is typed: `[random,coreset[met`.
        given: the settings before it: the plug-ins of `plugins=DIR` are suggested too.
        more: names that may stand where a plug-in's may.
    """
    folder = Path(given["plugins"]).expanduser() if "plugins" in given else None
    place = innermost(kind, text, folder)
    item = text[place.start :].lstrip()
    head = text.removesuffix(item)
    if not place.owner:
        names = dict.fromkeys([*more, *plugin_files(place.kind, folder)])
        return [head + name for name in starting(item, names)]
    known = declared(place.kind, place.owner, folder)
    name, equals, value = item.partition("=")
    if not equals:
        return [f"{head}{one}=" for one in starting(item, known)]
    if name not in known:
        return []
    if known[name].kind:
        return [f"{head}{name}={one}" for one in starting(value, plugin_files(known[name].kind, folder))]
    return [f"{head}{name}={one}" for one in starting(value, known[name].choices)]


def innermost(kind: str, text: str, folder: Path | None) -> Place:
    """Where the end of the text is: among plug-ins, or inside the brackets of one."""
    places = [Place(0, kind)]
    for index, character in enumerate(text):
        outer = places[-1]
        item = text[outer.start : index].strip()
        if character == "[":
            parameter, equals, name = item.rpartition("=")
            known = declared(outer.kind, outer.owner, folder) if equals else {}
            inner = known[parameter].kind if parameter in known else outer.kind
            places.append(Place(index + 1, inner, name))
        elif character == "]" and len(places) > 1:
            places.pop()
        elif character == ",":
            places[-1] = Place(index + 1, places[-1].kind, places[-1].owner)
    return places[-1]


def declared(kind: str, name: str, folder: Path | None) -> dict[str, Any]:
    """The parameters of a plug-in; none of one that nobody knows."""
    path = plugin_files(kind, folder).get(name) if kind else None
    return dict(parameters(path, name)) if path else {}


def typed(line: str) -> tuple[list[str], str]:
    """The words before the one that is being typed, without the program's own, and that one, quotes taken off."""
    end = "\0"  # behind what is typed, so that a last space ends a word
    words = next(filter(None, (split(line + end + quote) for quote in ("", "'", '"'))), [end])
    num_own = 3 if words[1:3] == ["-m", "benchmark"] else 1
    *before, last = words[num_own:] or [end]
    return before, last.removesuffix(end)


def split(line: str) -> list[str]:
    """The words of a line; none where a quote is open."""
    try:
        return shlex.split(line)
    except ValueError:
        return []


def replacing(line: str, incomplete: str, breaks: str) -> int:
    """How many characters of a word bash leaves alone: it replaces what stands behind its last word break, unless the
    word is in quotes."""
    if not line.endswith(incomplete) or line[: len(line) - len(incomplete)].endswith(("'", '"')):
        return 0
    return 1 + max((incomplete.rfind(one) for one in breaks), default=-1)


def answer(instruction: str) -> None:
    """Prints what a shell asks for: `bash_source`, its script, or `bash_complete`, suggestions, one a line."""
    shell, _, what = instruction.partition("_")
    if what == "source" and shell in SCRIPTS:
        program = f"{shlex.quote(sys.executable)} -P -m benchmark"
        sys.stdout.write(SCRIPTS[shell].replace("VARIABLE", VARIABLE).replace("PROGRAM", program))
        return
    line = os.environ.get("COMP_LINE", "")
    words, incomplete = typed(line)
    left = replacing(line, incomplete, os.environ.get("BREAKS", "")) if shell == "bash" else 0
    sys.stdout.writelines(f"{one[left:]}\n" for one in suggestions(words, incomplete))
