"""Numbers as a reader wants them: as many digits as mean something, units said, nothing hidden."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thalweg.racing.results import Results

__all__ = [
    "MISSING",
    "ScoreFormat",
    "count",
    "duration",
    "finished",
    "general",
    "hyperparameter",
    "percent",
    "shorten",
    "time_unit",
]

MISSING = "\u2013"
_MINUS = "\u2212"
_TIMES = "\u00d7"
_THIN = "\u202f"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def general(value: float | bool | None, digits: int = 3) -> str:
    """Write any number with ``digits`` significant digits, as a power of ten where that is shorter.

    >>> general(0.00032), general(0.125), general(1234567.0), general(True), general(None)
    ('3.2×10⁻⁴', '0.125', '1.23×10⁶', 'yes', '–')
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not math.isfinite(value):
        return "∞" if value > 0 else f"{_MINUS}∞" if value < 0 else "not a number"
    if value == 0:
        return "0"
    text = f"{value:.{digits - 1}e}"
    mantissa, power = text.split("e")
    exponent = int(power)
    if -4 < exponent < 5:
        plain = f"{float(text):.{max(0, digits - 1 - exponent)}f}"
        return _signs(_trim(plain))
    mantissa = _trim(mantissa)
    tens = f"10{str(exponent).translate(_SUPERSCRIPT)}"
    return _signs(tens if mantissa == "1" else f"{mantissa}{_TIMES}{tens}")


def hyperparameter(value: float | bool | None) -> str:
    """Write a hyperparameter; of one just below 1, such as a momentum, the distance to 1 is what counts.

    >>> hyperparameter(0.99987), hyperparameter(0.9), hyperparameter(0.00321)
    ('0.99987', '0.9', '0.00321')
    """
    if isinstance(value, float) and 0.9 < value < 1:
        return general(value, math.ceil(-math.log10(1 - value)) + 1)
    return general(value)


def count(value: float | None) -> str:
    """Write a whole number, with a thin space between thousands.

    >>> count(1234567).replace(chr(0x202F), "_"), count(980.2)
    ('1_234_567', '980')
    """
    return MISSING if value is None else _signs(f"{round(value):,}").replace(",", _THIN)


def percent(part: float, whole: float) -> str:
    """Write a share in percent.

    >>> percent(3, 8), percent(0, 8), percent(1, 0)
    ('38 %', '0 %', '–')
    """
    return f"{100 * part / whole:.0f} %" if whole else MISSING


def duration(seconds: float | None) -> str:
    """Write a time with its unit.

    >>> duration(0.000123), duration(0.5), duration(142.6), duration(7300)
    ('123 µs', '500 ms', '2 min 23 s', '2 h 2 min')
    """
    if seconds is None:
        return MISSING
    if seconds < 60:
        unit, size = time_unit(seconds)
        return f"{general(seconds / size)} {unit}"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def time_unit(seconds: float) -> tuple[str, float]:
    """Return the unit to write times of this size in, and its seconds.

    >>> time_unit(0.002), time_unit(3.0)
    (('ms', 0.001), ('s', 1.0))
    """
    # a thousandth less than a thousand is written as a thousand: take the next unit then
    return next(((u, s) for u, s in (("µs", 1e-6), ("ms", 1e-3)) if seconds < 999.5 * s), ("s", 1.0))


def finished(text: str) -> str:
    """End a sentence with a full stop; a first word that is plain lower case gets its capital.

    >>> finished("nothing can be told apart"), finished("my_rule.py:rule is best.")
    ('Nothing can be told apart.', 'my_rule.py:rule is best.')
    """
    first = text.split(" ", 1)[0]
    begun = text[:1].upper() + text[1:] if first.isalpha() and first.islower() else text
    return begun if begun.endswith((".", "!", "?")) else begun + "."


def shorten(text: str, length: int = 22) -> str:
    """Take the middle out of a long name, so that both ends still tell it from others.

    >>> shorten("my_project/optimizers.py:lookahead_adam", 20)
    'my_projec…ahead_adam'
    """
    if len(text) <= length:
        return text
    left = (length - 1) // 2
    return f"{text[:left]}…{text[len(text) - (length - 1 - left) :]}"


@dataclass(frozen=True)
class ScoreFormat:
    """Writes values of the metric, all with the same decimals, so that columns can be compared by eye."""

    decimals: int

    @classmethod
    def of(cls, results: Results) -> ScoreFormat:
        """Choose decimals that show a tenth of the margin, or of the smallest interval if that is finer."""
        sizes = [results.plan.margin]
        sizes += [o.high - o.low for o in results.optimizers if o.low is not None and o.high is not None]
        sizes = [size for size in sizes if size > 0 and math.isfinite(size)]
        if not sizes:
            return cls(4)
        finest = max(min(sizes), results.plan.margin / 10)
        return cls(min(6, max(0, 1 - math.floor(math.log10(finest)))))

    def __call__(self, value: float | None, missing: str = MISSING) -> str:
        """Write a score."""
        if value is None:
            return missing
        if abs(value) >= 1e7:
            return general(value, 5)
        return _signs(f"{value:,.{self.decimals}f}").replace(",", _THIN)

    def signed(self, value: float | None) -> str:
        """Write a difference with its sign."""
        if value is None:
            return MISSING
        text = self(abs(value))
        return text if not any(c in "123456789" for c in text) else (_MINUS if value < 0 else "+") + text

    def interval(self, low: float | None, high: float | None) -> str:
        """Write an interval, ends apart by words rather than by a dash that looks like a minus."""
        return MISSING if low is None or high is None else f"{self(low)} to {self(high)}"


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _signs(text: str) -> str:
    return text.replace("-", _MINUS)
