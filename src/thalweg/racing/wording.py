"""Scores, differences and lists of names in plain English, in each metric's natural way."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["listed", "spoken_difference", "spoken_range", "spoken_score"]

_LABELS = {
    "accuracy": "accuracy",
    "balanced-accuracy": "balanced accuracy",
    "log-loss": "log-loss",
    "auc": "area under the curve",
    "rmse": "RMSE",
    "r2": "R2",
    "mae": "mean absolute error",
}
_PERCENT = ("accuracy", "balanced-accuracy")
# bounded by 1, where the digits after the point are what counts
_UNIT = ("auc", "r2")


def spoken_score(value: float, metric: str) -> str:
    """Phrase a score.

    >>> spoken_score(0.9778, "accuracy"), spoken_score(53.219, "rmse"), spoken_score(0.98765, "auc")
    ('97.8 % accuracy', 'RMSE 53.22', 'area under the curve 0.988')
    """
    if metric in _PERCENT:
        return f"{_number(value, metric)} % {_LABELS[metric]}"
    return f"{_LABELS.get(metric, metric)} {_number(value, metric)}"


def spoken_range(first: float, last: float, metric: str) -> str:
    """Phrase two scores as the ends of a range; one that rounds to nothing is a single score.

    >>> spoken_range(0.978, 0.974, "accuracy"), spoken_range(0.12, 0.125, "log-loss")
    ('97.8 to 97.4 % accuracy', 'log-loss 0.12 to 0.125')
    """
    ends = (_number(first, metric), _number(last, metric))
    if ends[0] == ends[1]:
        return spoken_score(first, metric)
    if metric in _PERCENT:
        return f"{ends[0]} to {ends[1]} % {_LABELS[metric]}"
    return f"{_LABELS.get(metric, metric)} {ends[0]} to {ends[1]}"


def spoken_difference(value: float, metric: str) -> str:
    """Phrase the size of a difference between two scores.

    >>> spoken_difference(-0.0043, "accuracy"), spoken_difference(0.01, "accuracy")
    ('0.4 points', '1 point')
    >>> spoken_difference(1.234, "rmse")
    '1.2'
    """
    if metric in _PERCENT:
        size = abs(100 * value)
        points = f"{size:.1f}".removesuffix(".0") if size >= 0.095 else f"{size:.1g}"
        return f"{points} point" if points == "1" else f"{points} points"
    return f"{abs(value):.2g}"


def listed(names: Sequence[str]) -> str:
    """Join names: ``"a, b and c"``.

    >>> listed(["adam", "sgd"]), listed(["adam"])
    ('adam and sgd', 'adam')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _number(value: float, metric: str) -> str:
    if metric in _PERCENT:
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if metric in _UNIT else f"{value:.4g}"
