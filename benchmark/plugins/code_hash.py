"""Hashes the code of a plug-in: its file, and what it imports from its package or folder. Imports no torch."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark.plugins.code_folders import folder_of

EXTERNAL_MODULES = frozenset({"benchmark", *sys.stdlib_module_names})
# our plug-ins and the code that they are built from, each a package in `benchmark`
PLUGIN_PACKAGES = ("strategies", "tasks", "encoders", "vision")


@dataclass(frozen=True)
class OwnModules:
    """The modules that count as a plug-in's own code: those of its package, or those beside it in a user's folder."""

    folders: Mapping[str, Path]  # by package; "" for modules that are imported by their bare name

    @classmethod
    def of(cls, file: Path, module: str, in_user_folder: bool) -> OwnModules:
        """Finds the own modules of a plug-in.

        Args:
            file: the file of the plug-in.
            module: the name under which it was imported.
            in_user_folder: the file lies in a folder of plug-ins (`plugins=DIR`).
        """
        top = module.partition(".")[0]
        if in_user_folder:
            return cls({"": file.parent})
        if top == "benchmark":
            return cls({f"benchmark.{name}": folder_of(name) for name in PLUGIN_PACKAGES})
        depth = module.count(".") + (file.name == "__init__.py")
        return cls({top: file.parents[depth] / top})

    def find(self, module: str) -> Path | None:
        """The file of a module with an absolute name; None where it is no such module."""
        for package, folder in self.folders.items():
            if module != package and not module.startswith(f"{package}." * bool(package)):
                continue
            if package or module.partition(".")[0] not in EXTERNAL_MODULES:
                path = folder.joinpath(*filter(None, module.removeprefix(package).split(".")))
                return next(filter(Path.is_file, (path.with_name(f"{path.name}.py"), path / "__init__.py")), None)
        return None

    def module_name(self, file: Path) -> str:
        """The absolute name of the module in one of these files."""
        path = file.with_suffix("") if file.name != "__init__.py" else file.parent
        for package, folder in self.folders.items():
            if path.is_relative_to(folder):
                return ".".join(filter(None, [package, *path.relative_to(folder).parts]))
        return path.name

    def imported_files(self, file: Path, tree: ast.Module) -> Iterator[Path]:
        """Yields the files of these modules that a file imports, anywhere in it."""
        here = self.module_name(file).split(".")
        package = here if file.name == "__init__.py" else here[:-1]
        for node in ast.walk(tree):
            names = list[str]()
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                module = ".".join([*base, *filter(None, [node.module])])
                names = [module, *(".".join(filter(None, [module, alias.name])) for alias in node.names)]
            yield from filter(None, map(self.find, filter(None, names)))


def hash_code(file: Path, module: str, in_user_folder: bool) -> str:
    """A hash of a plug-in's code, without comments and docstrings.

    Args:
        file: the file of the plug-in.
        module: the name under which it was imported.
        in_user_folder: the file lies in a folder of plug-ins (`plugins=DIR`), whose files may import each other.

    Raises:
        OSError, SyntaxError: a file cannot be read or parsed.
    """
    own, queue, codes = OwnModules.of(file, module, in_user_folder), [file], dict[str, str]()
    while queue:
        path = queue.pop()
        name = own.module_name(path)
        if name not in codes:
            tree = ast.parse(path.read_bytes())
            queue += own.imported_files(path, tree)
            codes[name] = strip_docstrings(tree)
    text = "\0".join(f"{name}\0{codes[name]}" for name in sorted(codes))
    return f"files-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def strip_docstrings(tree: ast.Module) -> str:
    """Unparses a tree without comments and docstrings."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
