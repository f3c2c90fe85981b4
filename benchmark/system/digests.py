"""Digests of arrays: whether a file holds what was written under its name. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def digest(facts: object, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Returns the SHA-256 of some facts and of arrays: their names, types, shapes and bytes.

    Args:
        facts: a JSON value: what the arrays are, and what is known of them.
        arrays: the arrays by name, in any order.
    """
    pairs = sorted(arrays.items())
    forms = [(name, array.dtype.str, array.shape) for name, array in pairs]
    whole = hashlib.sha256(json.dumps([facts, forms], sort_keys=True).encode())
    for _, array in pairs:
        whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return whole.hexdigest()
