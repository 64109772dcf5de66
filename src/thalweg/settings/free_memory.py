"""How much memory this process may still take."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["free_bytes", "out_of_memory"]

_OUT = ("can't allocate memory", "out of memory", "not enough memory", "Storage size calculation overflowed")


def free_bytes() -> int:
    """Return the memory that is free: what Linux calls available, within the control group and the limits.

    Elsewhere than on Linux half of the machine's memory, which is a guess.
    """
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
        free = int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else free
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, max(int(text) - int(used.read_text()), 0))
    return int(min(free, _within_limits()))


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error is about memory: torch raises ordinary ones with words of its own.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("shape mismatch"))
    (True, False)
    """
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT)


def _within_limits() -> float:
    """What is left of the address space that ``ulimit -v`` allows."""
    try:
        import resource
    except ImportError:
        return float("inf")
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = Path("/proc/self/statm")
    if most == resource.RLIM_INFINITY or not used.exists():
        return float("inf")
    return max(most - int(used.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE"), 0)
