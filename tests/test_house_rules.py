"""Checks the house rules of CONTRIBUTING.md on syntax trees; each rule has snippets that it must report."""

from __future__ import annotations

import ast
import graphlib
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ("benchmark", "strategies", "tasks", "encoders", "tools")  # tools are not installed, but follow the rules
REGISTER = {"strategies": "register", "tasks": "register_task", "encoders": "register_encoder"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class File:
    """A file with its path from the root of the repository, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def folder(self) -> str:
        return self.path.partition("/")[0]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem

    @property
    def module(self) -> str:
        name = self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return f"benchmark.{name}" if self.folder in REGISTER else name  # the name under which it is imported

    @property
    def is_plugin(self) -> bool:
        return self.folder in REGISTER and self.path.count("/") == 1 and not self.stem.startswith("_")

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Returns what each imported name stands for: {"np": "numpy", "rand": "numpy.random.rand"}."""
        names: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names |= {a.asname: a.name for a in node.names if a.asname}
                names |= {top: top for top in (a.name.partition(".")[0] for a in node.names if not a.asname)}
            elif isinstance(node, ast.ImportFrom):
                names |= {a.asname or a.name: f"{self.origin(node)}.{a.name}" for a in node.names}
        return names

    def origin(self, node: ast.ImportFrom) -> str:
        """Returns the absolute name of the module of `from ... import`."""
        if not node.level:
            return node.module or ""
        up = node.level - (1 if self.path.endswith("__init__.py") else 0)
        base = self.module.split(".")
        return ".".join([*base[: len(base) - up], *filter(None, [node.module])])

    def name(self, node: ast.AST) -> str:
        """Returns "numpy.random.rand" for `np.random.rand`, "" for what is no imported name or its attribute."""
        if isinstance(node, ast.Attribute):
            inner = self.name(node.value)
            return inner and f"{inner}.{node.attr}"
        return self.aliases.get(node.id, "") if isinstance(node, ast.Name) else ""


Files = Sequence[File]
Offences = Iterator[str]
Rule = Callable[[Files], Offences]


def product() -> list[File]:
    """Returns every Python file that is installed, and the tools."""
    paths = sorted(path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py"))
    return [File(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]


def committed() -> list[File]:
    """Returns every text file that git tracks or would add, except tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not in a git checkout")
    files = []
    for path in filter(None, listed.stdout.decode().split("\0")):
        content = (ROOT / path).read_bytes() if (ROOT / path).is_file() else b"\0"
        if not path.startswith("tests/") and b"\0" not in content:
            files.append(File(path, content.decode(errors="replace")))
    return files


def outermost(file: File) -> Iterator[tuple[str, ast.AST]]:
    """Yields every node with the name of the top-level function or class that contains it ("" for none)."""
    for statement in file.tree.body:
        name = statement.name if isinstance(statement, Function | ast.ClassDef) else ""
        yield from ((name, node) for node in ast.walk(statement))


def functions(files: Files) -> Iterator[tuple[File, Function]]:
    """Yields every function and method, nested ones too."""
    for file in files:
        yield from ((file, node) for node in ast.walk(file.tree) if isinstance(node, Function))


# --- who may import whom --------------------------------------------------------------------
ONLY = {
    "hydra": "benchmark/config.py",
    "omegaconf": "benchmark/config.py",
    "wandb": "benchmark/runner/tracking.py",
    "ray": "benchmark/runner/launchers/ray_launch.py",
    "mmdet": "benchmark/vision/detection/mmdet_detectors.py",
    "mmcv": "benchmark/vision/detection/mmdet_detectors.py",
    "mmengine": "benchmark/vision/detection/mmdet_detectors.py",
}
TORCH = {"torch", "torchvision", "timm"}


def imports(file: File, nodes: Iterator[ast.AST] | None = None) -> Iterator[tuple[int, str]]:
    """Yields line and name of everything that is imported; `from a import b` counts as a.b."""
    for node in nodes or ast.walk(file.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{file.origin(node)}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.id if isinstance(node.func, ast.Name) else file.name(node.func)
            if called in ("__import__", "importlib.import_module"):
                yield node.lineno, str(node.args[0].value)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes that run when the file is imported."""
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    if not isinstance(node, Function | ast.Lambda) and not typing_only:
        yield node
        for child in ast.iter_child_nodes(node):
            yield from at_import(child)


def plugins_import_the_contract_alone(files: Files) -> Offences:
    """Plug-ins import `benchmark.api`, tasks and encoders also `benchmark.vision`, and `shared/` of their folder."""
    for file in files:
        allowed = [
            "benchmark.api",
            f"benchmark.{file.folder}.shared",
            *["benchmark.vision"] * (file.folder != "strategies"),
        ]
        for line, name in imports(file) if file.folder in REGISTER else ():
            if name.partition(".")[0] in PRODUCT and not any(f"{name}.".startswith(f"{module}.") for module in allowed):
                yield f"{file.path}:{line} imports {name}"


def harness_imports_no_plugin(files: Files) -> Offences:
    """`benchmark/` imports no plug-in; plug-ins are discovered by folder."""
    for file in files:
        for line, name in imports(file) if file.folder == "benchmark" else ():
            if not REGISTER.keys().isdisjoint(name.split(".")[:2]):
                yield f"{file.path}:{line} imports {name}"


# In layers: a folder imports from itself and from those before it.
ROOMS = (
    "text", "system", "seeds", "plugins", "contract", "api", "experiment", "records", "config", "vision", "analysis",
    "results", "runner", "conformance", "cli", "__main__",
)  # fmt: skip
LIBRARY = ("api", "vision")  # all that `benchmark.vision` may import


def rooms_import_downwards(files: Files) -> Offences:
    """A folder of `benchmark/` imports only from lower layers, and `benchmark.vision` only from the contract."""
    for file in files:
        room = file.module.removeprefix("benchmark.").partition(".")[0]
        for line, name in imports(file) if file.folder == "benchmark" and room != "benchmark" else ():
            other = name.removeprefix("benchmark.").partition(".")[0]
            known = ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else ()
            if name.startswith("benchmark.") and other not in (LIBRARY if room == "vision" else known):
                yield f"{file.path}:{line} imports {name}"


def no_import_cycles(files: Files) -> Offences:
    """There is no import cycle, also none through imports within functions."""
    modules = {file.module for file in files}
    graph = {
        file.module: {
            part
            for _, name in imports(file)
            for part in (name, name.rpartition(".")[0])
            if part in modules - {file.module} and not (part != name and name in modules)
        }
        for file in files
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield " imports ".join(f"{name.replace('.', '/')}.py" for name in reversed(error.args[1]))


def one_importer_a_library(files: Files) -> Offences:
    """hydra, wandb, ray and mmdet are imported by one file each."""
    for file in files:
        for line, name in imports(file):
            if ONLY.get(name.partition(".")[0], file.path) != file.path:
                yield f"{file.path}:{line} imports {name}"


def analysis_is_free_of_torch(files: Files) -> Offences:
    """Neither `benchmark/analysis/` nor what it imports of the harness imports torch."""
    modules = {file.module: file for file in files}
    todo = [file for file in files if file.path.startswith("benchmark/analysis/")]
    for file in todo:  # the list grows in this loop
        inside = file.path.startswith("benchmark/analysis/")
        for line, name in imports(file, None if inside else at_import(file.tree)):
            if name.partition(".")[0] in TORCH:
                yield f"{file.path}:{line} imports {name}"
            parts = name.split(".")
            above = [modules.get(".".join(parts[:number])) for number in range(1, len(parts) + 1)]
            todo += [module for module in above if module is not None and module not in todo]


def harness_names_no_plugin(files: Files) -> Offences:
    """No string in `benchmark/` is the name of a strategy or a task, or a list of names; `vision` may name formats."""
    names = {file.stem for file in files if file.is_plugin}
    for file in files:
        in_harness = file.folder == "benchmark" and not file.path.startswith("benchmark/vision/")
        for node in ast.walk(file.tree) if in_harness else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
                for name in names & set(re.sub(r"\[[^]]*\]", "", node.value).split(",")):
                    yield f"{file.path}:{node.lineno} names {name!r}"


# --- size and shape -------------------------------------------------------------------------
def num_body_lines(function: Function) -> int:
    """Returns the number of lines of the body without its docstring; 0 for a stub."""
    body = function.body[ast.get_docstring(function) is not None :]
    if not body or ast.unparse(body[0]) == "...":
        return 0
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def functions_are_short(files: Files) -> Offences:
    """Bodies have at most 45 lines, in the median at most 10; signature and docstring do not count."""
    bodies = {f"{file.path}:{node.lineno} {node.name}": num_body_lines(node) for file, node in functions(files)}
    yield from (f"{name} takes {lines} lines" for name, lines in bodies.items() if lines > 45)
    bodies = {name: lines for name, lines in bodies.items() if lines}
    if bodies and (median := statistics.median(bodies.values())) > 10:
        yield f"median of {median} lines a body; longest: {sorted(bodies, key=lambda name: -bodies[name])[:5]}"


MOST_LINES = 410


def files_are_short(files: Files) -> Offences:
    """A file has at most about 400 lines; split a longer one by what its parts do."""
    for file in files:
        lines = len(file.text.splitlines())
        if lines > MOST_LINES:
            yield f"{file.path} has {lines} lines"


def one_plugin_a_file(files: Files) -> Offences:
    """`strategies/NAME.py` registers NAME and nothing else, like tasks and encoders; other modules register nothing."""
    for file in files:
        decorated = [
            (
                decorator.func.attr if isinstance(decorator.func, ast.Attribute) else ast.unparse(decorator.func),
                node.name,
            )
            for node in ast.walk(file.tree)
            if isinstance(node, Function | ast.ClassDef)
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Call)
        ]
        registered = [(how, name) for how, name in decorated if how in REGISTER.values()]
        expected = [(REGISTER[file.folder], file.stem)] if file.is_plugin else []
        if registered != expected:
            yield f"{file.path} registers {registered}, not {expected}"


def signatures_are_typed(files: Files) -> Offences:
    """Every parameter and every return value has a type."""
    for file in files:
        methods = {
            node
            for owner in ast.walk(file.tree)
            if isinstance(owner, ast.ClassDef)
            for node in owner.body
            if isinstance(node, Function) and "staticmethod" not in map(ast.unparse, node.decorator_list)
        }
        for _, node in functions([file]):
            given = [*node.args.posonlyargs, *node.args.args][node in methods :]
            given += [*node.args.kwonlyargs, *filter(None, [node.args.vararg, node.args.kwarg])]
            bare = [parameter.arg for parameter in given if parameter.annotation is None] + ["return"] * (
                node.returns is None
            )
            if bare:
                yield f"{file.path}:{node.lineno} {node.name} has no type on: {', '.join(bare)}"


def public_names_have_docstrings(files: Files) -> Offences:
    """Public functions, classes and methods have docstrings; nested functions and __dunder__ methods need none."""
    for file in files:
        todo = [node for node in file.tree.body if isinstance(node, Function | ast.ClassDef)]
        for node in todo:  # the methods of public classes are added in this loop
            if not node.name.startswith("_") and not ast.get_docstring(node):
                yield f"{file.path}:{node.lineno} {node.name} has no docstring"
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                todo += [inner for inner in node.body if isinstance(inner, Function | ast.ClassDef)]


def is_plugin_function(file: File, node: Function) -> bool:
    """Returns whether a function is the one that a plug-in's file registers."""
    return file.is_plugin and any(REGISTER[file.folder] in ast.unparse(name) for name in node.decorator_list)


def exported_names(files: Files) -> set[tuple[str, str]]:
    """Returns module and name of everything that `benchmark.api` exports."""
    api = [node for file in files if file.path == "benchmark/api.py" for node in file.tree.body]
    return {(node.module or "", name.name) for node in api if isinstance(node, ast.ImportFrom) for name in node.names}


def public_nodes(files: Files) -> Iterator[tuple[File, Function | ast.ClassDef]]:
    """Yields functions, classes and methods that users read: of `benchmark.api`, `benchmark.results` and plug-ins."""
    exported = exported_names(files)
    for file in files:
        for node in file.tree.body:
            if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
                continue
            is_plugin = isinstance(node, Function) and is_plugin_function(file, node)
            if (file.module, node.name) in exported or is_plugin or file.path == "benchmark/results.py":
                yield file, node
                methods = node.body if isinstance(node, ast.ClassDef) else []
                yield from ((file, inner) for inner in methods if isinstance(inner, Function) and inner.name[0] != "_")


def parameters_of(file: File, node: Function | ast.ClassDef) -> list[str]:
    """Returns the parameters that a docstring must explain.

    Those are the fields of a dataclass, the arguments of a class, and the keyword-only parameters of a plug-in, whose
    positional ones the contract explains.
    """
    if isinstance(node, ast.ClassDef):
        inits = [inner for inner in node.body if isinstance(inner, Function) and inner.name == "__init__"]
        fields = [inner for inner in node.body if isinstance(inner, ast.AnnAssign) and "dataclass" in decorators(node)]
        names = [ast.unparse(field.target) for field in fields]
        return [*names, *(name for init in inits for name in parameters_of(file, init))]
    arguments = node.args
    positional = [] if is_plugin_function(file, node) else [*arguments.posonlyargs, *arguments.args]
    others = [*arguments.kwonlyargs, *filter(None, [arguments.vararg, arguments.kwarg])]
    return [argument.arg for argument in [*positional, *others] if argument.arg not in ("self", "cls")]


def decorators(node: ast.ClassDef) -> str:
    """Returns the decorators of a class as text."""
    return " ".join(map(ast.unparse, node.decorator_list))


def public_parameters_are_documented(files: Files) -> Offences:
    """Public docstrings explain each parameter in a line of its own under `Args:`."""
    for file, node in public_nodes(files):
        text = ast.get_docstring(node) or ""
        for name in parameters_of(file, node):
            if not name.startswith("_") and not re.search(f"^    {name}: ", text, re.MULTILINE):
                yield f"{file.path}:{node.lineno} {node.name} does not explain {name}"


VAGUE = {"told", "asked", "made", "begin", "found", "kept", "seen", "one"}


def names_say_what_they_are(files: Files) -> Offences:
    """Nothing is called told, asked, made, begin, found, kept, seen or one: a name says what the value is."""
    for file in files:
        for node in ast.walk(file.tree):
            for name in VAGUE.intersection(defined_names(node)):
                yield f"{file.path}:{getattr(node, 'lineno', 0)} names something {name!r}"


def defined_names(node: ast.AST) -> list[str | None]:
    """Returns the names that a node of the tree defines."""
    if isinstance(node, Function | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return [node.name]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.alias):
        return [node.asname]
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
        return [node.id if isinstance(node, ast.Name) else node.attr]
    return []


def no_module_of_leftovers(files: Files) -> Offences:
    """No module or folder is called utils, base, manager or helper."""
    for file in files:
        words = set(re.split(r"[/_]", file.path.removesuffix(".py")))
        for word in words & {"util", "utils", "base", "manager", "managers", "helper", "helpers"}:
            yield f"{file.path} is called {word}: name it after what it does"


# --- randomness, output, files --------------------------------------------------------------
GENERATORS = {"default_rng", "Generator", "BitGenerator", "SeedSequence", "PCG64", "PCG64DXSM", "Philox", "SFC64"}
TORCH_SEEDS = re.compile(r"torch\.(random\.|cuda\.|cuda\.random\.|mps\.|default_generator\.)?(manual_)?seed(_all)?")
MAY_SEED = {
    ("benchmark/system/process_state.py", "seeded"): "the one place that seeds torch; it restores the state",
    (
        "benchmark/conformance/strategy_checks.py",
        "leaves_global_randomness",
    ): "detects strategies that draw from global generators",
    ("benchmark/system/process_state.py", "temporary_seed"): "isolates what a plug-in draws or seeds",
    ("benchmark/conformance/strategy_checks.py", "global_generator_state"): "the same",
}


def no_global_randomness(files: Files) -> Offences:
    """Nothing uses a global generator of numpy, random or torch, or a generator without a seed."""
    for file in files:
        for function, node in outermost(file):
            name = file.name(node)
            library, _, what = name.rpartition(".")
            legacy = library == "numpy.random" and what not in GENERATORS
            if (legacy or (library == "random" and what != "Random") or TORCH_SEEDS.fullmatch(name)) and (
                (file.path, function) not in MAY_SEED
            ):
                yield f"{file.path}:{getattr(node, 'lineno', 0)} uses {name}"
            if isinstance(node, ast.Call) and file.name(node.func) in ("numpy.random.default_rng", "random.Random"):
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                if not given or (isinstance(given[0], ast.Constant) and given[0].value is None):
                    yield f"{file.path}:{node.lineno} draws a generator without a seed"


def no_seed_arithmetic(files: Files) -> Offences:
    """Seeds come from names (`benchmark.seeds`), never from `seed + i`, which may give two uses the same seed."""
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.BinOp):
                operator, sides = node.op, [node.left, node.right]
            elif isinstance(node, ast.AugAssign):
                operator, sides = node.op, [node.target, node.value]
            else:
                continue
            ends = [ast.unparse(side.func if isinstance(side, ast.Call) else side).rpartition(".")[2] for side in sides]
            if isinstance(operator, ast.Add | ast.Sub | ast.Mult | ast.BitXor) and any(
                re.fullmatch(r"(\w+_)?seed", end) for end in ends
            ):
                yield f"{file.path}:{node.lineno} computes {ast.unparse(node)}"


MAY_PRINT = {"benchmark/cli/commands.py", "benchmark/cli/progress.py"}


def only_the_command_line_prints(files: Files) -> Offences:
    """Only benchmark/cli/commands.py and benchmark/cli/progress.py call `print`."""
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and file.path not in MAY_PRINT:
                yield f"{file.path}:{node.lineno} prints"


PICKLES = {"pickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
UNSAFE = {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "pandas.read_pickle"}


def files_run_no_code(files: Files) -> Offences:
    """Nothing that is read can run code: no pickle, only `torch.load(weights_only=True)` and `yaml.safe_load`."""
    for file in files:
        for line, name in imports(file):
            if name.partition(".")[0] in PICKLES:
                yield f"{file.path}:{line} imports {name}"
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Call):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                name = file.name(node.func)
                if (
                    name in UNSAFE
                    or (name == "torch.load" and given.get("weights_only") != "True")
                    or (name == "numpy.load" and given.get("allow_pickle", "False") != "False")
                ):
                    yield f"{file.path}:{node.lineno} calls {name} so that a file may run code"


def text_is_utf8(files: Files) -> Offences:
    """Text is read and written with a given encoding, not with that of the locale."""
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Call) and takes_locale(
                node, {keyword.arg: keyword.value for keyword in node.keywords}
            ):
                yield f"{file.path}:{node.lineno} {ast.unparse(node.func)} uses the encoding of the locale"


def takes_locale(call: ast.Call, given: dict[str | None, ast.expr]) -> bool:
    """Returns whether a call reads or writes text in the encoding of the locale."""
    name = ast.unparse(call.func)
    if "encoding" in given:
        return False
    if name == "open":
        mode = call.args[1] if len(call.args) > 1 else given.get("mode", ast.Constant("r"))
        return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))
    if name.endswith(".open"):  # of a path, whose first argument is a mode
        mode = call.args[0] if call.args else given.get("mode", ast.Constant("r"))
        return isinstance(mode, ast.Constant) and bool(re.fullmatch(r"[rwxa][t+]*", str(mode.value)))
    by_program = name.startswith("subprocess.") and not given.keys().isdisjoint({"text", "universal_newlines"})
    return by_program or name.endswith((".read_text", ".write_text"))


WRITERS = {
    "os.open", "os.truncate", "os.rename", "os.replace", "os.mkfifo", "os.symlink", "os.link", "shutil.copyfile",
    "shutil.copy", "shutil.copy2", "shutil.copytree", "shutil.move", "tempfile.NamedTemporaryFile", "tempfile.mkstemp",
    "safetensors.torch.save_file", "safetensors.numpy.save_file", "torch.save", "numpy.save", "numpy.savez",
    "numpy.savez_compressed", "numpy.savetxt", "fcntl.flock", "fcntl.lockf",
}  # fmt: skip
MAY_WRITE = {
    ("benchmark/system/files.py", ""): "writes everything else",
    ("benchmark/system/locks.py", "FolderLock"): "opens the locked folder and the lock file",
    ("benchmark/system/locks.py", "flock_folder"): "the same",
    ("benchmark/system/locks.py", "open_locked_file"): "the same",
    (
        "benchmark/system/tensor_cache.py",
        "acquire_lock",
    ): "locks single files; a file system without locks is no error there",
    ("benchmark/system/tensor_cache.py", "release_lock"): "the same",
    ("benchmark/system/streams.py", "tolerant_stream"): "opens the null device for a closed stream",
    ("benchmark/system/streams.py", "tolerate_closed_streams"): "the same",
    ("benchmark/runner/measuring.py", "reset_peak_memory"): "resets the peak of memory that Linux counts",
    (
        "benchmark/system/tensor_files.py",
        "write",
    ): "safetensors writes tensors itself, into a draft that is renamed",
    ("benchmark/vision/training.py", "save_checkpoint"): "writes a draft that is renamed",
}


def one_module_writes(files: Files) -> Offences:
    """Only benchmark/system/files.py writes files: it follows no link and leaves no partial file."""
    for file in files:
        for function, node in outermost(file):
            allowed = {(file.path, function), (file.path, "")} & MAY_WRITE.keys()
            if isinstance(node, ast.Call) and writes(file, node) and not allowed:
                yield f"{file.path}:{node.lineno} {ast.unparse(node.func)} writes a file"


def writes(file: File, call: ast.Call) -> bool:
    """Returns whether a call opens, moves or locks a file for writing."""
    name, given = ast.unparse(call.func), {keyword.arg: keyword.value for keyword in call.keywords}
    place = 1 if name == "open" else 0  # the mode of `open`, and of a path's `open`
    mode = call.args[place] if len(call.args) > place else given.get("mode")
    opened = name == "open" or name.endswith(".open")
    if opened and isinstance(mode, ast.Constant) and re.fullmatch(r"[rwxabt+]*[wxa+][bt+]*", str(mode.value)):
        return True
    return file.name(call.func) in WRITERS or name.endswith((".write_text", ".write_bytes"))


MACHINE_PATH = re.compile(r"(?<![\w.~}-])/(work|tmp|root|home|farm)(?=/|[\s\"'`),;:]|$)", re.MULTILINE)


def no_paths_of_one_machine(files: Files) -> Offences:
    """No committed text names a folder of a particular machine."""
    for file in files:
        for match in MACHINE_PATH.finditer(file.text):
            line = file.text.count("\n", 0, match.start()) + 1
            yield f"{file.path}:{line} names {match[0]}"


SYNTAX_RULES: list[Rule] = [
    plugins_import_the_contract_alone,
    harness_imports_no_plugin,
    rooms_import_downwards,
    no_import_cycles,
    one_importer_a_library,
    analysis_is_free_of_torch,
    harness_names_no_plugin,
    functions_are_short,
    files_are_short,
    one_plugin_a_file,
    signatures_are_typed,
    public_names_have_docstrings,
    public_parameters_are_documented,
    names_say_what_they_are,
    no_module_of_leftovers,
    no_global_randomness,
    no_seed_arithmetic,
    only_the_command_line_prints,
    files_run_no_code,
    text_is_utf8,
    one_module_writes,
]


@pytest.mark.parametrize("rule", SYNTAX_RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps(rule: Rule) -> None:
    files = product()
    assert {file.folder for file in files} == set(PRODUCT)
    offences = list(rule(files))
    assert not offences, "\n".join([str(rule.__doc__), *offences])


def test_names_of_tests_say_what_they_are() -> None:
    paths = sorted((ROOT / "tests").rglob("*.py"))
    offences = list(
        names_say_what_they_are([File(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths])
    )
    assert not offences, "\n".join(offences)


def test_the_repository_keeps_no_paths_of_one_machine() -> None:
    offences = list(no_paths_of_one_machine(committed()))
    assert not offences, "\n".join(offences)


EXCEPTIONS: list[tuple[Rule, dict[Any, str], Any]] = [
    (rule, known, place)
    for rule, known in (
        (no_global_randomness, MAY_SEED),
        (one_module_writes, MAY_WRITE),
    )
    for place in known
]


@pytest.mark.parametrize(("rule", "known", "place"), EXCEPTIONS, ids=[str(place) for *_, place in EXCEPTIONS])
def test_every_exception_is_needed(
    rule: Rule, known: dict[Any, str], place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(known, place)
    assert list(rule(product()))


# --- each rule reports these snippets, and lets others pass ---------------------------------
LONG = "def f() -> int:\n" + "    x = 1\n" * 45 + "    return x\n"
STUB = "def random() -> None:\n    '''A draw.'''\n"
OFFENDING: list[tuple[Rule, str, str]] = [
    (plugins_import_the_contract_alone, "strategies/a.py", "from benchmark.runner.loop import run"),
    (plugins_import_the_contract_alone, "strategies/a.py", "from benchmark.runner import loop"),
    (plugins_import_the_contract_alone, "strategies/a.py", "import benchmark.api_of_others"),
    (plugins_import_the_contract_alone, "tasks/a.py", "from benchmark.contract.data import Boxes"),
    (plugins_import_the_contract_alone, "strategies/a.py", "def f():\n    import strategies.entropy"),
    (plugins_import_the_contract_alone, "strategies/a.py", "from .entropy import entropy"),
    (plugins_import_the_contract_alone, "strategies/a.py", "from benchmark.vision import networks"),
    (
        plugins_import_the_contract_alone,
        "tasks/a.py",
        "import importlib\nimportlib.import_module('benchmark.tasks.digits')",
    ),
    (harness_imports_no_plugin, "benchmark/a.py", "from benchmark.strategies import entropy"),
    (harness_imports_no_plugin, "benchmark/a.py", "from benchmark.strategies.entropy import entropy"),
    (rooms_import_downwards, "benchmark/records/a.py", "from benchmark.runner import loop"),
    (rooms_import_downwards, "benchmark/api.py", "def f():\n    import benchmark.analysis.stats"),
    (rooms_import_downwards, "benchmark/vision/a.py", "from benchmark.plugins import registry"),
    (rooms_import_downwards, "benchmark/new_room/a.py", "from benchmark.text import words"),
    (no_import_cycles, "benchmark/a.py", "from benchmark import b"),
    (no_import_cycles, "benchmark/a.py", "def f() -> None:\n    import benchmark.b"),
    (harness_imports_no_plugin, "benchmark/a/b.py", "from ...tasks import digits"),
    (one_importer_a_library, "benchmark/cli/commands.py", "from omegaconf import OmegaConf"),
    (one_importer_a_library, "benchmark/runner/loop.py", "import wandb"),
    (
        one_importer_a_library,
        "benchmark/runner/launchers/local_launch.py",
        "def f() -> None:\n    from ray.exceptions import RayError",
    ),
    (one_importer_a_library, "tasks/coco.py", "import mmdet.apis"),
    (one_importer_a_library, "tasks/coco.py", "def f():\n    from mmengine.config import Config"),
    (analysis_is_free_of_torch, "benchmark/analysis/a.py", "def f():\n    import torch"),
    (analysis_is_free_of_torch, "benchmark/analysis/a.py", "from torch import nn"),
    (harness_names_no_plugin, "benchmark/a.py", "best = 'random'"),
    (harness_names_no_plugin, "benchmark/a.py", "against = 'other[a=1],random[b=2]'"),
    (functions_are_short, "benchmark/a.py", LONG),
    (functions_are_short, "benchmark/a.py", LONG.replace("    x = 1\n", "", 34)),
    (files_are_short, "benchmark/a.py", "x = 1\n" * 411),
    (files_are_short, "strategies/a.py", "\n" * 411),
    (one_plugin_a_file, "strategies/a.py", "@register(version=1)\ndef b(): ..."),
    (one_plugin_a_file, "strategies/a.py", "def a(): ..."),
    (one_plugin_a_file, "strategies/a.py", "@register(version=1)\ndef a(): ...\n@register(version=1)\ndef b(): ..."),
    (one_plugin_a_file, "strategies/_a.py", "@api.register(version=1)\ndef _a(): ..."),
    (one_plugin_a_file, "tasks/a.py", "@register(version=1)\ndef a(): ..."),
    (one_plugin_a_file, "benchmark/a.py", "@register_task(version=1)\ndef a(): ..."),
    (signatures_are_typed, "benchmark/a.py", "def f(x) -> int: ..."),
    (signatures_are_typed, "benchmark/a.py", "def f(x: int): ..."),
    (signatures_are_typed, "benchmark/a.py", "def f(*, x: int = 1, **more) -> int: ..."),
    (signatures_are_typed, "benchmark/a.py", "class A:\n    @staticmethod\n    def f(x) -> int: ..."),
    (signatures_are_typed, "benchmark/a.py", "def f() -> None:\n    def g(x) -> int: ..."),
    (public_names_have_docstrings, "benchmark/a.py", "def f(): ..."),
    (public_names_have_docstrings, "benchmark/a.py", "class A: ..."),
    (public_names_have_docstrings, "benchmark/a.py", "class A:\n    '''Of.'''\n    def f(self): ..."),
    (public_parameters_are_documented, "strategies/a.py", "@register(version=1)\ndef a(view, *, k): '''Of.'''"),
    (public_parameters_are_documented, "tasks/a.py", "@register_task(version=1)\ndef a(machine, *, k): ..."),
    (public_parameters_are_documented, "benchmark/results.py", "def f(x):\n    '''Of x.'''"),
    (public_parameters_are_documented, "benchmark/results.py", "class A:\n    def f(self, x): ..."),
    (public_parameters_are_documented, "benchmark/results.py", "class A:\n    def __init__(self, x): ..."),
    (public_parameters_are_documented, "benchmark/results.py", "@dataclass\nclass A:\n    '''Of x.'''\n    x: int"),
    (public_parameters_are_documented, "benchmark/contract/a.py", "def exported(x): ..."),
    (names_say_what_they_are, "benchmark/a.py", "told = 1"),
    (names_say_what_they_are, "benchmark/a.py", "def asked(): ..."),
    (names_say_what_they_are, "benchmark/a.py", "class one: ..."),
    (names_say_what_they_are, "benchmark/a.py", "def f(*, found=1): ..."),
    (names_say_what_they_are, "benchmark/a.py", "x = [one for one in y]"),
    (names_say_what_they_are, "benchmark/a.py", "self.kept = 1"),
    (names_say_what_they_are, "benchmark/a.py", "class A:\n    seen: int"),
    (names_say_what_they_are, "benchmark/a.py", "from a import b as made"),
    (names_say_what_they_are, "benchmark/a.py", "try:\n    f()\nexcept ValueError as begin:\n    pass"),
    (names_say_what_they_are, "benchmark/a.py", "match x:\n    case [one]:\n        pass"),
    (no_module_of_leftovers, "benchmark/utils.py", ""),
    (no_module_of_leftovers, "tasks/_image_helpers.py", ""),
    (no_module_of_leftovers, "benchmark/base/grid.py", ""),
    (no_global_randomness, "tasks/a.py", "import numpy as np\nnp.random.seed(0)"),
    (no_global_randomness, "tasks/a.py", "from numpy.random import rand\nrand(3)"),
    (no_global_randomness, "tasks/a.py", "from numpy import random\nrandom.shuffle([1])"),
    (no_global_randomness, "tasks/a.py", "import numpy as np\nnp.random.default_rng()"),
    (no_global_randomness, "tasks/a.py", "import numpy as np\nnp.random.default_rng(seed=None)"),
    (no_global_randomness, "tasks/a.py", "import random\nrandom.random()"),
    (no_global_randomness, "tasks/a.py", "from random import choice\nchoice([1])"),
    (no_global_randomness, "tasks/a.py", "import torch\ntorch.manual_seed(0)"),
    (no_global_randomness, "benchmark/api.py", "import torch\ndef other():\n    torch.manual_seed(0)"),
    (no_global_randomness, "tasks/a.py", "import torch\ntorch.cuda.manual_seed_all(0)"),
    (no_seed_arithmetic, "benchmark/a.py", "f(seed + 1)"),
    (no_seed_arithmetic, "benchmark/a.py", "f(1000 * self.seed)"),
    (no_seed_arithmetic, "benchmark/a.py", "fit_seed += 1"),
    (no_seed_arithmetic, "benchmark/a.py", "f(seed('fit', 1) + 1)"),
    (only_the_command_line_prints, "benchmark/runner/loop.py", "print('round')"),
    (files_run_no_code, "tasks/a.py", "import pickle"),
    (files_run_no_code, "tasks/a.py", "from joblib import load"),
    (files_run_no_code, "tasks/a.py", "import torch\ntorch.load('x')"),
    (files_run_no_code, "tasks/a.py", "import torch\ntorch.load('x', weights_only=False)"),
    (files_run_no_code, "tasks/a.py", "import yaml\nyaml.load('x', yaml.Loader)"),
    (files_run_no_code, "tasks/a.py", "import numpy as np\nnp.load('x', allow_pickle=True)"),
    (text_is_utf8, "benchmark/a.py", "open('a')"),
    (text_is_utf8, "benchmark/a.py", "open('a', 'w')"),
    (text_is_utf8, "tasks/a.py", "from pathlib import Path\nwith Path('a').open() as file: pass"),
    (text_is_utf8, "tasks/a.py", "from pathlib import Path\nPath('a').open('r')"),
    (text_is_utf8, "tasks/a.py", "from pathlib import Path\nPath('a').read_text()"),
    (text_is_utf8, "tasks/a.py", "from pathlib import Path\nPath('a').write_text('b')"),
    (text_is_utf8, "tasks/a.py", "import subprocess\nsubprocess.run(['a'], text=True)"),
    (one_module_writes, "benchmark/a.py", "open('a', 'wb')"),
    (one_module_writes, "benchmark/a.py", "open('a', mode='r+')"),
    (one_module_writes, "tasks/a.py", "path.open('ab')"),
    (one_module_writes, "benchmark/a.py", "def f(path):\n    path.write_text('a', encoding='utf-8')"),
    (one_module_writes, "tasks/a.py", "import torch\ntorch.save({}, path)"),
    (one_module_writes, "encoders/a.py", "from safetensors.torch import save_file\nsave_file({}, path)"),
    (one_module_writes, "benchmark/a.py", "import os\nos.open('a', os.O_WRONLY)"),
    (
        one_module_writes,
        "benchmark/runner/fit_cache.py",
        "import fcntl\ndef other(file):\n    fcntl.flock(file, 2)",
    ),
    (no_paths_of_one_machine, "README.md", "see /work/shared/data"),
    (no_paths_of_one_machine, "configs/a.yaml", "out: '/tmp'"),
    (no_paths_of_one_machine, "docs/a.md", "[here](file:///home/me/x)"),
]
HARMLESS: list[tuple[Rule, str, str]] = [
    (plugins_import_the_contract_alone, "strategies/a.py", "from benchmark import api\nimport numpy"),
    (plugins_import_the_contract_alone, "strategies/a.py", "from .shared.influence import dot"),
    (plugins_import_the_contract_alone, "tasks/a.py", "from benchmark.vision import networks"),
    (
        rooms_import_downwards,
        "benchmark/runner/a.py",
        "from benchmark.analysis import stats\nfrom benchmark import api",
    ),
    (no_import_cycles, "benchmark/a.py", "from benchmark import c\nfrom benchmark.b.d import e"),
    (one_importer_a_library, "benchmark/config.py", "import hydra, omegaconf"),
    (analysis_is_free_of_torch, "benchmark/runner/loop.py", "import torch"),
    (harness_names_no_plugin, "benchmark/a.py", "'''Draws at random.'''\nx = 'randomly'"),
    (functions_are_short, "benchmark/a.py", LONG.replace("    x = 1\n", "", 36)),
    (files_are_short, "benchmark/a.py", "x = 1\n" * 410),
    (one_plugin_a_file, "strategies/a.py", "@register(version=1)\ndef a(): ...\n@cache\ndef b(): ..."),
    (signatures_are_typed, "benchmark/a.py", "class A:\n    def f(self, x: int) -> int: ..."),
    (public_names_have_docstrings, "benchmark/a.py", "class _A:\n    def f(self): ...\ndef _f(): ..."),
    (
        public_parameters_are_documented,
        "strategies/a.py",
        "@register(version=1)\ndef a(view, *, k):\n    '''Of.\\n\\n    Args:\\n        k: how many.\\n    '''",
    ),
    (public_parameters_are_documented, "benchmark/contract/a.py", "def of_the_house(x): ..."),
    (public_parameters_are_documented, "benchmark/results.py", "def _f(x): ...\nclass A:\n    def _f(self, x): ..."),
    (names_say_what_they_are, "benchmark/a.py", "f(found=1)\nx.kept\nasked_for = untold = ones = 1\n'told'"),
    (no_module_of_leftovers, "benchmark/baseline.py", ""),
    (
        no_global_randomness,
        "tasks/a.py",
        "import numpy as np\nimport random\nnp.random.default_rng(3)\nrandom.Random(3)",
    ),
    (
        no_global_randomness,
        "benchmark/system/process_state.py",
        "import torch\ndef seeded():\n    torch.manual_seed(0)",
    ),
    (no_seed_arithmetic, "benchmark/a.py", "f(seed % 2**32, seeds + [1])"),
    (only_the_command_line_prints, "benchmark/cli/commands.py", "print('round')"),
    (files_run_no_code, "tasks/a.py", "import torch, yaml\ntorch.load('x', weights_only=True)\nyaml.safe_load('x')"),
    (text_is_utf8, "benchmark/a.py", "open('a', 'rb')\nopen('a', encoding='utf-8')\nopen('a', mode='ab')"),
    (
        text_is_utf8,
        "tasks/a.py",
        "from PIL import Image\nImage.open('b.png')\nworker.open(order)\narchive.open('b.npy', 'w')",
    ),
    (text_is_utf8, "tasks/a.py", "import subprocess\nsubprocess.run(['a'])\npath.read_bytes()"),
    (one_module_writes, "benchmark/system/files.py", "def f(path):\n    open(path, 'wb')"),
    (one_module_writes, "tasks/a.py", "open('a', 'rb')\nopen('a')\nImage.open('b.png')\narchive.open('b.npy', 'w')"),
    (no_paths_of_one_machine, "README.md", "https://example.org/home/x ~/work/x a/tmp/b /workers"),
]


API = "from benchmark.contract.a import exported"


def snippet(path: str, text: str) -> list[File]:
    others = {"strategies/random.py": STUB, "benchmark/b.py": "from benchmark import a", "benchmark/api.py": API}
    return [File(path, text), *(File(*other) for other in others.items() if other[0] != path)]


@pytest.mark.parametrize(("rule", "path", "text"), OFFENDING)
def test_a_rule_reports(rule: Rule, path: str, text: str) -> None:
    assert [words for words in rule(snippet(path, text)) if path in words]


@pytest.mark.parametrize(("rule", "path", "text"), HARMLESS)
def test_a_rule_lets_pass(rule: Rule, path: str, text: str) -> None:
    assert [words for words in rule(snippet(path, text)) if path in words] == []


def test_every_rule_is_proved() -> None:
    assert {rule for rule, _, _ in OFFENDING} == {*SYNTAX_RULES, no_paths_of_one_machine}


def test_torch_is_found_behind_what_analysis_imports() -> None:
    files = [
        File("benchmark/analysis/a.py", "from benchmark.records.store import Store"),
        File(
            "benchmark/records/store.py",
            "from benchmark.runner import loop\ndef lazy() -> None:\n    import torchvision",
        ),
        File(
            "benchmark/runner/loop.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import timm\nimport torch",
        ),
    ]
    assert list(analysis_is_free_of_torch(files)) == ["benchmark/runner/loop.py:4 imports torch"]


# --- rules that need an interpreter ---------------------------------------------------------
WITHOUT_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "safetensors", "faster_coco_eval"):
            raise ImportError(f"no {name} here")
sys.meta_path.insert(0, Block())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a new interpreter, in the root of the repository."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_analysis_imports_without_torch() -> None:
    modules = [file.module for file in product() if file.path.startswith("benchmark/analysis/")]
    done = run(WITHOUT_TORCH + "".join(f"import {module}\n" for module in modules))
    assert done.returncode == 0, done.stderr
    assert "no torch here" in run(WITHOUT_TORCH + "import benchmark.api").stderr


DISTRIBUTIONS = {
    "PIL": "pillow",
    "hydra": "hydra-core",
    "openTSNE": "opentsne",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def test_what_is_imported_is_declared() -> None:
    """pyproject.toml declares exactly what is imported, as a dependency or in an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [
        *project["dependencies"],
        *(requirement for name in extras if name not in ("docs", "test") for requirement in extras[name]),
    ]
    declared = {re.split("[^A-Za-z0-9_-]", requirement)[0].removeprefix("onedl-") for requirement in requirements}
    files = [file for file in product() if file.folder != "tools"]
    names = {name.partition(".")[0] for file in files for _, name in imports(file)}
    names -= {*sys.stdlib_module_names, *PRODUCT, "_typeshed"}
    imported = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in names}
    declared -= {"mmcv"}  # mmdet imports it
    assert imported == {"mmdet" if name == "mmdetection" else name for name in declared}


def test_plugins_stay_off_the_module_path() -> None:
    done = run(
        "import sys; from pathlib import Path; from benchmark.plugins import discovery; discovery.discover()\n"
        "assert {'strategies', 'tasks'}.isdisjoint(Path(entry).name for entry in sys.path), sys.path\n"
        "import random; assert random.shuffle, random"
    )
    assert done.returncode == 0, done.stderr
