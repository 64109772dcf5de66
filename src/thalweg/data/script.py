"""Lines of plain Python that every source's script has: the split, and the target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from thalweg.data.source import Source
from thalweg.data.target import power_of
from thalweg.randomness.streams import seed32

__all__ = ["assemble", "parts", "split_lines", "target_lines"]

_PARTS = ("train", "validation", "test")


def assemble(imports: Iterable[str], *blocks: Iterable[str]) -> str:
    """Put imports, in the order that linters want, before the lines."""
    named = {*imports, "import torch", "from sklearn.model_selection import train_test_split"}
    own = sorted(line for line in named if line.split()[1].partition(".")[0] in _STANDARD)
    others = sorted(named - set(own), key=lambda line: (line.startswith("from"), line.split()[1].lower()))
    lines = [*own, *([""] if own else []), *others, ""]
    for block in blocks:
        lines += block
    return "\n".join(lines) + "\n"


_STANDARD = frozenset({"gzip", "importlib", "pathlib", "runpy"})


def split_lines(source: Source, *, seed: int, replicate: int) -> list[str]:
    """Define ``train``, ``validation`` and, unless the source brings it, ``test``: row numbers."""
    state = seed32(seed, "split", replicate)
    stratified = source.labels is not None
    if source.fixed_test:
        strata = ", stratify=y" if stratified else ""
        return [
            f"rows = np.arange({source.rows})",
            f"train, validation = train_test_split(rows, test_size=0.2, random_state={state}{strata})",
        ]
    strata, again = (", stratify=y", ", stratify=y[rest]") if stratified else ("", "")
    return [
        f"rows = np.arange({source.rows})",
        f"rest, test = train_test_split(rows, test_size=0.2, random_state={state}{strata})",
        f"train, validation = train_test_split(rest, test_size=0.25, random_state={state}{again})",
    ]


def parts(source: Source, what: str) -> str:
    """The three parts of ``x`` or ``y`` as a tuple."""
    if source.fixed_test:
        return f"({what}[train], {what}[validation], {what}_fixed)"
    return f"({what}[train], {what}[validation], {what}[test])"


def target_lines(source: Source, *targets: npt.NDArray[Any], scaled: bool, fraction: bool) -> list[str]:
    """Define ``y_train``, ``y_validation``, ``y_test``, and for regression ``y_center`` and ``y_scale``.

    Args:
        source: of the data.
        targets: as it holds them, those of a test part included.
        scaled: whether numbers are standardised.
        fraction: whether numbers of a custom task are fractions.
    """
    names = ", ".join(f"y_{part}" for part in _PARTS)
    three = parts(source, "y")
    if source.task.kind == "classification":
        return [f"{names} = (torch.tensor(part) for part in {three})"]
    if source.task.kind == "custom":
        dtype = ", dtype=torch.float32" if fraction else ""
        return [f"{names} = (torch.tensor(part{dtype}) for part in {three})"]
    if not scaled:
        return [
            "y_center, y_scale = 0.0, 1.0",
            f"{names} = (torch.tensor(part, dtype=torch.float32) for part in {three})",
        ]
    power = power_of(*targets)
    if power:
        return [
            "# so near an end of float64's range squares would overflow or vanish: in a unit of its own",
            f"unit = np.ldexp(y[train], {-power})",
            "center, scale = unit.mean(), unit.std() or 1.0",
            f"y_center, y_scale = float(np.ldexp(center, {power})), float(np.ldexp(scale, {power}))",
            f"{names} = (",
            f"    torch.tensor((np.ldexp(part, {-power}) - center) / scale, dtype=torch.float32)",
            f"    for part in {three}",
            ")",
        ]
    return [
        "y_center, y_scale = y[train].mean(), y[train].std() or 1.0",
        f"{names} = (",
        "    torch.tensor((part - y_center) / y_scale, dtype=torch.float32)",
        f"    for part in {three}",
        ")",
    ]
