"""What has to be said before torch is loaded, so that the same command gives the same bits."""

from __future__ import annotations

import os
import platform

__all__ = ["repeatable_products"]


def repeatable_products() -> None:
    """Let a matrix product depend on nothing else; MKL reads this once, before its first one."""
    if platform.machine().lower() in ("x86_64", "amd64", "i386", "i686"):
        os.environ.setdefault("MKL_CBWR", "AVX2")
