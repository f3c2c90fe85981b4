"""The registry of plug-ins, and the parameters of each."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from benchmark.plugins.capability_names import CAPABILITIES, LABEL_NEEDS, Property, capabilities_of
from benchmark.plugins.code_hash import hash_code
from benchmark.text.escaping import make_visible
from benchmark.text.notation import PLUGIN_NAME, QuotedText, format_value, parse_label, parse_scalar
from benchmark.text.words import describe_error, did_you_mean, short_repr

REQUIRED = inspect.Parameter.empty
EncoderName: TypeAlias = Annotated[str, "encoder"]  # type of a parameter that names an encoder: `patch_pca[patch=4]`
StrategyName: TypeAlias = Annotated[str, "strategy"]  # the same for strategies: `isal[k=2]`
USER_MODULE_PREFIX = "al_benchmark_plugin_"  # begins the module names of files in a user's folder
FOLDERS = {"strategy": "strategies", "task": "tasks", "encoder": "encoders"}


@dataclass(frozen=True, eq=False)
class Plugin:
    """A registered strategy, task or encoder; see `register`, `register_task` and `register_encoder`.

    Attributes:
        kind: strategy, task or encoder.
        name: its name, which is that of its function.
        function: the strategy, or the function that builds the task or encoder.
        version: raised by hand when its numbers change.
        needs: capabilities and labels that a strategy uses, or a function of its parameters that returns them.
        companion: builds the companion of a strategy from its parameters.
        recipes: the recipes of a task: the default one under False, the published one under True.
        missing_capabilities: returns the capabilities that a task lacks under its parameters.
        label_leakage: tells, from a task's parameters, which labels influence the pool without being paid for.
        check_weights: checks files of weights before a task reads its data.
        from_shards: how a strategy selects from a pool on disk; see `benchmark.contract.sharded_pool.FromShards`.
        missing_requirements: returns what a task needs and does not find on a machine.
        needs_without_labels: what a strategy uses instead of `needs` while nothing is labelled; None: the same.
        selects_high: by what the images that a strategy selects exceed the others.
    """

    kind: Literal["strategy", "task", "encoder"]
    name: str
    function: Callable[..., Any]
    version: int
    needs: Collection[str] | Callable[..., Collection[str]] = ()
    companion: Callable[..., Any] | None = None
    recipes: Mapping[bool, Any] = field(default_factory=dict)
    missing_capabilities: Callable[..., Collection[str]] | None = None
    label_leakage: Callable[..., str] | None = None
    check_weights: Callable[..., object] | None = None
    from_shards: Any = None
    missing_requirements: Callable[..., Iterable[Any]] | None = None
    needs_without_labels: Collection[str] | Callable[..., Collection[str]] | None = None
    selects_high: Property | None = None

    @cache  # noqa: B019  plug-ins live as long as the process
    def parameters(self, published: bool = False) -> Mapping[str, tuple[Any, Any]]:
        """The type and the default of every parameter that a user may set, by name.

        Args:
            published: take the defaults of the published recipe.
        """
        hints = typing.get_type_hints(self.function, include_extras=True)
        parameters = {
            p.name: (hints.get(p.name, Any), p.default)
            for p in inspect.signature(self.function).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        recipe = self.recipes.get(published)
        if recipe is not None:
            hints = typing.get_type_hints(type(recipe), include_extras=True)
            parameters |= {f.name: (hints[f.name], getattr(recipe, f.name)) for f in dataclasses.fields(recipe)}
        if self.recipes.get(True) is not None:
            parameters["published"] = (bool, False)
        return types.MappingProxyType(parameters)

    def bind(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Fills in the defaults and converts every value to its type.

        Args:
            overrides: values by parameter, as typed or of the right type.

        Returns:
            Every parameter with its value.

        Raises:
            ValueError: a parameter is unknown or missing, or a value does not fit its type.
        """
        parameters = self.parameters(bool(overrides.get("published", False)))
        for name in overrides:
            if name not in parameters:
                raise ValueError(f"{self.name} has no parameter {did_you_mean(name, parameters)}")
        values = {name: overrides.get(name, default) for name, (_, default) in parameters.items()}
        for name, value in values.items():
            if value is REQUIRED:
                raise ValueError(f"{self.name}[{name}=...] must be given")
            values[name] = convert_value(f"{self.name}[{name}={value}]", value, parameters[name][0])
        return values

    def label(self, overrides: Mapping[str, Any]) -> str:
        """The label: name and parameters that differ from their default, as `coreset[metric=cosine]`.

        Equal parameters give equal labels, however they were typed.
        """
        values = self.non_defaults(self.bind(overrides))
        parameters = self.parameters(bool(overrides.get("published", False)))
        inside = ",".join(f"{name}={format_parameter(values[name], parameters[name][0])}" for name in sorted(values))
        return f"{self.name}[{inside}]" if inside else self.name

    def non_defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters returned by `bind` that differ from their default."""
        defaults = self.parameters(bool(values.get("published", False)))
        return {
            n: v for n, v in values.items() if (n == "published" and v) or (n != "published" and v != defaults[n][1])
        }

    def check(self) -> None:
        """ValueError, naming the file, where the plug-in's declaration is not valid."""
        if not re.fullmatch(PLUGIN_NAME, self.name):
            raise ValueError(f"{source_file(self)}: {self.name!r} is not a valid name: use letters, digits and _")
        try:
            returned = typing.get_type_hints(self.function).get("return")
            for published in (False, True):
                for name, (annotation, default) in self.parameters(published).items():
                    self.check_default(name, annotation, default)
        except NameError as error:
            raise ValueError(
                f"{source_file(self)}: {self.name} has an annotation that is not imported: {error}"
            ) from error
        except ValueError:
            raise
        except Exception as error:
            words = " ".join(describe_error(error).split())
            raise ValueError(
                f"{source_file(self)}: {self.name} has a declaration that cannot be read: {words}"
            ) from error
        if self.kind == "task" and not isinstance(returned, type):
            raise ValueError(f"{source_file(self)}: {self.name} needs a return annotation: the class of the task")
        self.check_declaration()

    def check_default(self, name: str, annotation: Any, default: Any) -> None:
        """ValueError where a parameter's default is not a value that could be typed."""
        if default is REQUIRED:
            return
        if not isinstance(default, bool | int | float | str | list | tuple | dict | None):
            raise ValueError(
                f"{source_file(self)}: {self.name}[{name}=...] has a default of type {type(default).__name__}"
            )
        try:
            convert_value(f"{self.name}[{name}={default}]", default, annotation)
        except ValueError as error:
            raise ValueError(f"{source_file(self)}: {make_visible(str(error))}") from error

    def check_declaration(self) -> None:
        """ValueError where an argument of the decorator has a wrong type."""
        where = source_file(self)
        if type(self.version) is not int or self.version < 0:
            raise ValueError(f"{where}: version={short_repr(self.version)}: must be a whole number, at least 0")
        for name, needs in {"needs": self.needs, "needs_without_labels": self.needs_without_labels or ()}.items():
            if isinstance(needs, str):
                raise ValueError(f"{where}: {name}={needs!r}: must be a set of names, as {{{needs!r}}}")
            is_names = isinstance(needs, Collection) and all(isinstance(need, str) for need in needs)
            if not (callable(needs) or is_names):
                raise ValueError(f"{where}: {name}={short_repr(needs)}: must be a set of names, or a function of them")
        functions: dict[str, object] = {
            "companion": self.companion,
            "missing_capabilities": self.missing_capabilities,
            "label_leakage": self.label_leakage,
        }
        functions |= {"check": self.check_weights, "missing_requirements": self.missing_requirements}
        for name, value in functions.items():
            if value is not None and not callable(value):
                raise ValueError(f"{where}: {name}={short_repr(value)}: must be a function")
        if self.kind == "task" and self.check_weights is not None and self.recipes.get(False) is None:
            raise ValueError(f"{where}: check= needs a recipe to check: set default= to one")
        if self.selects_high not in (None, *typing.get_args(Property)):
            words = did_you_mean(str(self.selects_high), typing.get_args(Property))
            raise ValueError(f"{where}: selects_high={short_repr(self.selects_high)}: no property is called {words}")

    def resolve_version(self, values: Mapping[str, Any]) -> int:
        """The version under these bound parameters: a recipe may have a `revision`, which is added to it."""
        return self.version + int(getattr(self.recipe(values), "revision", 0))

    def resolve_needs(self, values: Mapping[str, Any], *, without_labels: bool = False) -> frozenset[str]:
        """The needs under these bound parameters. ValueError where they are not names of capabilities or labels.

        Args:
            values: all parameters, as `bind` returns them.
            without_labels: return what is needed while nothing is labelled.
        """
        own_needs = without_labels and self.needs_without_labels is not None
        needs = self.resolve_declaration("needs_without_labels" if own_needs else "needs", values)
        if isinstance(needs, str) or not isinstance(needs, Iterable):
            raise ValueError(
                f"{source_file(self)}: needs of {self.name} gives {short_repr(needs)}: must be a set of names"
            )
        names = frozenset(map(str, needs))
        for name in sorted(names - LABEL_NEEDS - CAPABILITIES.keys()):
            words = did_you_mean(name, [*CAPABILITIES, *LABEL_NEEDS])
            raise ValueError(f"{source_file(self)}: {self.name} has an unknown need: no capability is called {words}")
        return names

    def resolve_declaration(
        self,
        name: Literal["needs", "needs_without_labels", "companion", "missing_capabilities", "label_leakage"],
        values: Mapping[str, Any],
    ) -> Any:
        """The value of a declaration under these bound parameters; None where there is none.

        Raises:
            ValueError: the plug-in's own function for it fails; the message names the file.
        """
        declaration = getattr(self, name)
        if not callable(declaration):
            return declaration
        try:
            return declaration(**values)
        except (ValueError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise ValueError(f"{source_file(self)}: {name} of {self.name}: {describe_error(error)}") from error

    def nested_plugins(self, values: Mapping[str, Any]) -> Iterator[tuple[Plugin, str]]:
        """The encoders and strategies that these bound parameters name, with their labels; recursively."""
        for name, (annotation, _) in self.parameters(bool(values.get("published", False))).items():
            if (kind := named_plugin_kind(annotation)) is not None and (label := values[name]) is not None:
                inner, overrides = parse_label(label)
                yield (plugin := get(kind, inner)), label
                yield from plugin.nested_plugins(plugin.bind(overrides))

    @cache  # noqa: B019
    def code_hash(self) -> str:
        """A hash of its source code and of the modules that it imports from its own package or folder.

        Comments and docstrings do not count. A changed hash reveals that a plug-in was edited while its version stayed.
        The hash is "" where there is no file, as in a notebook.
        """
        module = self.function.__module__
        try:
            return hash_code(source_file(self), module, module.startswith(USER_MODULE_PREFIX))
        except (OSError, SyntaxError, TypeError, ValueError):
            return ""

    @property
    def task_class(self) -> Any:
        """The class of a task, as the factory's return annotation says."""
        return typing.get_type_hints(self.function)["return"]

    def capabilities(self, values: Mapping[str, Any]) -> frozenset[str]:
        """A task's capabilities under these bound parameters: those of its class, without the missing ones."""
        return capabilities_of(self.task_class) - set(self.resolve_declaration("missing_capabilities", values) or ())

    def build(self, machine: Any, values: Mapping[str, Any], *inputs: Any) -> Any:
        """Builds a task, or an encoder.

        Args:
            machine: where it runs.
            values: all parameters, as `bind` returns them.
            inputs: for an encoder, the pool.
        """
        recipe, parameters = self.split_recipe(values)
        if recipe is not None and self.check_weights is not None:
            self.check_weights(machine, recipe)  # before the task reads its data, which may take minutes
        return self.function(machine, *inputs, *filter(None, [recipe]), **parameters)

    def find_missing(self, machine: Any, values: Mapping[str, Any]) -> list[Any]:
        """The requirements of a task that are not met.

        Args:
            machine: where it would run.
            values: all parameters, as `bind` returns them.

        Raises:
            ValueError: the plug-in's own function fails; the message names the file.
        """
        if self.missing_requirements is None:
            return []
        recipe, parameters = self.split_recipe(values)
        try:
            return list(self.missing_requirements(machine, *filter(None, [recipe]), **parameters))
        except (ValueError, KeyboardInterrupt):
            raise
        except BaseException as error:
            words = f"missing_requirements of {self.name}: {describe_error(error)}"
            raise ValueError(f"{source_file(self)}: {words}") from error

    def split_recipe(self, values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A task's recipe, or None, and the parameters of its factory."""
        recipe = self.recipe(values)
        fields = {"published"} | ({f.name for f in dataclasses.fields(recipe)} if recipe is not None else set())
        return recipe, {name: value for name, value in values.items() if name not in fields}

    def recipe(self, values: Mapping[str, Any]) -> Any:
        """A task's recipe with these bound parameters; None where it has none."""
        recipe = self.recipes.get(bool(values.get("published", False)))
        if recipe is None:
            return None
        fields = {f.name for f in dataclasses.fields(recipe)}
        return dataclasses.replace(recipe, **{n: v for n, v in values.items() if n in fields})


REGISTRY: dict[str, dict[str, Plugin]] = {kind: {} for kind in FOLDERS}


def add_plugin(plugin: Plugin) -> None:
    """Puts a plug-in into the registry. ValueError where another file has one of the same kind and name."""
    try:
        source_file(plugin)
    except TypeError as error:
        raise ValueError(f"{plugin.name} cannot be a {plugin.kind}: it is not a Python function") from error
    old = REGISTRY[plugin.kind].get(plugin.name)
    if old is not None and source_file(old) != source_file(plugin):
        raise ValueError(
            f"two {FOLDERS[plugin.kind]} are called {plugin.name}: {source_file(old)} and {source_file(plugin)}"
        )
    REGISTRY[plugin.kind][plugin.name] = plugin


def source_file(plugin: Plugin) -> Path:
    """The source file of a plug-in."""
    return Path(inspect.getfile(plugin.function)).resolve()


def get(kind: str, name: str) -> Plugin:
    """The plug-in of that kind and name. ValueError, with the closest name, where there is none."""
    if name not in REGISTRY[kind]:
        raise ValueError(f"no {kind} is called {did_you_mean(name, REGISTRY[kind])}")
    return REGISTRY[kind][name]


def format_parameter(value: Any, annotation: Any) -> str:
    """Writes a parameter's value for `name[key=value]`, in quotes where it would otherwise be read differently."""
    if not isinstance(value, str):
        return format_value(value)
    try:
        if parse_label(f"x[y={value}]") == ("x", {"y": value}) and (
            named_plugin_kind(annotation) or convert_value("", value, annotation) == value
        ):
            return value
    except ValueError:
        pass
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def named_plugin_kind(annotation: Any) -> str | None:
    """The kind of plug-in that a parameter of this type names: "encoder", "strategy" or None."""
    members = (annotation, *typing.get_args(annotation))
    return "encoder" if EncoderName in members else "strategy" if StrategyName in members else None


TYPE_DESCRIPTIONS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list",
    dict: "a mapping", types.NoneType: "null",
}  # fmt: skip


def convert_value(context: str, value: Any, annotation: Any) -> Any:
    """Converts a value to an annotated type.

    Text is parsed, an int becomes a float, and the name of a plug-in becomes its canonical label.

    Args:
        context: the setting or parameter with its value, for the message.
        value: the value, as typed or of the right type.
        annotation: the type.

    Raises:
        ValueError: the value does not fit.
    """
    context, options = make_visible(context), typing.get_args(annotation)
    if (plugin_kind := named_plugin_kind(annotation)) is not None and value not in ("null", None):
        name, overrides = parse_label(value)
        return get(plugin_kind, name).label(overrides)
    if plugin_kind is not None and types.NoneType not in options:
        raise ValueError(f"{context}: must name {'an' if plugin_kind == 'encoder' else 'a'} {plugin_kind}")
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    members = options if is_union else (annotation,)
    choices = [
        choice for member in members if typing.get_origin(member) is Literal for choice in typing.get_args(member)
    ]
    if value in choices:
        return value
    if typing.get_origin(annotation) is Literal:
        raise ValueError(f"{context}: must be one of {', '.join(str(choice) for choice in choices if choice != '')}")
    allowed = [typing.get_origin(member) or member for member in members]
    if isinstance(value, QuotedText) and not {str, Any}.isdisjoint(allowed):
        return str(value)
    if isinstance(value, str) and (str not in allowed or (value == "null" and types.NoneType in allowed)):
        value = parse_scalar(value)
    if isinstance(value, float) and not math.isfinite(value) and float in allowed:
        raise ValueError(f"{context}: must be a finite number")
    if Any in allowed or type(value) in allowed:
        return value
    if float in allowed and type(value) is int and abs(value) < 2**1023:
        return float(value)
    kinds = [kind for kind in allowed if kind is not Literal]
    words = [TYPE_DESCRIPTIONS.get(kind) or getattr(kind, "__name__", str(kind)) for kind in kinds]
    raise ValueError(f"{context}: must be {' or '.join([*words, *map(str, choices)])}")
