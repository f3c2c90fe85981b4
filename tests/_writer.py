"""A process that writes records as a run does, without PyTorch: `python _writer.py FOLDER HOW`, then one line per
round.

HOW: `flock`, `files` (folders cannot be locked, as on NFS), or the name of the error that every lock raises.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from typing import Any

from benchmark.records.record import Header, Measured, Record
from benchmark.records.store import Store
from benchmark.system.files import StoreWriteError

CELL = "digits/5+5x1/random/seed-0"
PARTS = {"task": "digits", "strategy": "random"}
IDENTITY = {part: {"name": name, "version": 1, "parameters": {}} for part, name in PARTS.items()}
HEADER = Header("k1", IDENTITY | {"seed": 0}, "data1", 2**31, "accuracy", [7])
FLOCK = fcntl.flock


def without(how: str) -> Any:
    """Returns an flock as on a disk that supports none, or none on folders."""

    def flock(handle: Any, operation: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        if how == "files" and not is_folder:
            return FLOCK(handle, operation)
        code = errno.EBADF if how == "files" else getattr(errno, how)
        raise OSError(code, os.strerror(code))

    return flock


def main(folder: str, how: str) -> None:
    """Takes the lock and writes a round for each line of standard input."""
    if how != "flock":
        fcntl.flock = without(how)
    store = Store(folder, lambda words: print(f"notified: {words}", flush=True))
    try:
        with store.lock():
            number = len(store.start_cell(CELL, HEADER))
            print(f"locked, {number} rounds", flush=True)
            for _ in sys.stdin:
                record = Record(number, 5, [1, os.getpid()], {"images": 5.0}, {"accuracy": 0.5})
                store.append(CELL, record, Measured(number, {"fit": 1.0}, False, 10.0, "cpu", {}))
                number += 1
                print("written", flush=True)
    except (ValueError, StoreWriteError) as error:
        print(f"error: {error}", flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
