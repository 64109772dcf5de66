"""The machine and the versions, with nothing private in them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from typing import TYPE_CHECKING, Any

import thalweg
from thalweg.errors import OptionError, option

if TYPE_CHECKING:
    import torch

__all__ = ["environment", "usable_device"]

_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "polars",
    "pydantic",
    "bokeh",
    "numba",
    "triton",
)


def environment(device: str = "cpu") -> dict[str, Any]:
    """Describe this machine and the versions in use, with nothing private in it.

    Args:
        device: as torch spells it; a CUDA device is given with its name.

    Returns:
        ``platform``, ``processor``, ``cores`` (those this process may use), ``memory_gib``, ``device`` and
        ``versions``.

    >>> sorted(environment())
    ['cores', 'device', 'memory_gib', 'platform', 'processor', 'versions']
    """
    versions = {"thalweg": thalweg.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    if device.startswith("cuda"):
        import torch

        device = f"{device} ({torch.cuda.get_device_name(device)})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores or 1,
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "device": device,
        "versions": versions,
    }


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def usable_device(name: str, given: str | None = None) -> torch.device:
    """Return a device by its name, once a number has lain there and been read back.

    Args:
        name: as torch spells it.
        given: what was asked for, where the name is made from it.

    Raises:
        OptionError: torch doesn't know it, or it can't be used here.
    """
    import torch

    given = name if given is None else given
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(
            f"{option('device')} is {given!r}, but must be one that torch knows; use cpu, cuda, cuda:1 or mps"
        ) from error
    try:
        # read back, since a device such as meta holds no numbers
        float(torch.zeros(1, device=device).sum())
    except (RuntimeError, AssertionError) as error:
        said = " ".join(str(error).split())[:100]
        raise OptionError(
            f"{option('device', given)} can't be used on this machine ({said}); use cpu"
        ) from error
    return device
