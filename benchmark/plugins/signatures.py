"""Reads names, parameters and choices of plug-ins from their source files, since importing them would take torch."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from benchmark.plugins.code_folders import PACKAGE, folder_of
from benchmark.plugins.paths import CONFIGS
from benchmark.plugins.registry import FOLDERS

DECORATORS = {"register": "strategy", "register_task": "task", "register_encoder": "encoder"}
PLUGIN_NAME_TYPES = {"EncoderName": "encoder", "StrategyName": "strategy"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Parameter:
    """The possible values of a parameter: one of `choices`, or a plug-in of a kind. Both empty: anything."""

    choices: tuple[str, ...] = ()
    plugin_kind: str = ""  # "encoder", "strategy", or "" where it names no plug-in


def plugin_files(kind: str, folder: Path | None = None) -> dict[str, Path]:
    """The file of each plug-in of a kind, by name: ours, and those of a user's folder."""
    ours = {path.stem: path for path in sorted(folder_of(FOLDERS[kind]).glob("[!._]*.py"))}
    user_files = sorted(folder.glob("[!._]*.py")) if folder else []
    return ours | {name: path for path in user_files for name, own_kind in registered_plugins(path) if own_kind == kind}


def experiment_names(grid: str) -> list[str]:
    """The names of a grid's experiments, those of the grids that it includes first; none where it cannot be read."""
    try:
        grid_file = yaml.safe_load((CONFIGS / "grid" / f"{grid}.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    others = [
        name for other in grid_file.get("defaults", ()) if isinstance(other, str) for name in experiment_names(other)
    ]
    return [*others, *(grid_file.get("experiments") or ())]


def registered_plugins(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the name and the kind of every plug-in that a file registers."""
    for node in parse_file(path).body:
        for call in decorator_calls(node):
            if (decorator := ast.unparse(call.func).rpartition(".")[2]) in DECORATORS and isinstance(node, Function):
                yield node.name, DECORATORS[decorator]


def decorator_calls(node: ast.stmt) -> list[ast.Call]:
    """The decorators of a function that are calls; none of another statement."""
    return (
        [decorator for decorator in node.decorator_list if isinstance(decorator, ast.Call)]
        if isinstance(node, Function)
        else []
    )


@cache
def parse_file(path: Path) -> ast.Module:
    """Parses a file; an empty tree where it cannot be read or parsed."""
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        return ast.parse(path.read_bytes())
    return ast.Module([], [])


def read_parameters(path: Path, name: str) -> Mapping[str, Parameter]:
    """Reads the parameters of a plug-in: the keyword-only ones of its function, and the fields of a task's recipe."""
    parameters: dict[str, Parameter] = {}
    for node in parse_file(path).body:
        if isinstance(node, Function) and node.name == name:
            parameters |= {argument.arg: read_parameter(path, argument.annotation) for argument in node.args.kwonlyargs}
            recipes = {word.arg: word.value for call in decorator_calls(node) for word in call.keywords}
            if "default" in recipes:
                parameters |= recipe_fields(path, recipes["default"])
            if "published" in recipes:
                parameters["published"] = Parameter(("true", "false"))
    return parameters


def recipe_fields(path: Path, value: ast.expr) -> dict[str, Parameter]:
    """Reads the fields of the recipe that an expression builds: `Recipe(...)`, `replace(RECIPE, ...)` or a name."""
    if isinstance(value, ast.Call):
        is_replace_call = ast.unparse(value.func).rpartition(".")[2] == "replace" and value.args
        return recipe_fields(path, value.args[0] if is_replace_call else value.func)
    where, node = find_definition(path, value)
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        return recipe_fields(where, node.value)
    if not isinstance(node, ast.ClassDef):
        return {}
    inherited = {name: statement for base in node.bases for name, statement in recipe_fields(where, base).items()}
    annotated = [
        statement
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    ]
    return inherited | {
        ast.unparse(statement.target): read_parameter(where, statement.annotation) for statement in annotated
    }


def read_parameter(path: Path, annotation: ast.expr | None) -> Parameter:
    """Reads the possible values of a parameter from its annotation; named types are looked up in their files."""
    if isinstance(annotation, ast.BinOp):
        sides = [read_parameter(path, side) for side in (annotation.left, annotation.right)]
        return Parameter(sides[0].choices + sides[1].choices, sides[0].plugin_kind or sides[1].plugin_kind)
    text = ast.unparse(annotation) if annotation else ""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal"):
        inside = annotation.slice
        options = inside.elts if isinstance(inside, ast.Tuple) else [inside]
        return Parameter(tuple(str(option.value) for option in options if isinstance(option, ast.Constant)))
    if text == "bool":
        return Parameter(("true", "false"))
    if text in PLUGIN_NAME_TYPES or annotation is None:
        return Parameter(plugin_kind=PLUGIN_NAME_TYPES.get(text, ""))
    where, node = find_definition(path, annotation)
    return read_parameter(where, node.value) if isinstance(node, ast.Assign | ast.AnnAssign) else Parameter()


def find_definition(path: Path, name: ast.expr) -> tuple[Path, ast.stmt | None]:
    """Finds the file and the statement that define a name used in a file; None as statement where it is not ours."""
    target = ast.unparse(name)
    for node in parse_file(path).body:
        if isinstance(node, ast.ImportFrom):
            imported_names = [alias.name for alias in node.names if (alias.asname or alias.name) == target]
            if imported_names and (source := module_file(path, node)) is not None:
                return find_definition(source, ast.Name(imported_names[0]))
        elif target in defined_names(node):
            return path, node
    return path, None


def defined_names(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.ClassDef | Function):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return list(map(ast.unparse, targets))


def module_file(path: Path, node: ast.ImportFrom) -> Path | None:
    """The file that an import statement refers to: in our package, or beside the file; else None."""
    parts = (node.module or "").split(".")
    if node.level:
        return existing_file(path.parents[node.level - 1].joinpath(*parts))
    return (
        existing_file(PACKAGE.joinpath(*parts[1:]))
        if parts[0] == "benchmark"
        else existing_file(path.parent.joinpath(*parts))
    )


def existing_file(path: Path) -> Path | None:
    """The file of a module or a package at a path without suffix; None where there is none."""
    return next(
        (candidate for candidate in (path.with_suffix(".py"), path / "__init__.py") if candidate.is_file()), None
    )
