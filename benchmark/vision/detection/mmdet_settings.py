"""Whether mmdet is there, changes to its configurations, and errors for those that cannot be used."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from benchmark.vision.detection.detector import PixelFormat

PUBLISHED_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {  # the zoo's configuration, and our changes to it
    "fcos": ("fcos_r50-caffe_fpn_gn-head_1x_coco", {"model.bbox_head.norm_cfg": None}),
    "faster_rcnn": ("faster-rcnn_r50_fpn_1x_coco", {}),
}


INSTALL_MMDET = "type make mmdet (compiles mmcv for about ten minutes)"


def missing_package() -> str:
    """The package that must be installed before mmdet can be used; "" if none is missing."""
    if find_spec("mmdet") is None:
        return "mmdet"
    compiled = find_spec("mmcv") is not None and find_spec("mmcv._ext") is not None
    return "" if compiled else "mmcv with its operators compiled"


class IneffectiveSettingError(ValueError):
    """A setting has no effect on this model."""


@contextmanager
def explain_failure(model: str) -> Iterator[None]:
    """Turns any error inside the block into a one-line ValueError: the model cannot be trained from boxes alone."""
    try:
        yield
    except IneffectiveSettingError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip(": ").splitlines()[0]
        raise ValueError(f"model={model}: cannot be trained from boxes alone ({reason})") from error


def adapt_settings(node: Any, num_classes: int | None, pretrained: bool) -> Any:
    """Adapts a model's settings to our classes and, unless `pretrained`, removes weights that mmdet would download.

    The number of classes is not changed in the backbone, the neck and the RPN.
    """
    if isinstance(node, list | tuple):
        return type(node)(adapt_settings(child, num_classes, pretrained) for child in node)
    if not isinstance(node, dict):
        return "BN" if node in ("SyncBN", "MMSyncBN") else node
    new_settings, other_parts = {}, ("backbone", "neck", "rpn_head")
    for key, value in node.items():
        if pretrained or key != "init_cfg" or "Pretrained" not in str(value):
            new_settings[key] = adapt_settings(value, None if key in other_parts else num_classes, pretrained)
    if num_classes is not None and "num_classes" in new_settings:
        new_settings["num_classes"] = num_classes
    return new_settings


def pixel_format_of(settings: dict[str, Any]) -> PixelFormat:
    """Reads the pixel format from the settings of mmdet's preprocessing, whose input order is blue, green, red."""
    mean, deviation = (settings.get(name) or [default] * 3 for name, default in (("mean", 0.0), ("std", 1.0)))
    is_rgb = settings.get("bgr_to_rgb", False) or settings.get("rgb_to_bgr", False)
    return PixelFormat(tuple(map(float, mean)), tuple(map(float, deviation)), bgr=not is_rgb)  # type: ignore[arg-type]


def accepts_parameter(owner: type | None, name: str) -> bool:
    """Whether a class's constructor has this parameter, or passes it on to a parent's constructor that has it."""
    for ancestor in getattr(owner, "__mro__", ()):
        parameters = inspect.signature(ancestor.__init__).parameters
        if name in parameters or all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            return name in parameters
    return False


@contextmanager
def load_tensors_only() -> Iterator[None]:
    """Makes torch.load refuse pickled code, which mmengine would otherwise load."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
