"""What the benchmarks have in common: their options, the head of their results, medians with their spread."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def parser(description: str | None, written: str = "file to write") -> argparse.ArgumentParser:
    """Return the options that all have."""
    made = argparse.ArgumentParser(
        prog=f"python -m {_module()}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", type=Path, help=written)
    return made


def command() -> str:
    """Return the command as one would type it."""
    return f"python -m {_module()} {shlex.join(sys.argv[1:])}".strip()


def machine() -> dict[str, Any]:
    """Return what doesn't change from run to run."""
    return {"processor": _processor(), "cores": os.cpu_count(), "platform": platform.platform()}


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of python, torch, ours, and of these packages."""
    found = {"python": platform.python_version()}
    for name in ("torch", "thalweg", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def begin(*packages: str, **settings: Any) -> dict[str, Any]:
    """Return results that hold what is known beforehand; to be called before anything is measured."""
    return {
        "command": command(),
        **settings,
        "machine": {**machine(), "load_before": os.getloadavg()[0]},
        "versions": versions(*packages),
    }


def end(
    results: dict[str, Any], path: Path | None, form: Callable[[dict[str, Any]], str] | None = None
) -> None:
    """Note the load, and write results where that was asked for."""
    results["machine"]["load_after"] = os.getloadavg()[0]
    write(text(results) if form is None else form(results), path)


def text(results: dict[str, Any]) -> str:
    """Return results as a file holds them."""
    return json.dumps(results, indent=1) + "\n"


def write(text: str, path: Path | None) -> None:
    """Write a file, and the folder it lies in, where that was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def spread(values: Sequence[float], factor: float = 1.0) -> dict[str, float]:
    """Return the median, the tenth and the ninetieth percentile of values times a factor."""
    scaled = [factor * value for value in values]
    cuts = statistics.quantiles(scaled, n=10, method="inclusive")
    return {"median": statistics.median(scaled), "p10": cuts[0], "p90": cuts[-1]}


def milliseconds(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return the spread of each contender's seconds, in milliseconds."""
    return {name: spread(values, 1e3) for name, values in seconds.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return the spread of ratios taken round by round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def said(found: dict[str, float], form: str = ".2f") -> str:
    """Return a spread as text: ``1.25 (1.10-1.31)``."""
    return f"{found['median']:{form}} ({found['p10']:{form}}-{found['p90']:{form}})"


def _module() -> str:
    return f"benchmarks.{Path(sys.argv[0]).stem}"


def _processor() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
