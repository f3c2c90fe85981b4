"""Says which GPU a run of the benchmarks was on: the pages name the card of each row."""

from typing import Any

import pytest
import torch


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Adds the version of torch and the name of the GPU, "" without one, to the JSON file of a run."""
    machine_info["torch"] = torch.__version__
    machine_info["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
