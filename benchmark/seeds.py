"""Random seeds derived from names, so that adding a strategy or a seed changes no other number."""

from __future__ import annotations

import hashlib
import json


def seed(*names: str | int) -> int:
    """Derives a 63-bit seed from names: `seed("fit", task, n, round)`. Equal names give equal seeds on any machine."""
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
