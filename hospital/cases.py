"""All cases, by name."""

from __future__ import annotations

from hospital import healthy, odd, pairs, sick_data, sick_nets, sick_outputs, sick_steps
from hospital.case import Case

__all__ = ["CASES"]

_ALL = [
    *sick_outputs.CASES,
    *sick_steps.CASES,
    *sick_data.CASES,
    *sick_nets.CASES,
    *pairs.CASES,
    *healthy.CASES,
    *odd.CASES,
]
CASES: dict[str, Case] = {case.name: case for case in _ALL}
assert len(CASES) == len(_ALL), "two cases have the same name"
