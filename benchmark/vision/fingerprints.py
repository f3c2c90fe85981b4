"""Hashes: of data and settings, to know them by, and of a seed and a name, to seed what goes by that name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


def digest(*parts: object) -> str:
    """sha256 of arrays, with their shapes and types, of files and of strings."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape}".encode())
            total.update(np.ascontiguousarray(part).data)
        else:
            total.update(part.read_bytes() if isinstance(part, Path) else str(part).encode(errors="surrogatepass"))
    return total.hexdigest()


def derive_seed(seed: int, name: str) -> int:
    """A seed for each use of a fit's seed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).digest()[:8], "big") >> 1
