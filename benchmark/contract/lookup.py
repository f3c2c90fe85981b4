"""Finds strategies and encoders by their labels (`isal[k=2]`), and identifies an encoder's files of weights."""

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

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")  # of files that hold weights


def find_strategy(label: str) -> tuple[Plugin, dict[str, Any]]:
    """Finds the strategy that a label names.

    Args:
        label: a name with parameters in brackets, `isal[k=2]`.

    Returns:
        The plug-in, and all its parameters by name.

    Raises:
        ValueError: there is no such strategy, or a parameter does not fit.
    """
    name, parameters = notation.parse_label(label)
    plugin = registry.get("strategy", name)
    return plugin, plugin.bind(parameters)


def build_encoder(label: EncoderName, pool: Pool, machine: Machine) -> Encoder:
    """Builds the encoder that a label names.

    Args:
        label: a name with parameters in brackets, `patch_pca[patch=4]`.
        pool: the images that the encoder may be trained on.
        machine: where it runs.

    Raises:
        ValueError: there is no such encoder, or a parameter does not fit.
    """
    name, parameters = notation.parse_label(label)
    plugin = registry.get("encoder", name)
    encoder: Encoder = plugin.build(machine, plugin.bind(parameters), pool)
    return encoder


def check_encoder_weights(label: EncoderName, machine: Machine) -> None:
    """Checks that the encoder's files of weights exist and fit, before images are read.

    Args:
        label: the encoder with its parameters.
        machine: where relative paths are looked up.

    Raises:
        ValueError: a file of weights is missing or does not fit.
    """
    name, parameters = notation.parse_label(label)
    plugin = registry.get("encoder", name)
    if hash_weight_files(label, machine) and plugin.check_weights is not None:
        plugin.check_weights(machine, **plugin.bind(parameters))


def encoder_identity(label: EncoderName, machine: Machine) -> str:
    """Returns a text that identifies an encoder's output: name, version, parameters, and files of weights by content.

    Args:
        label: the encoder with its parameters.
        machine: where relative paths are looked up.

    Raises:
        ValueError: a file of weights is missing.
    """
    name, parameters = notation.parse_label(label)
    plugin = registry.get("encoder", name)
    return f"{name} {plugin.version} {sorted((plugin.bind(parameters) | hash_weight_files(label, machine)).items())}"


def encoder_code_hash(label: EncoderName) -> str:
    """Returns a hash of the code of an encoder's file and its imports, so that output of edited code is not reused.

    Args:
        label: the encoder with its parameters.
    """
    return registry.get("encoder", notation.parse_label(label)[0]).code_hash()


def hash_weight_files(label: EncoderName, machine: Machine) -> dict[str, str]:
    """Returns the sha256 of each file of weights among an encoder's parameters, by the parameter's name.

    Args:
        label: the encoder with its parameters.
        machine: where relative paths are looked up.

    Raises:
        ValueError: a file of weights is missing.
    """
    name, parameters = notation.parse_label(label)
    hashes = {}
    for key, value in registry.get("encoder", name).bind(parameters).items():
        if isinstance(value, str) and value.endswith(WEIGHT_SUFFIXES):
            path = machine.resolve_path(value)
            if not path.is_file():
                raise ValueError(f"{label}: no such file: {path}")
            stat = path.stat()
            hashes[key] = hash_file(path, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
    return hashes


@lru_cache(64)
def hash_file(path: Path, *_: int) -> str:
    """Returns the sha256 of a file.

    The result is cached. The other arguments make the cache read a changed file again: its size, its inode, and two
    times of change, one of which no program can set.
    """
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
