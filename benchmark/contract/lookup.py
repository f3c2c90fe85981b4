"""Strategies and encoders by the labels that name them, `isal[k=2]`, and an encoder's files of weights."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark.contract.machine import Machine
from benchmark.contract.tasks import Encoder, Pool
from benchmark.plugins import registry
from benchmark.plugins.registry import EncoderName, Plugin
from benchmark.text import notation

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")  # endings of files of weights


def find_strategy(label: str) -> tuple[Plugin, dict[str, Any]]:
    """The strategy that a label names, with every parameter. ValueError names what does not fit."""
    name, given = notation.parse_label(label)
    plugin = registry.get("strategy", name)
    return plugin, plugin.bind(given)


def build_encoder(label: EncoderName, pool: Pool, machine: Machine) -> Encoder:
    """The encoder that a label names, built on a pool. ValueError names what does not fit."""
    name, given = notation.parse_label(label)
    plugin = registry.get("encoder", name)
    built: Encoder = plugin.build(machine, plugin.bind(given), pool)
    return built


def check_encoder_weights(label: EncoderName, machine: Machine) -> None:
    """Raises ValueError where a file of weights of the encoder that a label names is not there or does not fit."""
    name, given = notation.parse_label(label)
    plugin = registry.get("encoder", name)
    if hash_weight_files(label, machine) and plugin.check_weights is not None:
        plugin.check_weights(machine, **plugin.bind(given))


def encoder_identity(label: EncoderName, machine: Machine) -> str:
    """Everything that decides what an encoder makes of images, but for the pool it is built on, in words: files of
    weights by their content. ValueError where there is no such file."""
    name, given = notation.parse_label(label)
    plugin = registry.get("encoder", name)
    return f"{name} {plugin.version} {sorted((plugin.bind(given) | hash_weight_files(label, machine)).items())}"


def encoder_code_hash(label: EncoderName) -> str:
    """A hash of what an encoder's file and those that it imports do: what it made before it was edited is not used."""
    return registry.get("encoder", notation.parse_label(label)[0]).code_hash()


def hash_weight_files(label: EncoderName, machine: Machine) -> dict[str, str]:
    """sha256 of the files of weights among an encoder's parameters. ValueError where there is no such file."""
    name, given = notation.parse_label(label)
    found = {}
    for key, value in registry.get("encoder", name).bind(given).items():
        if isinstance(value, str) and value.endswith(WEIGHT_SUFFIXES):
            path = machine.resolve_path(value)
            if not path.is_file():
                raise ValueError(f"{label}: no such file: {path}")
            told = path.stat()
            found[key] = hash_file(path, told.st_mtime_ns, told.st_ctime_ns, told.st_size, told.st_ino)
    return found


@lru_cache(64)
def hash_file(path: Path, *_: int) -> str:
    """sha256 of a file, which is read again where what the system tells of it has changed: the time of that change,
    too, which nobody can set."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
