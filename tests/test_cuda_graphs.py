"""Functions that are recorded once and replayed: on the CPU, by a stand-in for CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from _graphs import Recorder, graphs_on_cpu
from torch import Tensor

from benchmark.api import CapturedFunction
from benchmark.system.cuda_graphs import MAX_GRAPHS, WARM_UP_CALLS
from benchmark.system.remarks import remark_once

RECORDED_CALL = WARM_UP_CALLS + 1


class Accumulator:
    """A function with a state: adds its argument, times a factor, to a total, and counts how often Python ran it."""

    def __init__(self) -> None:
        self.total, self.num_runs = torch.zeros(2), 0

    def __call__(self, values: Tensor, factor: float = 1.0) -> Tensor:
        self.num_runs += 1
        self.total.add_(values.sum(), alpha=factor)
        return self.total * 2


@pytest.fixture(autouse=True)
def remarks(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    remark_once.cache_clear()
    return caplog


def test_on_a_cpu_every_call_is_an_ordinary_one() -> None:
    function = Accumulator()
    captured = CapturedFunction(function, "a sum")
    for number in range(RECORDED_CALL + 2):
        captured(torch.full((3,), float(number)))
    assert function.num_runs == RECORDED_CALL + 2


def test_a_recorded_function_has_the_effects_and_results_of_ordinary_calls() -> None:
    plain, function = Accumulator(), Accumulator()
    captured = CapturedFunction(function, "a sum")
    with graphs_on_cpu() as recordings:
        pairs = []
        for number in range(10):
            values = torch.arange(3.0) + number
            pairs.append((captured(values), plain(values)))
            values.fill_(torch.nan)
            assert torch.equal(function.total, plain.total)
    assert function.num_runs == RECORDED_CALL
    assert len(recordings) == 1
    assert all(torch.equal(result, expected) for result, expected in pairs)  # later calls change no earlier result


def test_each_shape_dtype_and_value_has_its_recording() -> None:
    plain, function = Accumulator(), Accumulator()
    captured = CapturedFunction(function, "a sum")
    kinds = [(torch.ones(3), 1.0), (torch.ones(4), 1.0), (torch.ones(3).double(), 1.0), (torch.ones(3), 0.5)]
    with graphs_on_cpu() as recordings:
        for number in range(RECORDED_CALL + 2):
            for values, factor in kinds:
                captured(values * number, factor)
                plain(values * number, factor)
                assert torch.equal(function.total, plain.total)
    assert len(recordings) == len(kinds)
    assert function.num_runs == RECORDED_CALL * len(kinds)


def test_many_shapes_are_not_all_recorded() -> None:
    function = Accumulator()
    captured = CapturedFunction(function, "a sum")
    with graphs_on_cpu() as recordings:
        for size in range(1, MAX_GRAPHS + 3):
            for _ in range(RECORDED_CALL + 1):
                captured(torch.ones(size))
    assert len(recordings) == MAX_GRAPHS
    assert function.num_runs == RECORDED_CALL * MAX_GRAPHS + 2 * (RECORDED_CALL + 1)
    assert function.total[0] == (RECORDED_CALL + 1) * sum(range(1, MAX_GRAPHS + 3))


def test_a_function_without_a_result_and_without_tensors() -> None:
    total = torch.zeros(1)
    add, note = CapturedFunction(lambda values: total.add_(values.sum()) and None, "a sum"), list[int]()
    with graphs_on_cpu():
        assert [add(torch.ones(2)) for _ in range(6)] == [None] * 6
        CapturedFunction(lambda number: note.append(number), "a note")(3)
    assert (total.item(), note) == (12, [3])


def read_value(values: Tensor) -> Tensor:
    return values * values.sum().item()


def choose_positive(values: Tensor) -> Tensor:
    return values[values > 0].sum()


def build_constant(values: Tensor) -> Tensor:
    return values + torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("function", [read_value, choose_positive, build_constant])
def test_what_cannot_be_recorded_runs_as_it_is_and_says_so_once(
    function: Callable[[Tensor], Tensor], remarks: pytest.LogCaptureFixture
) -> None:
    total = torch.zeros(2)

    def add(values: Tensor) -> Tensor:
        total.add_(values)
        return function(values)

    with graphs_on_cpu() as recordings:
        for captured in (CapturedFunction(add, "a sum"), CapturedFunction(add, "a sum")):
            total.zero_()
            for number in range(1, 7):
                values = torch.tensor([1.0, -2.0]) * number
                assert torch.equal(captured(values), function(values))
            assert total.tolist() == [21.0, -42.0]  # the recording that failed added nothing
    assert not recordings
    assert [record.getMessage().partition(":")[0] for record in remarks.records] == [
        "a sum cannot run as a CUDA graph and is slower"
    ]


def test_an_error_of_the_function_itself_is_raised() -> None:
    def fail(values: Tensor) -> Tensor:
        raise ValueError("wrong")

    with graphs_on_cpu(), pytest.raises(ValueError, match="wrong"):
        CapturedFunction(fail, "a failure")(torch.ones(1))


def test_random_numbers_are_those_of_ordinary_calls() -> None:
    def draw(values: Tensor) -> Tensor:
        return torch.nn.functional.dropout(values, 0.5) + torch.rand(8)

    captured, results = CapturedFunction(draw, "noise"), []
    with graphs_on_cpu():
        for function in (draw, captured):
            drawn = []
            for number in range(8):
                if number in (0, 6):
                    torch.manual_seed(number)
                drawn.append(function(torch.ones(8)))
            results.append(torch.stack(drawn))
    assert torch.equal(*results)
    assert len(results[0].unique(dim=0)) == 8


def test_the_stand_in_repeats_what_was_recorded_and_not_what_python_says_now() -> None:
    """Else the tests above would show nothing."""
    factor = 1.0
    captured, values = CapturedFunction(lambda tensor: tensor * factor, "a product"), torch.ones(2)
    with graphs_on_cpu():
        for _ in range(RECORDED_CALL):
            captured(values)
        factor = 5.0
        assert torch.equal(captured(values), values)


def test_the_stand_in_runs_nothing_while_it_records() -> None:
    total, batch_norm = torch.zeros(2), torch.nn.BatchNorm1d(2)
    before = {name: value.clone() for name, value in batch_norm.state_dict().items()}
    recorder = Recorder()
    with recorder:
        total.add_(1)
        batch_norm(torch.rand(4, 2))
    recorder.undo()
    assert total.tolist() == [0, 0]
    assert all(torch.equal(value, before[name]) for name, value in batch_norm.state_dict().items())
    recorder.run()
    assert total.tolist() == [1, 1]
    assert batch_norm.num_batches_tracked == 1
