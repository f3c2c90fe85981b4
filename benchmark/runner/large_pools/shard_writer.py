"""Writes what is known of each image of a large pool, shard by shard, in as many processes or machines as there are.

A shard is whole or not there, so whoever is killed loses the shard at work alone: the same call goes on with the shards
that are missing. Which are, is read from the disk, so that processes and machines need nothing but a folder in common.

Shapes: N images of a shard, R rows.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from benchmark.runner.large_pools.image_lists import ImageLists
from benchmark.system.row_shards import RowShards, ShardFolder
from benchmark.vision.data.forked_processes import end_with_parent

Describe: TypeAlias = Callable[[Sequence[Path]], Mapping[str, Tensor]]  # from N files to the rows of each table

# The module path is that of the caller, so that a process imports the same files, wherever it is started.
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from benchmark.runner.large_pools.shard_writer import main; main(*map(int, sys.argv[2:]))"
)


@dataclass(frozen=True)
class ShardJob:
    """What is to be written, as plain data, so that it can be sent to other processes and machines.

    Args:
        folder: the folder of all shards.
        shard_size: images of a shard.
        num_images: images of the pool, whose lists are in `folder`.
        tables: the names of the tables that are written.
        facts: what decides their rows besides the images: see `ShardFolder`.
        builder: `module:function`; the function is called with `arguments` in each process and returns a `Describe`.
        arguments: its arguments, as JSON values.
    """

    folder: str
    shard_size: int
    num_images: int
    tables: Sequence[str]
    facts: Mapping[str, Any]
    builder: str
    arguments: Mapping[str, Any]

    @property
    def lists(self) -> ImageLists:
        """The lists of images."""
        return ImageLists(Path(self.folder) / "images", self.shard_size)

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_images // self.shard_size)

    def table(self, name: str) -> ShardFolder:
        """Returns the folder of a table."""
        return ShardFolder(Path(self.folder), name, self.facts)

    def write_manifests(self) -> None:
        """Writes what each table holds."""
        for name in self.tables:
            self.table(name).write_manifest()

    def is_complete(self, number: int) -> bool:
        """Whether all tables have this shard, with the rows of the images as they are now."""
        images = self.lists.checksum(number)
        return all(self.table(name).is_complete(number, images) for name in self.tables)

    def open_tables(self) -> dict[str, RowShards]:
        """Opens all tables. ValueError where a shard is missing."""
        return {name: self.table(name).open(self.num_shards) for name in self.tables}


@dataclass(frozen=True)
class ShardWorker:
    """Writes the shards of a job in this process; the model is loaded for the first one that is missing."""

    job: ShardJob

    @cached_property
    def describe(self) -> Describe:
        """The function that describes images."""
        module, _, function = self.job.builder.partition(":")
        describe: Describe = getattr(importlib.import_module(module), function)(**self.job.arguments)
        return describe

    def write(self, number: int) -> None:
        """Writes a shard, unless it is there."""
        job, images = self.job, self.job.lists.checksum(number)
        if job.is_complete(number):
            return
        with torch.no_grad():
            tables = self.describe(job.lists.read(number))
        assert set(tables) == set(job.tables), (sorted(tables), sorted(job.tables))
        for name, rows in tables.items():
            job.table(name).write(number, rows.numpy(), images)


def write_shards(job: ShardJob, num_processes: int = 1, worker: ShardWorker | None = None) -> Iterator[int]:
    """Writes the shards that are missing, and yields the number of each shard of the job, as soon as it is there.

    Args:
        job: what to write.
        num_processes: processes of this machine that share the shards; with 1, this one writes them.
        worker: the worker of this process; None for a new one.

    Raises:
        ValueError: images or settings do not fit, or a process has failed.
    """
    job.write_manifests()
    num_processes = min(num_processes, job.num_shards)
    if num_processes > 1:
        yield from write_in_processes(job, num_processes)
        return
    worker = worker or ShardWorker(job)
    for number in range(job.num_shards):
        worker.write(number)
        yield number


def write_in_processes(job: ShardJob, num_processes: int) -> Iterator[int]:
    """Writes the shards in fresh processes: torch's threads and a GPU survive no fork."""
    with ExitStack() as stack:
        processes = [stack.enter_context(start_process(job, i, num_processes)) for i in range(num_processes)]
        for process in processes:
            stack.callback(process.kill)
        for number in range(job.num_shards):
            process = processes[number % num_processes]
            assert process.stdout is not None
            if (line := process.stdout.readline()).strip() != str(number).encode():
                problem = line.decode(errors="replace").strip()
                raise ValueError(problem or f"the process that writes shard {number} was killed: repeat the command")
            yield number


def start_process(job: ShardJob, index: int, num_processes: int) -> subprocess.Popen[bytes]:
    """Starts one of the processes, and sends it the job."""
    module_path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
    command = [sys.executable, "-P", "-c", PROGRAM, module_path, str(index), str(num_processes), str(os.getpid())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(job)).encode())
    process.stdin.close()
    return process


def main(index: int, num_processes: int, parent: int) -> None:
    """Runs in such a process: writes every shard whose number is `index` more than a multiple of `num_processes`.

    It says the number of each on its standard output; what else would be written there goes to the standard error.
    """
    threading.Thread(target=end_with_parent, args=(parent,), daemon=True).start()
    worker = ShardWorker(ShardJob(**json.load(sys.stdin)))
    with os.fdopen(os.dup(1), "wb", buffering=0) as answers:
        os.dup2(2, 1)
        try:
            for number in range(index, worker.job.num_shards, num_processes):
                worker.write(number)
                answers.write(b"%d\n" % number)
        except ValueError as error:
            answers.write(" ".join(str(error).split()).encode() + b"\n")
