"""A detector that several processes train together, here on the CPU with gloo."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException

from benchmark import config
from benchmark.api import Boxes, Machine
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.runner import machine as run_machine
from benchmark.runner.measuring import device_name
from benchmark.runner.task_loading import build_task
from benchmark.tasks import scenes
from benchmark.vision import data_parallel
from benchmark.vision.data.annotations import Split
from benchmark.vision.data_parallel import fit_in_processes, part_of_batch, share_of_batch
from benchmark.vision.detection.detector import Batch
from benchmark.vision.detection.detectors import detector_builder
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.task import Detection

CPU = torch.device("cpu")
FROZEN = dataclasses.replace(
    scenes.DEFAULT, backbone="resnet18", weights="resnet18.pth", norm="frozen", frozen_stages=1, convs=1,
    epochs=2, batch_size=5, lr=0.005, channels_last=False,
)  # fmt: skip


def small_split(number: int, seed: int = 0) -> Split:
    glyphs = np.random.default_rng(seed).random((20, 8, 8)).astype(np.float32)
    return scenes.build_split(glyphs, np.arange(20) % 10, number, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds random weights of a backbone, whose normalisation layers then stay as they are."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")
    return folder


def detection(folder: Path, recipe: DetectorRecipe, num_processes: int) -> Detection:
    machine = Machine(CPU, folder, processes_per_fit=num_processes)
    return Detection(machine, recipe, small_split(12), small_split(4, 1), 10, "50")


def largest_difference(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs if a.numel())


def test_two_processes_train_what_one_trains(folder: Path) -> None:
    """Eleven images in batches of 3 or 4: the parts of a batch differ in their images and in their positives."""
    alone, together = (detection(folder, FROZEN, num) for num in (1, 2))
    untrained, expected = alone.model(), alone.fit(np.arange(11), 0)
    fitted = together.fit(np.arange(11), 0)
    assert largest_difference(expected, untrained) > 5e-3
    assert largest_difference(expected, fitted) < 1e-5
    assert not fitted.training


@pytest.mark.parametrize("model", ["fcos", "ssd300"])
def test_losses_of_parts_add_up_to_that_of_the_batch(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over two processes of their shares; all_reduce is replaced by adding the other's divisor."""
    recipe = dataclasses.replace(scenes.DEFAULT, model=model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = detector_builder(model)(recipe, 10, None).eval()
    split = small_split(5)
    images = torch.stack([split.images[number].float() / 255 for number in range(5)])
    targets = [split.truth.boxes_of(number) for number in range(5)]
    parts, losses, divisors = (slice(0, 2), slice(2, 5)), list[Tensor](), list[Tensor]()

    def loss(part: slice) -> Tensor:
        boxes: list[Boxes] = targets[part]
        batch = Batch(images[part], [(64, 64)] * len(boxes), [0] * len(boxes))
        return detector.loss(detector.feature_maps(batch.images_N3HW), batch, boxes)

    for part in parts:
        losses.append(loss(part))
        divisors.append(detector.loss_divisor(targets[part]))
    assert divisors[0] != divisors[1]
    whole = loss(slice(0, 5))
    monkeypatch.setattr(data_parallel, "num_processes", lambda: 2)
    shares = []
    for number in (0, 1):
        monkeypatch.setattr(data_parallel.dist, "all_reduce", lambda own, n=number: own.add_(divisors[1 - n]))
        shares.append(share_of_batch(losses[number], lambda n=number: divisors[n]))  # type: ignore[misc]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)
    assert (torch.stack(losses).mean() - whole).abs() > 3e-4


def test_parts_of_a_batch_cover_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert part_of_batch(range(5)) == [0, 1, 2, 3, 4]
    monkeypatch.setattr(data_parallel, "num_processes", lambda: 3)
    parts = []
    for number in range(3):
        monkeypatch.setattr(data_parallel, "process_number", lambda number=number: number)
        parts.append(part_of_batch(range(5)))
    assert parts == [[0], [1, 2], [3, 4]]
    with pytest.raises(
        ValueError, match=r"a batch of 2 images cannot be divided among 3 GPUs: set gpus_per_cell lower"
    ):
        part_of_batch(range(2))


# --- faults ---------------------------------------------------------------------------------------
def refuse(device: torch.device) -> nn.Module:
    """A fit in which the second process fails and the first waits for it."""
    if data_parallel.process_number() == 1:
        raise ValueError("lower lr=9")
    torch.distributed.barrier()
    return nn.Linear(1, 1)


def die(device: torch.device) -> nn.Module:
    """A fit in which the second process is killed, as for memory."""
    if data_parallel.process_number() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()
    return nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("fit", "error", "words"), [(refuse, ValueError, "^lower lr=9$"), (die, ProcessExitedException, "SIGKILL")]
)
def test_a_failing_process_ends_the_fit(fit: Callable[..., Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fit_in_processes(fit, 2, CPU)


def test_a_fit_that_cannot_be_sent_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^gpus_per_cell=2: this fit cannot be sent to other processes \("):
        fit_in_processes(lambda device: nn.Linear(1, 1), 2, CPU)


# --- the setting ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "num"),
    [
        ([], 1),
        (["launcher=ray", "gpus_per_cell=0.5"], 1),
        (["launcher=ray", "gpus_per_cell=4"], 4),
        (["gpus_per_cell=2"], 2),
    ],
)
def test_whole_numbers_of_gpus_train_together(words: list[str], num: int) -> None:
    assert config.compose_settings(words).num_gpus_per_cell == num


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gpus_per_cell=1"], "gpus_per_cell=1.0: has no effect with launcher=local: set launcher=ray"),
        (["gpus_per_cell=2.5"], "gpus_per_cell=2.5: has no effect with launcher=local: set launcher=ray"),
        (["launcher=ray", "gpus_per_cell=2.5"], "gpus_per_cell=2.5: must be greater than 0 and at most 1, or a whole"),
        (["gpus_per_cell=2", "device=cuda:1"], "gpus_per_cell=2: cuda:1 is one GPU: set device=cuda"),
        (["gpus_per_cell=2", "device=cpu"], "gpus_per_cell=2.0: has no effect with device=cpu"),
    ],
)
def test_numbers_of_gpus_that_do_not_fit_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        config.compose_settings(words)


def test_missing_gpus_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_machine, "find_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert run_machine.prepare_machine(config.compose_settings(["gpus_per_cell=3"])).processes_per_fit == 3
    with pytest.raises(ValueError, match=r"^gpus_per_cell=4: PyTorch sees 3 GPUs$"):
        run_machine.prepare_machine(config.compose_settings(["gpus_per_cell=4"]))


def test_the_device_says_how_many_gpus_train_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records and the cache of fits keep numbers of several GPUs apart."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    names = [device_name(Machine(torch.device("cuda"), processes_per_fit=num)) for num in (1, 4)]
    assert names == ["H200", "4 x H200"]


def test_only_detection_trains_on_several_gpus() -> None:
    discovery.discover()
    machine = Machine(CPU, processes_per_fit=2)
    assert isinstance(build_task(Spec.read("task", "scenes"), machine), Detection)
    refusal = build_task(Spec.read("task", "digits"), machine)
    assert str(refusal) == "gpus_per_cell=2: digits trains on one GPU; only detection trains on several"
