"""Shell completion: suggestions for the word that is being typed. Imports neither torch nor Hydra, numpy nor typer.

A shell runs this program with `_AL_BENCHMARK_COMPLETE=bash_complete` and, in COMP_LINE, the command up to the cursor.
`_AL_BENCHMARK_COMPLETE=bash_source` prints the script that switches completion on. See docs/command_line.md.
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

from benchmark.cli.command_names import LIST_KINDS, VERBS, settings_of
from benchmark.plugins.key_value import Setting, union_members
from benchmark.plugins.paths import grid_names
from benchmark.plugins.signatures import experiment_names, plugin_files, read_parameters

COMPLETION_VARIABLE = "_AL_BENCHMARK_COMPLETE"
PLUGIN_SETTINGS = {  # settings whose values are plug-ins, and the kind of these
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
    """The place in a list of labels where the user is typing."""

    start: int  # index in the text at which the item begins
    kind: str  # the kind of the plug-ins that may stand there, or of `owner`
    owner: str = ""  # the plug-in whose parameters may stand there; "" where plug-ins may


def suggest(words: Sequence[str], incomplete: str) -> list[str]:
    """Suggests completions of the word that is being typed.

    Args:
        words: the words before it, without the name of the program.
        incomplete: the beginning of the word, as far as it is typed.

    Returns:
        Whole words that begin with `incomplete`; none where the shell should suggest names of files.
    """
    if not words:
        return with_prefix(incomplete, [*VERBS, *["--help", "--version"] * incomplete.startswith("-")])
    verb, *rest = words
    if verb not in VERBS or incomplete.startswith("-"):
        return with_prefix(incomplete, ["--help"])
    typed_settings = dict(word.split("=", 1) for word in rest if is_setting(word))
    settings = {setting.name: setting for setting in settings_of(verb)}
    key, equals, text = incomplete.partition("=")
    if equals and key in settings:
        return [f"{key}={value}" for value in suggest_values(settings[key], text, typed_settings)]
    position = sum(not is_setting(word) for word in rest)
    keys = with_prefix(incomplete, [f"{name}=" for name in settings if name not in typed_settings])
    return [*suggest_arguments(verb, position, incomplete, typed_settings), *keys]


def is_setting(word: str) -> bool:
    """Whether a word is key=value, and not a label with parameters."""
    return re.match(r"\w+=", word) is not None


def with_prefix(incomplete: str, names: Iterable[str]) -> list[str]:
    """The names that begin with `incomplete`."""
    return [name for name in names if name.startswith(incomplete)]


def suggest_arguments(verb: str, position: int, incomplete: str, typed_settings: dict[str, str]) -> list[str]:
    """Suggests a positional argument of a command: the one at `position`, counted without settings."""
    words = {("list", 0): LIST_KINDS, ("new", 0): ("strategy", "task"), ("verify", 0): ("devices",)}
    kinds = {("check", 0): ("strategy", "task"), ("compare", 0): ("strategy",), ("compare", 1): ("strategy",)}
    matches = with_prefix(incomplete, words.get((verb, position), ()))
    return matches + [
        label for kind in kinds.get((verb, position), ()) for label in suggest_labels(kind, incomplete, typed_settings)
    ]


def suggest_values(setting: Setting, text: str, typed_settings: dict[str, str]) -> list[str]:
    """Suggests values of a setting, of which `text` is typed."""
    if setting.name == "grid":
        return with_prefix(text, grid_names())
    more = ["published"] if setting.name in ("records", "against") else []
    if setting.name in ("tasks", "task"):
        more = experiment_names(typed_settings.get("grid", "quick"))
    if setting.name in PLUGIN_SETTINGS:
        return suggest_labels(PLUGIN_SETTINGS[setting.name], text, typed_settings, more)
    return with_prefix(text, [*more, *annotated_choices(setting.annotation)])


def annotated_choices(annotation: Any) -> list[str]:
    """The values of a Literal, or true and false of a bool; none of other types."""
    literals = [str(value) for member in union_members(annotation) for value in typing.get_args(member) if value]
    return literals or ["true", "false"] * (bool in union_members(annotation))


def suggest_labels(kind: str, text: str, typed_settings: dict[str, str], extra_names: Sequence[str] = ()) -> list[str]:
    """Suggests completions of the plug-in's name, parameter or value at the end of a text.

    Args:
        kind: the kind of the plug-ins: strategy, task or encoder.
        text: a label or a list of labels, as far as it is typed: `[random,coreset[met`.
        typed_settings: the settings before it, by name; with `plugins=DIR`, plug-ins of that folder are suggested too.
        extra_names: names that are suggested besides plug-ins.

    Returns:
        The text with its end completed, one for each suggestion.
    """
    folder = Path(typed_settings["plugins"]).expanduser() if "plugins" in typed_settings else None
    cursor = find_cursor(kind, text, folder)
    item = text[cursor.start :].lstrip()
    head = text.removesuffix(item)
    if not cursor.owner:
        names = dict.fromkeys([*extra_names, *plugin_files(cursor.kind, folder)])
        return [head + name for name in with_prefix(item, names)]
    parameters = plugin_parameters(cursor.kind, cursor.owner, folder)
    name, equals, value = item.partition("=")
    if not equals:
        return [f"{head}{match}=" for match in with_prefix(item, parameters)]
    if name not in parameters:
        return []
    if parameters[name].plugin_kind:
        return [
            f"{head}{name}={match}" for match in with_prefix(value, plugin_files(parameters[name].plugin_kind, folder))
        ]
    return [f"{head}{name}={match}" for match in with_prefix(value, parameters[name].choices)]


def find_cursor(kind: str, text: str, folder: Path | None) -> Cursor:
    """Finds whether the end of a text is in a list of plug-ins, or inside the brackets of one."""
    cursors = [Cursor(0, kind)]
    for index, character in enumerate(text):
        outer = cursors[-1]
        item = text[outer.start : index].strip()
        if character == "[":
            parameter, equals, name = item.rpartition("=")
            parameters = plugin_parameters(outer.kind, outer.owner, folder) if equals else {}
            inner = parameters[parameter].plugin_kind if parameter in parameters else outer.kind
            cursors.append(Cursor(index + 1, inner, name))
        elif character == "]" and len(cursors) > 1:
            cursors.pop()
        elif character == ",":
            cursors[-1] = Cursor(index + 1, cursors[-1].kind, cursors[-1].owner)
    return cursors[-1]


def plugin_parameters(kind: str, name: str, folder: Path | None) -> dict[str, Any]:
    """The parameters of a plug-in by name; none where there is no such plug-in."""
    path = plugin_files(kind, folder).get(name) if kind else None
    return dict(read_parameters(path, name)) if path else {}


def split_command_line(line: str) -> tuple[list[str], str]:
    """Splits a command line into the words before the last one, without the program, and the last one, unquoted."""
    end = "\0"  # appended to the line, so that a trailing space ends a word
    words = next(filter(None, (split_words(line + end + quote) for quote in ("", "'", '"'))), [end])
    num_program_words = 3 if words[1:3] == ["-m", "benchmark"] else 1
    *before, last = words[num_program_words:] or [end]
    return before, last.removesuffix(end)


def split_words(line: str) -> list[str]:
    """The words of a line; none where a quote is not closed."""
    try:
        return shlex.split(line)
    except ValueError:
        return []


def num_kept_characters(line: str, incomplete: str, breaks: str) -> int:
    """The number of characters at the start of a word that bash keeps.

    bash replaces the part after the last word break, or the whole word where it is in quotes.
    """
    if not line.endswith(incomplete) or line[: len(line) - len(incomplete)].endswith(("'", '"')):
        return 0
    return 1 + max((incomplete.rfind(character) for character in breaks), default=-1)


def answer_shell(instruction: str) -> None:
    """Prints the completion script for `bash_source`, or the suggestions, one a line, for `bash_complete`."""
    shell, _, action = instruction.partition("_")
    if action == "source" and shell in SCRIPTS:
        program = f"{shlex.quote(sys.executable)} -P -m benchmark"
        sys.stdout.write(SCRIPTS[shell].replace("VARIABLE", COMPLETION_VARIABLE).replace("PROGRAM", program))
        return
    line = os.environ.get("COMP_LINE", "")
    words, incomplete = split_command_line(line)
    num_kept = num_kept_characters(line, incomplete, os.environ.get("BREAKS", "")) if shell == "bash" else 0
    sys.stdout.writelines(f"{suggestion[num_kept:]}\n" for suggestion in suggest(words, incomplete))
