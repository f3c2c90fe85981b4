"""What a Python has of what a run on a GPU needs, as a line of JSON: `python -m tools.gpu_probe`.

Packages are imported, not looked up: one may be there and lack another that it needs.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator

# By the name that is imported: the package. Those of pyproject.toml, its extra `train`, and what runs the tests.
PACKAGES = {
    "antlr4": "antlr4-python3-runtime", "faster_coco_eval": "faster-coco-eval", "filelock": "filelock",
    "hydra": "hydra-core", "jinja2": "jinja2", "matplotlib.pyplot": "matplotlib", "msgspec": "msgspec",
    "numpy": "numpy", "omegaconf": "omegaconf", "pandas": "pandas", "PIL": "pillow", "pytest": "pytest",
    "pytest_benchmark.plugin": "pytest-benchmark", "rich.markdown": "rich", "safetensors": "safetensors",
    "scipy": "scipy", "sklearn": "scikit-learn", "threadpoolctl": "threadpoolctl", "torch": "torch",
    "torchvision": "torchvision", "typer": "typer", "yaml": "pyyaml",
}  # fmt: skip


def missing_packages() -> Iterator[str]:
    """Yields the packages that cannot be imported, and those that they miss in turn."""
    for module, package in PACKAGES.items():
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            inner = str(error.name).partition(".")[0]
            yield package if inner == module.partition(".")[0] else f"{inner} (for {package})"


def describe_gpu() -> dict[str, object]:
    """The GPU that torch sees first, how many it sees, and torch's version."""
    import torch

    number = torch.cuda.device_count()
    card = torch.cuda.get_device_name() if number else ""
    return {"card": card, "num_gpus": number, "torch": torch.__version__}


if __name__ == "__main__":
    missing = list(missing_packages())
    gpu = {} if "torch" in missing else describe_gpu()
    sys.stdout.write(json.dumps({"missing": missing, **gpu}) + "\n")
