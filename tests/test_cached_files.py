"""Fits, checkpoints, encodings and encoders on disk: damaged files are not used; other errors remove none."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from _cells import cell, run
from torch import nn

from benchmark.api import Encoding
from benchmark.runner import fit_cache
from benchmark.runner.events import Failure, Round
from benchmark.system import tensor_files
from benchmark.vision import training
from benchmark.vision.encoding import encodings, self_supervised

TROUBLE: dict[str, Exception] = {
    "memory of a GPU": torch.OutOfMemoryError("CUDA out of memory"),
    "memory": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    "memory of Python": MemoryError(),
    "disk": OSError(errno.EIO, "Input/output error"),
}


def failing(error: Exception) -> Callable[..., NoReturn]:
    """Returns a function that raises this error."""

    def raises(*args: object, **options: object) -> NoReturn:
        raise error

    return raises


def linear() -> nn.Linear:
    """Returns a model with four numbers."""
    return nn.Linear(2, 2)


class Stand:
    """A task with one model."""

    def model(self, companion: object = None) -> nn.Module:
        return linear()


# --- a place each where it can happen: what to break, and what reads the file ---------------------------
def load_fit(path: Path) -> object:
    return fit_cache.load_model(path, Stand(), None)  # type: ignore[arg-type]


def load_checkpoint(path: Path) -> object:
    model = linear()
    return training.load_checkpoint(path, model, sgd_of(model)) or None


def load_encodings(path: Path) -> object:
    return encodings.load_shard(path, torch.arange(2))  # a few of many: put together


def load_encoder(path: Path) -> object:
    return self_supervised.restore_weights(linear(), path)


def sgd_of(model: nn.Module) -> torch.optim.SGD:
    """Returns an optimiser with momenta."""
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    sgd.step()
    return sgd


def save_fit(path: Path, model: nn.Module | None = None) -> None:
    fit_cache.save_model(path, model or linear(), 1.5)


def save_encoder(path: Path, model: nn.Module | None = None) -> None:
    self_supervised.save_weights(model or linear(), path, 1.5)


def save_checkpoint(path: Path) -> None:
    model = linear()
    training.save_checkpoint(path, model, sgd_of(model), 7)


def save_encodings(path: Path) -> None:
    encodings.save_shard(path, Encoding(torch.ones(20, 1, 2), torch.ones(20, 1), torch.ones(20, 2), seconds=1.5))


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "fit": (save_fit, load_fit),
    "checkpoint": (save_checkpoint, load_checkpoint),
    "encodings": (save_encodings, load_encodings),
    "encoder": (save_encoder, load_encoder),
}
PLACES: list[tuple[str, Any, str]] = [
    ("fit", tensor_files, "safe_open"),
    ("fit", nn.Module, "load_state_dict"),
    ("checkpoint", torch, "load"),
    ("checkpoint", nn.Module, "load_state_dict"),
    ("checkpoint", torch.optim.SGD, "load_state_dict"),
    ("encodings", tensor_files, "safe_open"),
    ("encodings", encodings, "safe_open"),
    ("encodings", torch, "cat"),
    ("encoder", tensor_files, "safe_open"),
    ("encoder", nn.Module, "load_state_dict"),
]


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize(
    ("kind", "where", "name"), PLACES, ids=[f"{kind} {where.__name__} {name}" for kind, where, name in PLACES]
)
def test_trouble_with_memory_or_a_disk_is_raised_and_the_file_stays(
    kind: str, where: Any, name: str, trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "work.safetensors"
    save, load = KINDS[kind]
    save(path)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(where, name, failing(TROUBLE[trouble]))
        with pytest.raises(type(TROUBLE[trouble])):
            load(path)
    assert path.read_bytes() == before
    assert load(path) is not None


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "torn": lambda text: text[: len(text) // 2],
    "short": lambda text: text[:-1],
    "noise": lambda text: bytes(range(256)) * 20,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_not_used(kind: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / "work.safetensors"
    save, load = KINDS[kind]
    save(path)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert load(path) is None
    assert not path.exists()
    assert load(path) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_network_is_not_used(kind: str, tmp_path: Path) -> None:
    path, other = tmp_path / "work.safetensors", nn.Linear(3, 2)
    if kind == "checkpoint":
        sgd = torch.optim.SGD(other.parameters(), 0.1)
        training.save_checkpoint(path, other, sgd, 7)
    elif kind == "encodings":
        save_fit(path, other)
    else:
        (save_fit if kind == "fit" else save_encoder)(path, other)
    assert KINDS[kind][1](path) is None


def test_a_flipped_bit_of_a_checkpoint_costs_the_checkpoint(tmp_path: Path) -> None:
    path, rng = tmp_path / "work.pt", np.random.default_rng(0)
    save_checkpoint(path)
    whole, steps = path.read_bytes(), set[object]()
    for place in rng.integers(0, len(whole), 200):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
        steps.add(load_checkpoint(path))
    assert steps == {None}


def test_a_cell_fails_and_its_fit_stays_where_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(run([cell("random", rounds=1)], tmp_path)) == 1
    [path] = (tmp_path / "fits").glob("*.safetensors")
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(nn.Module, "load_state_dict", failing(TROUBLE["memory of a GPU"]))
        [failure] = run([cell("margin", rounds=1)], tmp_path)
    assert isinstance(failure, Failure)
    assert "CUDA out of memory" in failure.line
    assert path.read_bytes() == before
    [event] = run([cell("margin", rounds=1)], tmp_path)
    assert isinstance(event, Round)
    assert event.measured.shared_fit


def test_a_fit_that_another_process_trims_meanwhile_is_trained(tmp_path: Path) -> None:
    assert load_fit(tmp_path / "gone.safetensors") is None
    assert load_encodings(tmp_path / "gone.safetensors") is None
