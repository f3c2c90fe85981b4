"""Reads files of weights, loads them into networks and says which network they fit. Never runs code from a file."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark.api import Machine, activity
from benchmark.vision.data.regular_files import check_regular_file, printable

# Keys under which training code saves the weights beside other state, in the order of search.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights")
BATCH_NORM_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # no parameters


def weights_file(machine: Machine, weights: str) -> Path | None:
    """Finds the file that a recipe's `weights` names.

    Args:
        machine: Has the data folder.
        weights: "none", "default", or a path: absolute, or inside the data folder.

    Returns:
        The path; None for "none" and "default".

    Raises:
        ValueError: There is no such file.
    """
    if weights in ("none", "default"):
        return None
    path = machine.resolve_path(weights)
    if not path.is_file():
        raise ValueError(f"weights={weights}: no such file: {path}")
    return path


def load_weights(
    network: nn.Module, path: Path, ignore: str, setting_for: Callable[[str], str] = lambda name: "",
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> None:  # fmt: skip
    """Loads a file of weights into a network.

    The names in the file may share a prefix that the network's names do not have (`module.`, `backbone.`). Entries
    without that prefix belong to other parts of a model and are ignored. With it, no entry may be missing or surplus.

    Args:
        network: Receives the weights.
        path: A .safetensors file, or one that torch.save wrote; see `read_state_dict`.
        ignore: A regular expression, matched at the start of names: entries to leave alone, as those of the last layer.
        setting_for: Maps the name of a torchvision network to the setting that selects it, for messages; "" for none.
        convert: Converts the file's entries to the network's names and shapes.

    Raises:
        ValueError: The file cannot be read or does not fit; the message says what it holds and which network it fits.
    """
    state = read_state_dict(path)
    try:
        state = convert(state)
    except (KeyError, RuntimeError, AttributeError, IndexError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"weights={path}: does not fit the model: {printable(reason)}") from error
    expected = {name: value for name, value in network.state_dict().items() if not re.match(ignore, name)}
    prefix = shared_prefix(path, state, expected)
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    loaded = {name: value for name, value in state.items() if not re.match(ignore, name)}
    for name in sorted(loaded.keys() | expected.keys()):
        shape, wanted_shape = (
            str(tuple(part[name].shape)) if name in part else "nothing" for part in (loaded, expected)
        )
        if shape != wanted_shape:
            reason = f"{printable(name)} holds {shape}, the model {wanted_shape}"
            raise ValueError(
                f"weights={path}: does not fit the model: {reason}; {describe_content(state, setting_for)}"
            )
        if not is_finite_real(loaded[name], expected[name].dtype):
            raise ValueError(f"weights={path}: {name} holds values that are not finite real numbers")
    network.load_state_dict(loaded, strict=False)


def is_finite_real(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor is dense and holds finite real numbers after conversion to `dtype`."""
    if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
        return False
    return bool(value.to(dtype).isfinite().all())


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a file of weights.

    Args:
        path: A .safetensors file, or one that torch.save wrote: a state dict, or a mapping that holds one, under one of
            STATE_DICT_KEYS or as its only one.

    Returns:
        The tensors by name.

    Raises:
        ValueError: The file cannot be read or holds no state dict; the message says what it holds.
    """
    try:
        check_regular_file(path)
    except OSError as error:
        raise ValueError(f"weights={path}: cannot be read: {error.strerror}") from error
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:
            raise ValueError(f"weights={path}: cannot be read ({type(error).__name__})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats, which are read or refused anyway
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"weights={path}: cannot be read ({type(error).__name__}){describe_objects(path)}") from error
    parts = {"": saved} if is_state_dict(saved) else {}
    if isinstance(saved, Mapping) and not parts:
        parts = {str(name): part for name, part in saved.items() if is_state_dict(part)}
    names = [name for name in ("", *STATE_DICT_KEYS) if name in parts] or list(parts)
    if not names or (names[0] not in ("", *STATE_DICT_KEYS) and len(names) > 1):
        contents = ", ".join(map(str, saved)) if isinstance(saved, Mapping) else type(saved).__name__
        raise ValueError(
            f"weights={path}: must hold a state dict, a mapping of names to tensors, alone or as one of "
            f"{', '.join(STATE_DICT_KEYS)}; it holds {printable(contents[:200])}"
        )
    return dict(parts[names[0]])


def is_state_dict(value: object) -> bool:
    """Whether a value is a state dict: a mapping of names to tensors with at least one entry."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def describe_objects(path: Path) -> str:
    """For a file with Python objects, the end of a message that names them and says what to do; else ""."""
    try:
        kinds = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an older format, or not a file of torch.save
        return ""
    classes = [kind for kind in kinds if not kind.startswith(("torch.", "collections."))] or kinds
    advice = "only weights are read: torch.save(model.state_dict(), FILE)"
    return f": it holds Python objects ({', '.join(map(printable, sorted(classes)[:3]))}); {advice}" if classes else ""


def shared_prefix(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The prefix that the network's names have in a file: "", or text that ends in a full stop.

    Raises:
        ValueError: Several prefixes lead to all names of the network, so the file holds more than one such network.
    """
    hits = Counter[str]()
    for name in state:
        parts = name.split(".")
        hits.update(".".join([*parts[:cut], ""]) for cut in range(len(parts)) if ".".join(parts[cut:]) in expected)
    if not hits:  # an entirely different network
        first, final = min(state, default=""), max(state, default="")  # whatever these share, all names share
        shared = next((n for n, (a, b) in enumerate(zip(first, final, strict=False)) if a != b), 0)
        return first[: first.rfind(".", 0, shared) + 1]
    complete = [prefix for prefix, number in hits.items() if number == len(expected)]
    if len(complete) > 1 and "" not in complete:
        raise ValueError(
            f"weights={path}: holds several networks that fit ({', '.join(map(printable, complete))}): save one of them"
        )
    return "" if "" in complete else max(hits, key=lambda prefix: hits[prefix])


def describe_content(state: Mapping[str, Tensor], setting_for: Callable[[str], str]) -> str:
    """Describes in words what a file holds, and says which setting selects the network that it fits."""
    stem = state.get("conv1.weight")
    if stem is not None and tuple(stem.shape[1:]) == (3, 3, 3) and "layer4.1.conv2.weight" in state:
        return f"the file fits this benchmark's own resnet18 of width {len(stem)}"
    with activity.stage("looking for the network that the weights fit"):
        name = find_torchvision_network(state)
    if name is not None:
        change = setting_for(name)
        return f"the file fits torchvision's {name}" + f": set {change}" * bool(change)
    numbers = sum(value.numel() for value in state.values())
    first = ", ".join(map(printable, list(state)[:3]))
    return f"the file holds {len(state)} tensors of {numbers / 1e6:.1f} million numbers: {first} ..."


def find_torchvision_network(state: Mapping[str, Tensor]) -> str | None:
    """The name of the torchvision classifier that these weights fit, for any number of classes or without a last layer.

    Returns None if there is none.
    """
    import torchvision  # imported here because it takes a second

    total = sum(value.numel() for name, value in state.items() if not name.endswith(BATCH_NORM_BUFFERS))
    for name in torchvision.models.list_models(module=torchvision.models):
        meta = torchvision.models.get_model_weights(name).DEFAULT.meta
        num_classes, missing = len(meta["categories"]), meta["num_params"] - total
        heads = {(num_classes - value.shape[0], value.shape[1]) for value in state.values() if value.ndim == 2}
        heads |= {(num_classes, value.shape[-1]) for value in state.values() if value.ndim}
        counts = {rows * (columns + 1) for rows, columns in heads}
        if (missing == 0 or missing in counts) and matches_torchvision_network(state, name):
            return str(name)
    return None


def matches_torchvision_network(state: Mapping[str, Tensor], name: str) -> bool:
    """Whether names and shapes are those of a torchvision network, apart from its last layer."""
    import torchvision

    try:
        with torch.device("meta"):  # no memory, no initialisation
            network = torchvision.models.get_model(name, weights=None)
    except (RuntimeError, NotImplementedError):  # cannot be built without memory: the number of weights must suffice
        return True
    shapes = {key: value.shape for key, value in network.state_dict().items() if not key.endswith(BATCH_NORM_BUFFERS)}
    state_shapes = {key: value.shape for key, value in state.items() if not key.endswith(BATCH_NORM_BUFFERS)}
    return len({key.rpartition(".")[0] for key, _ in shapes.items() ^ state_shapes.items()}) <= 1
