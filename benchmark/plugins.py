"""The plug-ins: what is registered, where it is found, and which parameters it takes."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from benchmark.escaping import visible
from benchmark.files import opened
from benchmark.module_path import HOME, put_home_first
from benchmark.remarks import remark_once
from benchmark.seeds import seed
from benchmark.source_code import digest
from benchmark.words import message, named

# Needs that are no capability of a task: labels that a strategy reads beyond those it bought.
LABEL_NEEDS = frozenset({"test_labels", "held_out"})
MODEL_FREE = frozenset({"encode", "images"})  # capabilities that are of the images alone
CAPABILITIES = {  # in words, where a task lacks what a strategy needs
    "augmented": "predictions on changed images, as detectors give", "box_features": "features of boxes",
    "classify": "the last layer of a classifier", "companion": "a module that is trained beside the model",
    "directional": "derivatives of losses", "embed": "features of images", "encode": "images for an encoder",
    "images": "the images themselves", "labels": "the labels of labelled images", "losses": "losses of images",
    "perturbed": "predictions on noisy images, as detectors give", "predict": "predictions",
    "proposals": "the proposals of a two-stage detector (model=faster_rcnn)",
    "pseudo_labels": "labels from the model's own predictions",
    "sample": "predictions with dropout left on (dropout=0.1 or so)", "weights": "the weights of the model",
}  # fmt: skip
REQUIRED = inspect.Parameter.empty
EncoderName: TypeAlias = Annotated[str, "encoder"]  # of a parameter that names one: `dino`, `patch_pca[patch=4]`
StrategyName: TypeAlias = Annotated[str, "strategy"]  # the same: `isal[k=2]`
IN_FOLDER = "al_benchmark_plugin_"  # begins the names of modules of a user's folder
NAME = r"[A-Za-z]\w*"  # of a plug-in
LARGEST = 2**24  # bytes of a plug-in's file
FOLDERS = {"strategy": "strategies", "task": "tasks", "encoder": "encoders"}


@dataclass(frozen=True, eq=False)
class Plugin:
    """One registered strategy, task or encoder. See `benchmark.api.register` and its siblings."""

    kind: Literal["strategy", "task", "encoder"]
    name: str
    function: Callable[..., Any]
    version: int
    needs: Collection[str] | Callable[..., Collection[str]] = ()
    companion: Callable[..., Any] | None = None
    recipes: Mapping[bool, Any] = field(default_factory=dict)
    lacks: Callable[..., Collection[str]] | None = None
    reveals: Callable[..., str] | None = None
    check_weights: Callable[..., object] | None = None

    @cache  # noqa: B019  plug-ins live as long as the process
    def parameters(self, published: bool = False) -> Mapping[str, tuple[Any, Any]]:
        """name -> (type, default) of every parameter a user may set."""
        hints = typing.get_type_hints(self.function, include_extras=True)
        found = {
            p.name: (hints.get(p.name, Any), p.default)
            for p in inspect.signature(self.function).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        recipe = self.recipes.get(published)
        if recipe is not None:
            hints = typing.get_type_hints(type(recipe), include_extras=True)
            found |= {f.name: (hints[f.name], getattr(recipe, f.name)) for f in dataclasses.fields(recipe)}
        if self.recipes.get(True) is not None:
            found["published"] = (bool, False)
        return types.MappingProxyType(found)

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter with its value, defaults filled in. ValueError names what does not fit."""
        parameters = self.parameters(bool(given.get("published", False)))
        for name in given:
            if name not in parameters:
                raise ValueError(f"{self.name} has no parameter {unknown(name, parameters)}")
        values = {name: given.get(name, default) for name, (_, default) in parameters.items()}
        for name, value in values.items():
            if value is REQUIRED:
                raise ValueError(f"{self.name}[{name}=...] must be given")
            values[name] = checked(f"{self.name}[{name}={value}]", value, parameters[name][0])
        return values

    def label(self, given: Mapping[str, Any]) -> str:
        """Name and parameters that differ from their default: `coreset[metric=cosine]`. One spelling a meaning."""
        told, known = self.told(self.bind(given)), self.parameters(bool(given.get("published", False)))
        inside = ",".join(f"{name}={spelled(told[name], known[name][0])}" for name in sorted(told))
        return f"{self.name}[{inside}]" if inside else self.name

    def told(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The (bound) parameters that differ from their default."""
        defaults = self.parameters(bool(values.get("published", False)))
        return {
            n: v for n, v in values.items() if (n == "published" and v) or (n != "published" and v != defaults[n][1])
        }

    def check(self) -> None:
        """ValueError, naming the file, where the plug-in is declared in a way that nothing can use."""
        if not re.fullmatch(NAME, self.name):
            raise ValueError(f"{source(self)}: {self.name!r} is no name of a plug-in: letters, digits and _")
        try:
            returned = typing.get_type_hints(self.function).get("return")
            for published in (False, True):
                for name, (kind, default) in self.parameters(published).items():
                    self.check_default(name, kind, default)
        except NameError as error:
            raise ValueError(f"{source(self)}: {self.name} has an annotation that is not imported: {error}") from error
        except ValueError:
            raise
        except Exception as error:
            words = " ".join(named(error).split())
            raise ValueError(f"{source(self)}: {self.name} is declared so that it cannot be read: {words}") from error
        if self.kind == "task" and not isinstance(returned, type):
            raise ValueError(f"{source(self)}: {self.name} must be annotated with the class that it returns")
        self.check_declared()

    def check_default(self, name: str, kind: Any, default: Any) -> None:
        """ValueError where a parameter's default is none that a command line could give."""
        if default is REQUIRED:
            return
        if not isinstance(default, bool | int | float | str | list | tuple | dict | None):
            raise ValueError(f"{source(self)}: {self.name}[{name}=...] has a default of type {type(default).__name__}")
        try:
            checked(f"{self.name}[{name}={default}]", default, kind)
        except ValueError as error:
            raise ValueError(f"{source(self)}: {visible(str(error))}") from error

    def check_declared(self) -> None:
        """ValueError where what the decorator was given is of another type."""
        where = source(self)
        if type(self.version) is not int or self.version < 0:
            raise ValueError(f"{where}: version={brief(self.version)}: must be a whole number, at least 0")
        if isinstance(self.needs, str):
            raise ValueError(f"{where}: needs={self.needs!r}: a set of names, {{{self.needs!r}}}")
        is_names = isinstance(self.needs, Collection) and all(isinstance(need, str) for need in self.needs)
        if not (callable(self.needs) or is_names):
            raise ValueError(f"{where}: needs={brief(self.needs)}: must be a set of names, or a function of them")
        functions = {"companion": self.companion, "lacks": self.lacks, "reveals": self.reveals}
        for name, value in {**functions, "check": self.check_weights}.items():
            if value is not None and not callable(value):
                raise ValueError(f"{where}: {name}={brief(value)}: must be a function")

    def needed(self, values: Mapping[str, Any]) -> frozenset[str]:
        """The needs under these (bound) parameters. ValueError where they are no names."""
        needs = self.declared("needs", values)
        if isinstance(needs, str) or not isinstance(needs, Iterable):
            raise ValueError(f"{source(self)}: needs of {self.name} gives {brief(needs)}: must be a set of names")
        return frozenset(map(str, needs))

    def declared(self, what: Literal["needs", "companion", "lacks", "reveals"], values: Mapping[str, Any]) -> Any:
        """What it declares of itself under these (bound) parameters; None: nothing. ValueError, naming the file, where
        its own code for that fails."""
        declaration = getattr(self, what)
        if not callable(declaration):
            return declaration
        try:
            return declaration(**values)
        except (ValueError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise ValueError(f"{source(self)}: {what} of {self.name}: {named(error)}") from error

    def named(self, values: Mapping[str, Any]) -> Iterator[tuple[Plugin, str]]:
        """The encoders and strategies that these (bound) parameters name, with their labels, and those that theirs
        name."""
        for name, (kind, _) in self.parameters(bool(values.get("published", False))).items():
            if (of := naming(kind)) is not None and (label := values[name]) is not None:
                inner, given = parse(label)
                yield (plugin := get(of, inner)), label
                yield from plugin.named(plugin.bind(given))

    @cache  # noqa: B019
    def code(self) -> str:
        """A hash of what its file does, and what that imports from its package or folder, comments and docstrings
        aside: it tells that a plug-in was edited where nobody raised its version. "" where there is no file, as in a
        notebook."""
        module = self.function.__module__
        try:
            return digest(source(self), module, module.startswith(IN_FOLDER))
        except (OSError, SyntaxError, TypeError, ValueError):
            return ""

    def capabilities(self, values: Mapping[str, Any]) -> frozenset[str]:
        """A task's capabilities under these (bound) parameters: the public methods of what it returns."""
        returned = typing.get_type_hints(self.function)["return"]
        methods = {name for name, _ in inspect.getmembers(returned, inspect.isfunction) if not name.startswith("_")}
        return frozenset(methods - set(self.declared("lacks", values) or ()))

    def build(self, machine: Any, values: Mapping[str, Any], *given: Any) -> Any:
        """The task, or the encoder on the pool that is `given`, built for `machine` from bound parameters."""
        rest = {name: value for name, value in values.items() if name != "published"}
        recipe = self.recipe(values)
        if recipe is None:
            return self.function(machine, *given, **rest)
        if hasattr(recipe, "check"):
            recipe.check(machine)  # before a task reads its data, which may take minutes
        fields = {f.name for f in dataclasses.fields(recipe)}
        return self.function(machine, recipe, **{n: v for n, v in rest.items() if n not in fields})

    def recipe(self, values: Mapping[str, Any]) -> Any:
        """A task's recipe with these (bound) parameters; None where it has none."""
        recipe = self.recipes.get(bool(values.get("published", False)))
        if recipe is None:
            return None
        fields = {f.name for f in dataclasses.fields(recipe)}
        return dataclasses.replace(recipe, **{n: v for n, v in values.items() if n in fields})


REGISTRY: dict[str, dict[str, Plugin]] = {kind: {} for kind in FOLDERS}


def add(plugin: Plugin) -> None:
    """Puts a plug-in into the registry; two of one name from different files are an error."""
    try:
        source(plugin)
    except TypeError as error:
        raise ValueError(f"{plugin.name} is no {plugin.kind}: it is not written in Python") from error
    old = REGISTRY[plugin.kind].get(plugin.name)
    if old is not None and source(old) != source(plugin):
        raise ValueError(f"two {FOLDERS[plugin.kind]} are called {plugin.name}: {source(old)} and {source(plugin)}")
    REGISTRY[plugin.kind][plugin.name] = plugin


def source(plugin: Plugin) -> Path:
    """The file a plug-in is written in."""
    return Path(inspect.getfile(plugin.function)).resolve()


def get(kind: str, name: str) -> Plugin:
    """The plug-in of that name; ValueError with the nearest name where there is none."""
    if name not in REGISTRY[kind]:
        raise ValueError(f"no {kind} is called {unknown(name, REGISTRY[kind])}")
    return REGISTRY[kind][name]


def discover(folder: str | Path | None = None) -> None:
    """Imports every plug-in: the packages of FOLDERS, installed entry points, and the files of `folder`."""
    put_home_first(FOLDERS.values())
    for package in FOLDERS.values():
        home = imported(package, partial(importlib.import_module, package))
        for path in sorted(Path(home.__path__[0]).glob("[!._]*.py")):
            imported(path, partial(importlib.import_module, f"{package}.{path.stem}"))
        for entry in entry_points(group=f"al_benchmark.{package}"):
            contained_import(entry.value, entry.load)
    if folder is not None:
        load_folder(Path(folder))
    for plugin in [plugin for known in REGISTRY.values() for plugin in known.values()]:
        plugin.check()


@cache
def declares_companion(label: str) -> bool:
    """Whether the strategy that a label names declares a companion, as its file says: importing it would take torch.
    False for a name that none of ours has."""
    try:
        tree = ast.parse((HOME / FOLDERS["strategy"] / f"{parse(label)[0]}.py").read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "register"]
    return any(keyword.arg == "companion" for call in calls for keyword in call.keywords)


def imported(what: object, load: Callable[[], Any]) -> Any:
    """What `load` returns; ValueError in one line where the code does not import."""
    try:
        return load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # `sys.exit()` at the end of a script, too
        words = " ".join(message(error).split())
        if isinstance(error, ValueError) and str(what) in words:
            raise ValueError(words) from error
        ours = isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] in FOLDERS.values()
        hint = "; files of one folder import each other by their names alone, `from _maths import ...`" * ours
        raise ValueError(f"{what} does not import: {type(error).__name__}: {words}{hint}") from error


def brief(value: Any) -> str:
    """A value in few characters, whatever becomes of asking for them."""
    try:
        return f"{value!r:.60}"
    except Exception:
        return f"a {type(value).__name__}"


def contained_import(what: object, load: Callable[[], Any]) -> None:
    """The same, of code that is not ours: what it changes in torch or in the process is put back."""
    from benchmark.process_state import contained  # our own plug-ins have loaded torch by now

    with contained(str(what), seed("global import", str(what)), importing=True):
        imported(what, load)


def load_folder(folder: Path) -> None:
    """Imports the .py files of a user's folder (files that start with _ or test_ are theirs). Says which of them hold
    no plug-in."""
    if not folder.is_dir():
        raise ValueError(f"plugins={folder}: no such folder")
    home = str(folder.resolve())
    loaders = (ExtensionFileLoader, EXTENSION_SUFFIXES), (FreshLoader, SOURCE_SUFFIXES)
    sys.path_importer_cache[home] = FileFinder(home, *loaders)
    if home not in sys.path:
        sys.path.append(home)  # so that its files may import each other; last, so that they shadow nothing
    for path in sorted(folder.glob("[!._]*.py")):
        if not path.name.startswith("test_"):
            load_file(path)
    known = {plugin.function.__module__ for plugins in REGISTRY.values() for plugin in plugins.values()}
    others = [path for path in sorted(folder.glob("[!._]*.py")) if module_name(path) not in known]
    for path in (path for path in others if not path.name.startswith("test_")):
        what = "registers no strategy, task or encoder (what they share is in files that begin with _)"
        remark_once(f"{visible(str(path))} {what}")


def module_name(path: Path) -> str:
    """What a plug-in file of a user's folder is imported as."""
    folder = hashlib.sha256(os.fsencode(os.path.realpath(path.parent))).hexdigest()[:8]
    stem = path.stem if path.stem.isidentifier() else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return f"{IN_FOLDER}{stem}_{folder}"


class FreshLoader(SourceFileLoader):
    """Compiles a module of a user's folder each time. Python itself goes by its time, in seconds, and size, so that of
    two versions saved within a second the first would run under the name of the second."""

    def get_code(self, fullname: str) -> types.CodeType:
        """The code of the text that is there now."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def load_file(path: Path) -> None:
    """Imports one plug-in file under a name of its own, so that it may be called `random`, in any number of folders."""
    where, name = visible(str(path)), module_name(path)
    if visible(path.name) != path.name:
        raise ValueError(f"{where}: a plug-in's file needs a name of letters that can be shown: rename it")
    try:
        with opened(path, LARGEST):
            pass
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(visible(str(error))) from error
    spec = importlib.util.spec_from_file_location(name, path, loader=FreshLoader(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    contained_import(where, partial(spec.loader.exec_module, module))


class Verbatim(str):
    """Text that stood in quotes: it is that text, and never null."""


QUOTES = "\"'"
BRACKETS = {"[": "]", "{": "}"}
QUOTED = re.compile(r"""(["'])((?:(?!\1)[^\\]|\\.)*)\1""", re.DOTALL)
IN_QUOTES = 'text with commas, brackets or quotes goes into quotes, as in name[root="a,b"]'


def parse(text: object) -> tuple[str, dict[str, Any]]:
    """`coreset[metric=cosine]`, or {"coreset": {"metric": "cosine"}}, as (name, parameters).

    Values of the first form are text still: `checked` reads them by the parameter's type. In double or single quotes
    they may hold anything, with a backslash before a quote of that kind and before a backslash.
    """
    if isinstance(text, Mapping) and len(text) == 1:
        [(name, values)] = text.items()
        if isinstance(values, Mapping) or values is None:
            return str(name), dict(values or {})
    match = re.fullmatch(rf"\s*({NAME})\s*(?:\[(.*)\])?\s*", text, re.DOTALL) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a name or name[key=value,...]")
    given = dict[str, Any]()
    for item in filter(None, split(match[2] or "")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{text}: {item!r} is not key=value; {IN_QUOTES}")
        if key.strip() in given:
            raise ValueError(f"{text}: {key.strip()} is there twice")
        given[key.strip()] = unquoted(value.strip())
    return match[1], given


def split(text: str) -> list[str]:
    """The parts between commas, those inside brackets and quotes aside: `like=isal[k=2,order=file],min_score=0.5` has
    two. A quote is one only where a value begins: `O'Brien` holds none. ValueError where one is not closed."""
    parts, closing, quote, before = [""], "", "", ","  # closing: the brackets that are still to come
    characters = iter(text)
    for character in characters:
        if character == "," and not closing and not quote:
            parts.append("")
        else:
            parts[-1] += character
        if quote:
            parts[-1] += next(characters, "") if character == "\\" else ""
            quote = "" if character == quote else quote
        elif character in QUOTES and before in "=,[{:":
            quote = character
        elif character in BRACKETS:
            closing = BRACKETS[character] + closing
        elif character in BRACKETS.values():
            if character != closing[:1]:
                raise ValueError(f"{text}: a {character} closes nothing; {IN_QUOTES}")
            closing = closing[1:]
        before = before if character.isspace() else character
    if quote or closing:
        fault = f"the quote {quote} is not closed" if quote else f"a bracket is not closed: {text}{closing}"
        raise ValueError(f"{text}: {fault}; {IN_QUOTES}")
    return parts


def items(text: str) -> list[str]:
    """The items of `[a,"b,c"]` or `a,b`, without the quotes around them. ValueError as `split`."""
    text = text.strip()
    parts = split(text)
    if len(parts) == 1 and text[:1] == "[":
        parts = split(text[1:-1])
    return [unquoted(part.strip()) for part in parts if part.strip()]


def unquoted(text: str) -> str:
    """The text inside quotes; other text as it is. ValueError where something follows the quote."""
    if text[:1] not in tuple(QUOTES):
        return text
    match = QUOTED.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a text in quotes: {IN_QUOTES}")
    return Verbatim(re.sub(r"""\\([\\"'])""", r"\1", match[2]))


def spelled(value: Any, kind: Any) -> str:
    """A parameter's value as users write it in `name[key=value]`: in quotes where it would be read as another."""
    if not isinstance(value, str):
        return plain(value)
    try:
        if parse(f"x[y={value}]") == ("x", {"y": value}) and (naming(kind) or checked("", value, kind) == value):
            return value
    except ValueError:
        pass
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def scalar(text: str) -> Any:
    """A parameter's value from text: true, false, null, a finite number (1e-3 too), or the text itself."""
    for kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            if math.isfinite(number := kind(text)):
                return number
    return {"true": True, "false": False, "null": None}.get(text.lower(), text)


def in_words(needs: Iterable[str]) -> str:
    """Capabilities for people, each with the name that plug-ins know it by."""
    return ", ".join(f"{CAPABILITIES[one]} ({one})" if one in CAPABILITIES else one for one in sorted(needs))


def unknown(name: str, known: Iterable[str]) -> str:
    """'covset' (did you mean 'coreset'?)"""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(known)) or 'none'}"
    return f"{name!r} ({hint})"


def naming(kind: Any) -> str | None:
    """Which kind of plug-in a parameter of this type names: "encoder", "strategy" or None."""
    told = (kind, *typing.get_args(kind))
    return "encoder" if EncoderName in told else "strategy" if StrategyName in told else None


IN_WORDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list",
    dict: "a mapping", types.NoneType: "null",
}  # fmt: skip


def checked(what: str, value: Any, kind: Any) -> Any:
    """`value` as the annotated type: an int passes for a float, text is read, a plug-in's name has one spelling a
    meaning. ValueError where it does not fit."""
    what, options = visible(what), typing.get_args(kind)
    if (named := naming(kind)) is not None and value not in ("null", None):
        name, given = parse(value)
        return get(named, name).label(given)
    if named is not None and types.NoneType not in options:
        raise ValueError(f"{what}: must name {'an' if named == 'encoder' else 'a'} {named}")
    if typing.get_origin(kind) is Literal:
        if value not in options:
            raise ValueError(f"{what}: must be one of {', '.join(str(option) for option in options if option != '')}")
        return value
    is_union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    allowed = [typing.get_origin(option) or option for option in (options if is_union else (kind,))]
    if isinstance(value, Verbatim) and not {str, Any}.isdisjoint(allowed):
        return str(value)
    if isinstance(value, str) and (str not in allowed or (value == "null" and types.NoneType in allowed)):
        value = scalar(value)
    if isinstance(value, float) and not math.isfinite(value) and float in allowed:
        raise ValueError(f"{what}: must be a finite number")
    if Any in allowed or type(value) in allowed:
        return value
    if float in allowed and type(value) is int and abs(value) < 2**1023:
        return float(value)
    words = (IN_WORDS.get(one) or getattr(one, "__name__", str(one)) for one in allowed)
    raise ValueError(f"{what}: must be {' or '.join(words)}")


def plain(value: Any) -> str:
    """A parameter's value as users write it."""
    return (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or value is True or value is False
        else str(value)
    )
