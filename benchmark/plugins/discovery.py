"""Imports plug-ins: from our folders, from installed packages and from folders of users."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable
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
from typing import Any

from benchmark.plugins.code_folders import folder_of
from benchmark.plugins.registry import FOLDERS, REGISTRY, USER_MODULE_PREFIX, Plugin, source_file
from benchmark.seeds import seed
from benchmark.system.files import open_file
from benchmark.system.remarks import remark_once
from benchmark.text.escaping import make_visible
from benchmark.text.notation import parse_label
from benchmark.text.words import error_message

MAX_FILE_BYTES = 2**24  # greatest size of a plug-in's file


def discover(folder: str | Path | None = None) -> None:
    """Imports every plug-in: the packages of FOLDERS, installed entry points, and the files of a user's folder.

    Args:
        folder: the user's folder of plug-ins, if any.

    Raises:
        ValueError: a plug-in cannot be imported or is declared wrongly, or PyTorch is not installed.
    """
    import_own_plugins()
    for package in FOLDERS.values():
        for entry in entry_points(group=f"al_benchmark.{package}"):
            import_isolated(entry.value, entry.load)
    if folder is not None:
        load_folder(Path(folder))
    for plugin in [plugin for plugins in REGISTRY.values() for plugin in plugins.values()]:
        plugin.check()


def import_own_plugins() -> None:
    """Imports the plug-ins of the packages of FOLDERS. ValueError as `discover`."""
    require_torch()
    for package in FOLDERS.values():
        for path in sorted(folder_of(package).glob("[!._]*.py")):
            import_plugin(path, partial(importlib.import_module, f"benchmark.{package}.{path.stem}"))


def is_discoverable(plugin: Plugin, folder: str | None) -> bool:
    """Whether `discover(folder)` in another process registers a plug-in of this one."""
    module = plugin.function.__module__
    entries = [entry for package in FOLDERS.values() for entry in entry_points(group=f"al_benchmark.{package}")]
    is_installed = module.partition(".")[0] in {"benchmark", *(entry.module.partition(".")[0] for entry in entries)}
    return is_installed or (folder is not None and Path(folder).resolve() == source_file(plugin).parent)


def require_torch() -> None:
    """ValueError where PyTorch cannot be imported. Plug-ins need it; the analysis of records does not."""
    try:
        importlib.import_module("torch")
    except ImportError as error:
        how = "pip install 'al-benchmark[train]'"
        raise ValueError(f"strategies and tasks need PyTorch: {how} ({' '.join(str(error).split())})") from error


@cache
def declares_companion(label: str) -> bool:
    """Whether the strategy of a label declares a companion, according to its source code.

    The file is parsed and not imported, since that would need torch. False for strategies that are not ours.
    """
    try:
        tree = ast.parse((folder_of(FOLDERS["strategy"]) / f"{parse_label(label)[0]}.py").read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "register"]
    return any(keyword.arg == "companion" for call in calls for keyword in call.keywords)


def import_plugin(name: object, load: Callable[[], Any]) -> Any:
    """Calls `load` and returns its result. ValueError in one line where the code cannot be imported.

    Args:
        name: the file or module, for the message.
        load: imports it.
    """
    try:
        return load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # `sys.exit()` at the end of a script, too
        words = " ".join(error_message(error).split())
        if isinstance(error, ValueError) and str(name) in words:
            raise ValueError(words) from error
        is_ours = isinstance(error, ModuleNotFoundError) and not set(FOLDERS.values()).isdisjoint(
            str(error.name).split(".")
        )
        hint = "; files of one folder import each other by their names alone, `from _maths import ...`" * is_ours
        raise ValueError(f"{name} does not import: {type(error).__name__}: {words}{hint}") from error


def import_isolated(name: object, load: Callable[[], Any]) -> None:
    """Imports code that is not ours, and restores what it changes in torch or in the process."""
    from benchmark.system.process_state import isolate_plugin  # our own plug-ins have loaded torch by now

    with isolate_plugin(str(name), seed("global import", str(name)), importing=True):
        import_plugin(name, load)


def load_folder(folder: Path) -> None:
    """Imports the .py files of a user's folder, except those that begin with _ or test_.

    A remark names each imported file that registers no plug-in.
    """
    if not folder.is_dir():
        raise ValueError(f"plugins={folder}: no such folder")
    real_path = str(folder.resolve())
    loaders = (ExtensionFileLoader, EXTENSION_SUFFIXES), (UncachedLoader, SOURCE_SUFFIXES)
    sys.path_importer_cache[real_path] = FileFinder(real_path, *loaders)
    if real_path not in sys.path:
        sys.path.append(real_path)  # its files may import each other; last on the path, so that they shadow nothing
    for path in sorted(folder.glob("[!._]*.py")):
        if not path.name.startswith("test_"):
            load_file(path)
    plugin_modules = {plugin.function.__module__ for plugins in REGISTRY.values() for plugin in plugins.values()}
    others = [path for path in sorted(folder.glob("[!._]*.py")) if module_name(path) not in plugin_modules]
    for path in (path for path in others if not path.name.startswith("test_")):
        what = "registers no strategy, task or encoder (begin the name of a shared module with _)"
        remark_once(f"{make_visible(str(path))} {what}")


def module_name(path: Path) -> str:
    """The module name under which a plug-in file of a user's folder is imported."""
    folder = hashlib.sha256(os.fsencode(os.path.realpath(path.parent))).hexdigest()[:8]
    stem = path.stem if path.stem.isidentifier() else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return f"{USER_MODULE_PREFIX}{stem}_{folder}"


class UncachedLoader(SourceFileLoader):
    """Compiles a module of a user's folder anew each time.

    Python's own cache compares modification times in whole seconds and sizes: a file that is edited within a second
    would run in its old version.
    """

    def get_code(self, fullname: str) -> types.CodeType:
        """Compiles the current text of the file."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def load_file(path: Path) -> None:
    """Imports one plug-in file under a unique module name, so that the file may be called `random.py`, for example."""
    where, name = make_visible(str(path)), module_name(path)
    if make_visible(path.name) != path.name:
        raise ValueError(f"{where}: the name of a plug-in's file must be printable: rename it")
    try:
        with open_file(path, MAX_FILE_BYTES):
            pass
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(make_visible(str(error))) from error
    spec = importlib.util.spec_from_file_location(name, path, loader=UncachedLoader(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    import_isolated(where, partial(spec.loader.exec_module, module))
