"""Where two machines part on the way to an influence; here the CPU in two types of numbers."""

import pytest
import torch
from _cells import FAULTY

from benchmark.plugins import discovery
from tools.device_parity import SLOPE, Difference, Place, compare_places, find_differences, render

BOX_LAYER = "inner.head.regression_head.bbox_reg.weight"
CPU = Place.read("cpu")


@pytest.fixture(scope="module")
def differences() -> tuple[list[Difference], list[Difference]]:
    discovery.discover(FAULTY)
    return compare_places(CPU, Place.read("cpu:float64"), "few_scenes[epochs=3]")


def test_rounding_parts_nothing_beside_the_kink(differences: tuple[list[Difference], list[Difference]]) -> None:
    grown, _ = differences
    kinds = [row.step.split()[0] for row in grown]
    assert list(dict.fromkeys(kinds)) == ["pixels", "feature", "output", "loss:", "gradient", "slope"]
    assert all(row.largest_difference < 1e-4 * row.largest_value for row in grown)
    assert any(row.largest_difference > 0 for row in grown)


def test_rounding_decides_the_box_gradient_of_own_boxes(
    differences: tuple[list[Difference], list[Difference]],
) -> None:
    """A detector's own box is where a place predicts it: the minimum of the loss, on which its sides have no slope."""
    _, own = differences
    large = {row.step for row in own if row.is_large}
    assert f"gradient at {BOX_LAYER}" in large
    assert large <= {f"gradient at {BOX_LAYER}", f"{SLOPE}{BOX_LAYER}"}


def test_the_first_large_difference_is_marked() -> None:
    first = {"pixels": torch.ones(2), "output": torch.tensor([1.0, -4.0]), SLOPE + "w": torch.tensor([2.0])}
    second = {"pixels": torch.ones(2), "output": torch.tensor([1.0, -3.0]), SLOPE + "w": torch.tensor([3.0])}
    rows = find_differences(first, second)
    assert [(row.largest_value, row.largest_difference) for row in rows] == [(1, 0), (4, 1), (2, 1)]
    text = render(rows, rows).splitlines()
    assert [line.endswith("<- here they part") for line in text] == [False, False, True, False, False]
    assert text[-1] == "on own boxes, at the kink of the loss: slope along w 2, difference 1"


def test_places_are_read() -> None:
    assert Place.read("cpu") == Place(torch.device("cpu"), torch.float32)
    assert Place.read("cuda:float64") == Place(torch.device("cuda"), torch.float64)
