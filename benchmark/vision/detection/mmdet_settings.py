"""What is changed in a configuration of mmdet, and what of it is refused."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmark.vision.detection.detector import PixelFormat

PUBLISHED_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {  # configuration, and what is changed in it
    "fcos": ("fcos_r50-caffe_fpn_gn-head_1x_coco", {"model.bbox_head.norm_cfg": None}),
    "faster_rcnn": ("faster-rcnn_r50_fpn_1x_coco", {}),
}


class IneffectiveSettingError(ValueError):
    """A setting that has no effect on this model."""


@contextmanager
def explain_failure(model: str) -> Iterator[None]:
    """Whatever goes wrong in a block is a model that is none for us, in one line."""
    try:
        yield
    except IneffectiveSettingError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip(": ").splitlines()[0]
        raise ValueError(f"model={model}: is no detector that boxes alone can train ({reason})") from error


def adapt_settings(node: Any, num_classes: int | None, pretrained: bool) -> Any:
    """A model's settings for these classes, which an RPN has not; without weights to fetch unless `pretrained`."""
    if isinstance(node, list | tuple):
        return type(node)(adapt_settings(one, num_classes, pretrained) for one in node)
    if not isinstance(node, dict):
        return "BN" if node in ("SyncBN", "MMSyncBN") else node
    changed, without = {}, ("backbone", "neck", "rpn_head")
    for key, value in node.items():
        if pretrained or key != "init_cfg" or "Pretrained" not in str(value):
            changed[key] = adapt_settings(value, None if key in without else num_classes, pretrained)
    if num_classes is not None and "num_classes" in changed:
        changed["num_classes"] = num_classes
    return changed


def pixel_format_of(settings: dict[str, Any]) -> PixelFormat:
    """What the library's own preprocessing, which expects blue first, does to a pixel."""
    mean, deviation = (settings.get(name) or [other] * 3 for name, other in (("mean", 0.0), ("std", 1.0)))
    turned = settings.get("bgr_to_rgb", False) or settings.get("rgb_to_bgr", False)
    return PixelFormat(tuple(map(float, mean)), tuple(map(float, deviation)), bgr=not turned)  # type: ignore[arg-type]


def accepts_parameter(maker: type | None, name: str) -> bool:
    """Whether a class has that parameter, or passes it on to a parent that has."""
    for one in getattr(maker, "__mro__", ()):
        known = inspect.signature(one.__init__).parameters
        if name in known or all(parameter.kind is not parameter.VAR_KEYWORD for parameter in known.values()):
            return name in known
    return False
