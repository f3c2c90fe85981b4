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

from benchmark.cli.verbs import LIST_KINDS, VERBS, settings_of
from benchmark.plugins.paths import grid_names
from benchmark.plugins.settings import Setting, union_members
from benchmark.plugins.signatures import experiment_names, plugin_files, read_parameters

COMPLETION_VARIABLE = "_AL_BENCHMARK_COMPLETE"
PLUGIN_SETTINGS = {  # settings that name plug-ins, and of which kind
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
class Cursor:
    """Where in a list of labels something is being typed."""

    start: int  # of the item in the text
    kind: str  # of the plug-ins that stand there, or of the one whose parameters do
    owner: str = ""  # the plug-in whose parameters stand there; "" where plug-ins do


def suggest(words: Sequence[str], incomplete: str) -> list[str]:
    """What may stand in the place of the word that is being typed.

    Args:
        words: the words before it, without the program's own.
        incomplete: what is typed of it.

    Returns:
        Whole words that begin with `incomplete`; none where the shell may suggest names of files.
    """
    if not words:
        return with_prefix(incomplete, [*VERBS, *["--help", "--version"] * incomplete.startswith("-")])
    verb, *rest = words
    if verb not in VERBS or incomplete.startswith("-"):
        return with_prefix(incomplete, ["--help"])
    given = dict(word.split("=", 1) for word in rest if is_setting(word))
    known = {one.name: one for one in settings_of(verb)}
    key, equals, text = incomplete.partition("=")
    if equals and key in known:
        return [f"{key}={value}" for value in suggest_values(known[key], text, given)]
    place = sum(not is_setting(word) for word in rest)
    settings = with_prefix(incomplete, [f"{name}=" for name in known if name not in given])
    return [*suggest_arguments(verb, place, incomplete, given), *settings]


def is_setting(word: str) -> bool:
    """Whether a word is key=value, and no label with parameters."""
    return re.match(r"\w+=", word) is not None


def with_prefix(incomplete: str, names: Iterable[str]) -> list[str]:
    """The names that begin so."""
    return [name for name in names if name.startswith(incomplete)]


def suggest_arguments(verb: str, position: int, incomplete: str, typed_settings: dict[str, str]) -> list[str]:
    """What may stand in a place of a command's own arguments, settings aside."""
    words = {("list", 0): LIST_KINDS, ("new", 0): ("strategy", "task"), ("verify", 0): ("devices",)}
    kinds = {("check", 0): ("strategy", "task"), ("compare", 0): ("strategy",), ("compare", 1): ("strategy",)}
    found = with_prefix(incomplete, words.get((verb, position), ()))
    return found + [
        one for kind in kinds.get((verb, position), ()) for one in suggest_labels(kind, incomplete, typed_settings)
    ]


def suggest_values(setting: Setting, text: str, typed_settings: dict[str, str]) -> list[str]:
    """What may stand behind `key=`."""
    if setting.name == "grid":
        return with_prefix(text, grid_names())
    more = ["published"] if setting.name in ("records", "against") else []
    if setting.name in ("tasks", "task"):
        more = experiment_names(typed_settings.get("grid", "quick"))
    if setting.name in PLUGIN_SETTINGS:
        return suggest_labels(PLUGIN_SETTINGS[setting.name], text, typed_settings, more)
    return with_prefix(text, [*more, *annotated_choices(setting.annotation)])


def annotated_choices(annotation: Any) -> list[str]:
    """The values of a type that has few: a Literal's, and true and false."""
    literals = [str(one) for part in union_members(annotation) for one in typing.get_args(part) if one]
    return literals or ["true", "false"] * (bool in union_members(annotation))


def suggest_labels(kind: str, text: str, typed_settings: dict[str, str], extra_names: Sequence[str] = ()) -> list[str]:
    """Text with the name, parameter or value that is being typed at its end.

    Args:
        kind: of the plug-ins: strategy, task or encoder.
        text: `coreset`, or a list with parameters as far as it is typed: `[random,coreset[met`.
        given: the settings before it: the plug-ins of `plugins=DIR` are suggested too.
        more: names that may stand where a plug-in's may.
    """
    folder = Path(typed_settings["plugins"]).expanduser() if "plugins" in typed_settings else None
    place = find_cursor(kind, text, folder)
    item = text[place.start :].lstrip()
    head = text.removesuffix(item)
    if not place.owner:
        names = dict.fromkeys([*extra_names, *plugin_files(place.kind, folder)])
        return [head + name for name in with_prefix(item, names)]
    known = plugin_parameters(place.kind, place.owner, folder)
    name, equals, value = item.partition("=")
    if not equals:
        return [f"{head}{one}=" for one in with_prefix(item, known)]
    if name not in known:
        return []
    if known[name].plugin_kind:
        return [f"{head}{name}={one}" for one in with_prefix(value, plugin_files(known[name].plugin_kind, folder))]
    return [f"{head}{name}={one}" for one in with_prefix(value, known[name].choices)]


def find_cursor(kind: str, text: str, folder: Path | None) -> Cursor:
    """Where the end of the text is: among plug-ins, or inside the brackets of one."""
    places = [Cursor(0, kind)]
    for index, character in enumerate(text):
        outer = places[-1]
        item = text[outer.start : index].strip()
        if character == "[":
            parameter, equals, name = item.rpartition("=")
            known = plugin_parameters(outer.kind, outer.owner, folder) if equals else {}
            inner = known[parameter].plugin_kind if parameter in known else outer.kind
            places.append(Cursor(index + 1, inner, name))
        elif character == "]" and len(places) > 1:
            places.pop()
        elif character == ",":
            places[-1] = Cursor(index + 1, places[-1].kind, places[-1].owner)
    return places[-1]


def plugin_parameters(kind: str, name: str, folder: Path | None) -> dict[str, Any]:
    """The parameters of a plug-in; none of one that nobody knows."""
    path = plugin_files(kind, folder).get(name) if kind else None
    return dict(read_parameters(path, name)) if path else {}


def split_command_line(line: str) -> tuple[list[str], str]:
    """The words before the one that is being typed, without the program's own, and that one, quotes taken off."""
    end = "\0"  # behind what is typed, so that a last space ends a word
    words = next(filter(None, (split_words(line + end + quote) for quote in ("", "'", '"'))), [end])
    num_own = 3 if words[1:3] == ["-m", "benchmark"] else 1
    *before, last = words[num_own:] or [end]
    return before, last.removesuffix(end)


def split_words(line: str) -> list[str]:
    """The words of a line; none where a quote is open."""
    try:
        return shlex.split(line)
    except ValueError:
        return []


def num_kept_characters(line: str, incomplete: str, breaks: str) -> int:
    """How many characters of a word bash leaves alone: it replaces what stands behind its last word break, unless the
    word is in quotes."""
    if not line.endswith(incomplete) or line[: len(line) - len(incomplete)].endswith(("'", '"')):
        return 0
    return 1 + max((incomplete.rfind(one) for one in breaks), default=-1)


def answer_shell(instruction: str) -> None:
    """Prints what a shell asks for: `bash_source`, its script, or `bash_complete`, suggestions, one a line."""
    shell, _, what = instruction.partition("_")
    if what == "source" and shell in SCRIPTS:
        program = f"{shlex.quote(sys.executable)} -P -m benchmark"
        sys.stdout.write(SCRIPTS[shell].replace("VARIABLE", COMPLETION_VARIABLE).replace("PROGRAM", program))
        return
    line = os.environ.get("COMP_LINE", "")
    words, incomplete = split_command_line(line)
    left = num_kept_characters(line, incomplete, os.environ.get("BREAKS", "")) if shell == "bash" else 0
    sys.stdout.writelines(f"{one[left:]}\n" for one in suggest(words, incomplete))
