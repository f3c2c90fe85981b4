"""Hashes of data and settings, which identify them, and seeds that are derived from a seed and a name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


def digest(*parts: object) -> str:
    """Hashes arrays, files and other values.

    Args:
        parts: Arrays, which count with their shapes and types; paths, which count by the bytes of their files; and
            anything else, which counts by its `str`.

    Returns:
        The SHA-256 in hexadecimal.
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape}".encode())
            total.update(np.ascontiguousarray(part).data)
        else:
            total.update(part.read_bytes() if isinstance(part, Path) else str(part).encode(errors="surrogatepass"))
    return total.hexdigest()


def derive_seed(seed: int, name: str) -> int:
    """Derives an independent seed for one use of a seed.

    Args:
        seed: For example the seed of a fit.
        name: The use, for example "dropout"; equal names give equal seeds.

    Returns:
        A seed of 63 bits.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).digest()[:8], "big") >> 1
