"""Files of weights: what is in them, which network they fit, and how they are loaded. Nothing in them is run."""

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

# Under which names training code keeps the weights beside an optimiser's state, in the order they are looked for.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights")
BATCH_NORM_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalisation: no parameters


def weights_file(machine: Machine, weights: str) -> Path | None:
    """The file that `weights=` names; None for `none` and `default`. ValueError where there is no such file."""
    if weights in ("none", "default"):
        return None
    path = machine.resolve_path(weights)
    if not path.is_file():
        raise ValueError(f"weights={weights}: no such file: {path}")
    return path


def load_weights(
    network: nn.Module, path: Path, ignore: str, setting_for: Callable[[str], str] = lambda name: ""
) -> None:
    """Loads a file of weights into a network.

    The names in the file may all begin with a prefix that the network's have not (`module.`, `backbone.`); what is
    beside that prefix belongs to other parts of a model, and is left. Under it nothing may be missing or left over.

    Args:
        network: Takes the weights.
        path: A .safetensors file, or one that torch.save wrote; see `read`.
        besides: A pattern of names that do not count, matched from their start: the last layer's.
        setting: From the name of a network of torchvision, what a user sets to have that one; "" for nothing.

    Raises:
        ValueError: The file cannot be read, or does not fit; says what it holds and which network that fits.
    """
    state = read_state_dict(path)
    wanted = {name: value for name, value in network.state_dict().items() if not re.match(ignore, name)}
    prefix = shared_prefix(path, state, wanted)
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    inside = {name: value for name, value in state.items() if not re.match(ignore, name)}
    for name in sorted(inside.keys() | wanted.keys()):
        found, want = (str(tuple(part[name].shape)) if name in part else "nothing" for part in (inside, wanted))
        if found != want:
            reason = f"{printable(name)} holds {found}, the model {want}"
            raise ValueError(
                f"weights={path}: does not fit the model: {reason}; {describe_content(state, setting_for)}"
            )
        if not is_finite_real(inside[name], wanted[name].dtype):
            raise ValueError(f"weights={path}: {name} holds what are no finite real numbers")
    network.load_state_dict(inside, strict=False)


def is_finite_real(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor holds numbers that a network computes with, one for each place, once they are of its type."""
    if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
        return False
    return bool(value.to(dtype).isfinite().all())


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of one that torch.save wrote: a state dict, or a mapping that holds one
    under a usual name (`state_dict`, `model` ...). ValueError says what else it holds."""
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
            warnings.simplefilter("ignore")  # of old formats, which are read or refused all the same
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"weights={path}: cannot be read ({type(error).__name__}){describe_objects(path)}") from error
    parts = {"": saved} if is_state_dict(saved) else {}
    if isinstance(saved, Mapping) and not parts:
        parts = {str(name): part for name, part in saved.items() if is_state_dict(part)}
    names = [name for name in ("", *STATE_DICT_KEYS) if name in parts] or list(parts)
    if not names or (names[0] not in ("", *STATE_DICT_KEYS) and len(names) > 1):
        has = ", ".join(map(str, saved)) if isinstance(saved, Mapping) else type(saved).__name__
        raise ValueError(
            f"weights={path}: must hold a state dict, a mapping of names to tensors, alone or as one of "
            f"{', '.join(STATE_DICT_KEYS)}; it holds {printable(has[:200])}"
        )
    return dict(parts[names[0]])


def is_state_dict(value: object) -> bool:
    """Whether this is a state dict: a mapping of names to tensors, one at least."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(one, Tensor) for name, one in value.items())
    )


def describe_objects(path: Path) -> str:
    """Which Python objects a file holds that is no mere state dict, and what to do, after a colon; "" where none can be
    told."""
    try:
        kinds = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an older format, or no file of torch.save at all
        return ""
    own = [kind for kind in kinds if not kind.startswith(("torch.", "collections."))] or kinds
    advice = "only weights are read: torch.save(model.state_dict(), FILE)"
    return f": it holds Python objects ({', '.join(map(printable, sorted(own)[:3]))}); {advice}" if own else ""


def shared_prefix(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The prefix in a file of the names that a network has: "" or up to a full stop.

    Raises:
        ValueError: Several prefixes lead to all of the names: the file holds more than one such network.
    """
    hits = Counter[str]()
    for name in state:
        parts = name.split(".")
        hits.update(".".join([*parts[:cut], ""]) for cut in range(len(parts)) if ".".join(parts[cut:]) in expected)
    if not hits:  # another network altogether
        first, final = min(state, default=""), max(state, default="")  # which differ first where any two do
        shared = next((n for n, (a, b) in enumerate(zip(first, final, strict=False)) if a != b), 0)
        return first[: first.rfind(".", 0, shared) + 1]
    whole = [prefix for prefix, number in hits.items() if number == len(expected)]
    if len(whole) > 1 and "" not in whole:
        raise ValueError(
            f"weights={path}: holds several networks that fit ({', '.join(map(printable, whole))}): save one of them"
        )
    return "" if "" in whole else max(hits, key=lambda prefix: hits[prefix])


def describe_content(state: Mapping[str, Tensor], setting_for: Callable[[str], str]) -> str:
    """What a file holds, in words, and what to set to have the network that it fits."""
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
    """The classifier of torchvision whose weights these are, whatever its classes or without a last layer; None where
    there is none."""
    import torchvision  # takes a second: only where it is used

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
    """Whether these are the names and shapes of that network of torchvision, its last layer aside."""
    import torchvision

    try:
        with torch.device("meta"):  # no memory, no initialisation
            network = torchvision.models.get_model(name, weights=None)
    except (RuntimeError, NotImplementedError):  # some cannot be made so: their number of weights has to do
        return True
    shapes = {key: value.shape for key, value in network.state_dict().items() if not key.endswith(BATCH_NORM_BUFFERS)}
    others = {key: value.shape for key, value in state.items() if not key.endswith(BATCH_NORM_BUFFERS)}
    return len({key.rpartition(".")[0] for key, _ in shapes.items() ^ others.items()}) <= 1
