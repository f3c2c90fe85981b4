"""The state of torch that a plug-in may change: how each part of it is read and restored."""

from __future__ import annotations

import sys
import warnings
from typing import Any, cast

import torch
from torch.nn.modules import module as global_hooks

ENTERED_CONTEXTS: list[Any] = []  # they are never left: torch has no other way to set the inference mode
DEVICES = ("cpu", "cuda")
GLOBAL_HOOKS = [
    getattr(global_hooks, name)
    for name in dir(global_hooks)
    if name.startswith("_global_") and isinstance(getattr(global_hooks, name), dict)
]
CUDNN, ONEDNN = cast(Any, torch.backends.cudnn), cast(Any, torch.backends.mkldnn)
CUBLAS = cast(Any, torch.backends.cuda.matmul)
PRECISION_BACKENDS = [
    torch.backends, CUDNN, CUDNN.conv, CUDNN.rnn, CUBLAS, ONEDNN, ONEDNN.matmul, ONEDNN.conv, ONEDNN.rnn,
]  # fmt: skip
SMALLEST_NORMAL = sys.float_info.min


def set_inference_mode(on: bool) -> None:
    """Turns the inference mode on or off."""
    ENTERED_CONTEXTS.append(torch.inference_mode(on))
    ENTERED_CONTEXTS[-1].__enter__()


def autocast_state() -> tuple[Any, ...]:
    """Returns mixed precision by device (on or off, dtype), its cache, and the number of open contexts."""
    torch.autocast_increment_nesting()
    by_device = [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in DEVICES]
    return by_device, torch.is_autocast_cache_enabled(), torch.autocast_decrement_nesting()


def set_autocast(state: tuple[Any, ...]) -> None:
    """Restores mixed precision. If contexts stayed open, torch would go on using its cache of casts, now outdated."""
    by_device, cache_enabled, num_open = state
    for device, (on, dtype) in zip(DEVICES, by_device, strict=True):
        torch.set_autocast_enabled(device, on)
        torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_cache_enabled(cache_enabled)
    while torch.autocast_increment_nesting() <= num_open:
        pass
    while torch.autocast_decrement_nesting() > num_open:
        pass
    torch.clear_autocast_cache()


def set_device(device: torch.device) -> None:
    """Restores the default device, which is the CPU where none was set."""
    torch.set_default_device(None if device == torch.device("cpu") else device)


def determinism_state() -> tuple[bool, bool, bool]:
    """Returns whether only deterministic algorithms run, whether others only warn, and whether new memory is filled."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )


def set_deterministic(state: tuple[bool, bool, bool]) -> None:
    """Restores the determinism state."""
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])
    torch.utils.deterministic.fill_uninitialized_memory = state[2]  # type: ignore[attr-defined]


def float32_precision() -> tuple[Any, ...]:
    """Returns how exactly float32 is multiplied, by torch's older switches and by its separate newer ones."""
    older: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: CUDNN.allow_tf32):
        try:
            older.append(read())
        except RuntimeError:  # the newer switches have a value that the older ones cannot express
            older.append(None)
    reduced = (CUBLAS.allow_fp16_reduced_precision_reduction, CUBLAS.allow_bf16_reduced_precision_reduction)
    return older, reduced, [backend.fp32_precision for backend in PRECISION_BACKENDS]


def set_precision(state: tuple[Any, ...]) -> None:
    """Restores the precision: the older switches first, because they change some of the newer ones."""
    (matmul_precision, allow_tf32), reduced, newer = state
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the older switches are deprecated
        if matmul_precision is not None:
            torch.set_float32_matmul_precision(matmul_precision)
        if allow_tf32 is not None:
            CUDNN.allow_tf32 = allow_tf32
    CUBLAS.allow_fp16_reduced_precision_reduction, CUBLAS.allow_bf16_reduced_precision_reduction = reduced
    for backend, value in zip(PRECISION_BACKENDS, newer, strict=True):
        backend.fp32_precision = value


def attention_kernels() -> list[bool]:
    """Returns which implementations of attention are enabled."""
    cuda = torch.backends.cuda
    return [
        cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled()
    ]  # fmt: skip


def set_attention(state: list[bool]) -> None:
    """Restores the implementations of attention."""
    cuda = torch.backends.cuda
    setters = (cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_math_sdp, cuda.enable_cudnn_sdp)
    for setter, on in zip(setters, state, strict=True):
        setter(on)


def anomaly_checks() -> tuple[bool, bool]:
    """Returns whether backward passes are checked for anomalies, and for NaN."""
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def set_hooks(state: list[dict[Any, Any]]) -> None:
    """Restores the hooks of all modules."""
    for hooks, before in zip(GLOBAL_HOOKS, state, strict=True):
        hooks.clear()
        hooks.update(before)


def current_gpu() -> int | None:
    """Returns the current GPU; None where none is in use."""
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None


def set_gpu(number: int | None) -> None:
    """Restores the current GPU."""
    if number is not None:
        torch.cuda.set_device(number)
