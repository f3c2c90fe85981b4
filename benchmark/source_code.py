"""What the code of a plug-in is: its file, and what that imports from its own package or folder. Imports no torch."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOREIGN = frozenset({"benchmark", "strategies", "tasks", "encoders", *sys.stdlib_module_names})


@dataclass(frozen=True)
class Own:
    """Which modules are a plug-in's own: those of its package, or those that lie beside it in a folder of plug-ins."""

    root: Path  # the folder that its package, or itself, lies in
    package: str | None  # None: a folder of plug-ins, whose files may import each other

    @classmethod
    def of(cls, file: Path, module: str, in_folder: bool) -> Own:
        """Those of the plug-in in a file, imported under the name of a module."""
        depth = module.count(".") + (file.name == "__init__.py")
        return cls(file.parents[depth], None if in_folder else module.partition(".")[0])

    def find(self, module: str) -> Path | None:
        """The file of an absolute module; None where it is none of these."""
        top = module.partition(".")[0]
        if top != self.package if self.package else top in FOREIGN:
            return None
        path = self.root.joinpath(*module.split("."))
        return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)

    def imported(self, file: Path, tree: ast.Module) -> Iterator[Path]:
        """The files of these modules that a file imports, anywhere in it."""
        here = file.relative_to(self.root).parent.parts
        for node in ast.walk(tree):
            names = list[str]()
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = [*here[: len(here) - node.level + 1]] if node.level else []
                module = ".".join([*base, *filter(None, [node.module])])
                names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            yield from filter(None, map(self.find, filter(None, names)))


def digest(file: Path, module: str, in_folder: bool) -> str:
    """A hash of what a plug-in does, comments and docstrings aside.

    Args:
        file: the plug-in's.
        module: the name that it was imported under.
        in_folder: it is of a folder of plug-ins (`plugins=DIR`), whose files may import each other.

    Raises:
        OSError, SyntaxError: a file cannot be read, or parsed.
    """
    own, waiting, codes = Own.of(file, module, in_folder), [file], dict[str, str]()
    while waiting:
        path = waiting.pop()
        name = path.relative_to(own.root).as_posix()
        if name not in codes:
            tree = ast.parse(path.read_bytes())
            waiting += own.imported(path, tree)
            codes[name] = bare(tree)
    text = "\0".join(f"{name}\0{codes[name]}" for name in sorted(codes))
    return f"files-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def bare(tree: ast.Module) -> str:
    """Code without comments and docstrings."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
