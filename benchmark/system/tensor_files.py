"""Files of tensors that are computed once and read again, as safetensors: nothing is ever unpickled.

A file is written completely or not at all, and used only if a digest confirms that it holds what was written under this
name. What cannot be read or written costs time, but changes no number and fails no cell.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.system.digests import digest
from benchmark.system.files import make_parent as make_parent
from benchmark.system.remarks import remark, remark_once

DAMAGE_ERRORS = (SafetensorError, KeyError, TypeError, IndexError, ValueError)  # what reading a damaged file raises


def tensor_digest(facts: object, tensors: Mapping[str, Tensor]) -> str:
    """Returns `digests.digest` of some facts and of tensors of any type on the CPU."""
    forms = sorted((name, str(value.dtype), list(value.shape)) for name, value in tensors.items())
    bytes_of = {name: value.contiguous().reshape(-1).view(torch.uint8).numpy() for name, value in tensors.items()}
    return digest([facts, forms], bytes_of)


def write(path: Path, name: str, tensors: Mapping[str, Tensor], seconds: float) -> None:
    """Stores tensors completely or not at all; a full or read-only disk costs the file and a remark, not the run.

    Args:
        path: the file.
        name: what the tensors are; under another name they are not read.
        tensors: the tensors by their own names.
        seconds: how long computing them took.
    """
    weights = {own: value.detach().cpu().contiguous() for own, value in tensors.items()}
    facts = {"seconds": str(seconds)}
    draft = path.with_name(f"{path.stem}.{os.getpid()}.draft")
    try:
        make_parent(path)
        draft.unlink(missing_ok=True)  # a link in its place must not be followed
        save_file(weights, draft, metadata=facts | {"digest": tensor_digest([name, facts], weights)})
        draft.replace(path)
    except FileExistsError:
        remark_once(f"{path.parent} is not a folder: what it would keep is computed whenever it is needed")
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        remark_once(f"{path.parent} cannot be written ({why}): what it would keep is computed whenever it is needed")
    except RuntimeError:  # tensors that share memory
        pass
    remove_file(draft)


def read(path: Path, name: str) -> tuple[dict[str, Tensor], float] | None:
    """Returns the tensors and seconds that `write` stored under this name; None where none can be used.

    A damaged file is removed with a remark. Other errors, such as too little memory or a disk that does not answer, are
    raised and remove nothing, since the file may be the work of hours.
    """
    if not is_readable(path):
        return None
    try:
        with safe_open(path, "pt") as handle:
            facts = dict(handle.metadata() or {})
            weights = {own: handle.get_tensor(own) for own in handle.keys()} if "digest" in facts else {}  # noqa: SIM118
        stored_digest = facts.pop("digest", None)
        if stored_digest is not None and stored_digest == tensor_digest([name, facts], weights):
            return weights, float(facts["seconds"])
    except FileNotFoundError:  # another process has removed it
        return None
    except DAMAGE_ERRORS as error:
        discard(path, str(error))
        return None
    if stored_digest is None:
        discard_old(path)
    else:
        discard(path, "its digest does not fit")
    return None


def is_sound(path: Path, name: str) -> bool:
    """Whether `read` would return something; an unchanged file is read once per process."""
    try:
        stat = path.stat()
    except OSError:
        return False
    return is_sound_version(path, name, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)


@cache
def is_sound_version(path: Path, name: str, *stat: int) -> bool:
    """`is_sound` of a file with this time, size and inode."""
    return read(path, name) is not None


def is_readable(path: Path) -> bool:
    """Whether a file is there and may be read; anything else in its place is reported once."""
    try:
        if path.is_file():
            with path.open("rb"):
                return True
        if os.path.lexists(path):
            remark_once(f"{path} is not a file: what it should hold is computed again")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except PermissionError as error:
        remark_once(f"{path} cannot be read: {error.strerror}: what it holds is computed again")
    return False


def discard(path: Path, why: str) -> None:
    """Removes a damaged file, and says so."""
    problem = remove_file(path)
    result = f"it cannot be removed ({problem})" if problem else "it is removed"
    say = remark_once if problem else remark
    say(f"{path} is damaged ({' '.join(why.split())}): {result}, and what it held is computed again")


def discard_old(path: Path) -> None:
    """Removes a file without a digest, as older releases wrote them; said once per folder."""
    remark_once(f"{path.parent} holds files of an older release, without digests: what they hold is computed again")
    remove_file(path)


def remove_file(path: Path) -> str:
    """Removes a file if it exists; returns why that failed, or ""."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    return ""
