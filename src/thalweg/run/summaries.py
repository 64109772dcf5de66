"""How results show themselves in a notebook or by ``print``: a few lines with what matters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

__all__ = ["lines", "metric_label", "notes", "number", "repeated", "scores"]

_MOST = 3


def number(value: float | None) -> str:
    """Four digits, and ``-`` where there is no number.

    >>> number(0.123456), number(1234.5), number(None)
    ('0.1235', '1234', '-')
    """
    if value is None:
        return "-"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def metric_label(name: str) -> str:
    """A metric as one writes it, in pictures, tables and sentences; ``name`` is what settings have.

    >>> metric_label("rmse"), metric_label("accuracy")
    ('RMSE', 'accuracy')
    """
    return {"rmse": "RMSE", "mae": "MAE", "r2": "R²", "auc": "AUC"}.get(name, name)


def repeated(promise: str) -> str:
    """What a race that is run again gives, by the engine's promise: how it begins is for programs.

    >>> repeated("bits: a run gives ...")
    'exactly the same numbers, to the last digit.'
    >>> repeated("tolerance: a run gives ...")
    'the same numbers up to rounding, which training may magnify.'
    """
    if promise.startswith("bit"):
        return "exactly the same numbers, to the last digit."
    return "the same numbers up to rounding, which training may magnify."


def scores(found: Mapping[str, float | None]) -> str:
    """Name and number of each score that there is.

    >>> scores({"validation": 0.95, "test": None})
    'validation 0.95'
    """
    return ", ".join(f"{name} {number(value)}" for name, value in found.items() if value is not None)


def notes(texts: Sequence[str], where: str) -> str:
    """The first few, and where the others are.

    >>> notes(["a", "b", "c", "d"], ".notes")
    'a; b; c; and 1 more in .notes'
    """
    more = [f"and {len(texts) - _MOST} more in {where}"] if len(texts) > _MOST else []
    return "; ".join([*texts[:_MOST], *more])


def lines(first: str, rows: Iterable[tuple[str, str]]) -> str:
    """A first line, and one for each label with something behind it.

    >>> print(lines("Fitted", [("best", "0.9"), ("ended", "")]))
    Fitted
      best  0.9
    """
    shown = [(label, text) for label, text in rows if text]
    width = max((len(label) for label, _ in shown), default=0)
    return "\n".join([first, *(f"  {label:{width}}  {text}" for label, text in shown)])
