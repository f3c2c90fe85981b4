"""Random files of weights: they are loaded as they are or refused in one line, and no code in them runs."""

from __future__ import annotations

import io
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401  what its import changes is not a reader's doing
from _fuzz import ODD, SIZES, befall, corpus, damaged, folder, judged
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from benchmark.vision.weights import load_weights

CHANGES = [
    "none", "drop", "rename", "shape", "dtype", "nan", "inf", "empty", "expanded", "sparse", "meta", "odd", "more",
    "scalar", "quantised", "names", "big",
]  # fmt: skip
WRAPS = ["none", "none", "state_dict", "model", "module.", "backbone.", "list", "two", "odd key", "nested", "number"]


class Payload:
    """An object whose unpickling would create a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def network() -> nn.Module:
    """A network with few weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))


def change_state(data: st.DataObject, state: dict[str, Any]) -> dict[str, Any]:
    """Changes one of the weights in a random way."""
    name = data.draw(st.sampled_from(sorted(state)))
    change, value = data.draw(st.sampled_from(CHANGES + ["none"] * 15)), state[name]
    new: dict[str, Any] = {
        "shape": lambda: value.new_zeros(3, 1), "dtype": lambda: value.to(data.draw(st.sampled_from(DTYPES))),
        "nan": lambda: value.double() * float("nan"), "inf": lambda: value.double() + float("inf"),
        "empty": lambda: value.new_zeros(0), "expanded": lambda: value.new_zeros(1).expand(10**12),
        "sparse": lambda: value.float().to_sparse(), "meta": lambda: value.to("meta"), "odd": lambda: data.draw(ODD),
        "scalar": lambda: value.new_zeros(()), "big": lambda: value.double() * 1e300,
        "quantised": lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.quint8),
    }  # fmt: skip
    if change == "drop":
        del state[name]
    elif change in ("rename", "more", "names"):
        other = data.draw(st.sampled_from(["a\nb", "", "x" * 3000, "\ud800", "0.weight.", ".", "é", "\0"]))
        state |= {other: state.pop(name) if change == "rename" else value}
        state |= {f"{other}{number}": value for number in range(300 * (change == "names"))}
    elif change != "none":
        state[name] = new[change]()
    return state


DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.bool,
    torch.complex64,
    torch.int64,
    torch.uint8,
]


def wrap_state(data: st.DataObject, state: dict[str, Any], trap: Path) -> Any:
    """Wraps a state dict as training code does."""
    how = data.draw(st.sampled_from(WRAPS))
    if how.endswith("."):
        return {f"{how}{name}": value for name, value in state.items()}
    if how == "two":
        return {f"{prefix}{name}": value for prefix in ("a.", "b.") for name, value in state.items()}
    more = {"list": [state], "odd key": {3: state}, "nested": {"model": {"state_dict": state}}, "number": 7}
    if how == "none":
        return state
    return more.get(how, {how: state, "epoch": 3, "x": Payload(trap) if data.draw(st.booleans()) else 1})


def write_weights(data: st.DataObject, path: Path, trap: Path) -> None:
    """Writes a random file of weights."""
    state: dict[str, Any] = change_state(data, {name: value.clone() for name, value in network().state_dict().items()})
    buffer = io.BytesIO()
    try:
        if path.suffix == ".safetensors":
            buffer.write(save({name: value.contiguous() for name, value in state.items() if isinstance(value, Tensor)}))
        elif data.draw(st.integers(0, 9)) == 0:
            pickle.dump(Payload(trap), buffer)
        else:
            torch.save(wrap_state(data, state, trap), buffer, _use_new_zipfile_serialization=data.draw(st.booleans()))
    except Exception:  # what cannot be saved cannot come: junk instead
        buffer = io.BytesIO(data.draw(st.binary(max_size=300)))
    content = buffer.getvalue()
    path.write_bytes(damaged(data, content) if data.draw(st.integers(0, 3)) == 0 else content)


def weights_judged(data: st.DataObject) -> str:
    """Tries one random file of weights."""
    with folder() as root:
        path, trap = root / f"w{data.draw(st.sampled_from(['.safetensors', '.pth', '.pt', '.bin']))}", root / "ran"
        write_weights(data, path, trap)
        if data.draw(st.integers(0, 9)) == 0:
            befall(data, root)
        target = network()
        before = {name: value.clone() for name, value in target.state_dict().items()}

        def build() -> nn.Module:
            try:
                load_weights(target, path, "2[.]")
            finally:
                assert not trap.exists(), "code in the file ran"
            return target

        def check(loaded: nn.Module, lines: list[str]) -> bool:
            after = loaded.state_dict()
            assert all(value.isfinite().all() for value in after.values()), "values that are no numbers were loaded"
            assert all(after[name].equal(before[name]) for name in before if name.startswith("2"))
            assert all(after[name].shape == before[name].shape for name in before)
            return True

        return judged(partial(build), check, path)


@SIZES
def test_weights_are_loaded_or_refused_and_run_nothing(number: int) -> None:
    corpus("files of weights", number, weights_judged)
