"""The state of ``torch.optim.LBFGS`` as ours, and ours as its."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from thalweg.curvature.vectors import Space, Vector, is_sharded
from thalweg.secondorder.solution import BACKWARD, FORWARD

__all__ = [
    "as_torchs",
    "from_torchs",
]

_COUNTS = ("n_iter", "func_evals", "passes")
# whose curvature the vectors hold, which torch's state doesn't say
_WHOSE = ("trained", "shapes", "maximize")
_OURS = (*_COUNTS, *_WHOSE, "memory", "expected")
_TORCHS = ("old_dirs", "old_stps", "ro", "H_diag", "d", "t", "prev_flat_grad", "prev_loss", "al")


def as_torchs(entry: dict[str, Any], params: list[Tensor]) -> dict[str, Any]:
    """Return a state of our LBFGS as torch keeps it, and as :func:`from_torchs` takes it back to the bit.

    torch finishes its last pair with the next gradient; ours are finished, so that it gets one of no length.
    Parameters that were frozen when the state was made have zeros in torch's vectors, whatever is frozen now.

    Args:
        entry: of our class; it is left alone. What others have put into it stays in it.
        params: of all groups. torch's vectors hold frozen ones too.
    """
    memory = entry["memory"]
    if is_sharded(params):
        return entry
    others = {name: value for name, value in entry.items() if name not in _OURS}
    trained = entry["trained"]
    direction = {"pairs": []} if memory is None else memory["direction"]
    pairs = [
        (_flat(s, params, trained), _flat(y, params, trained), inverse)
        for s, y, inverse in direction["pairs"]
    ]
    nothing = torch.zeros_like(_flat([params[i].detach() for i in trained], params, trained))
    unfinished, before = direction.get("unfinished", (None, None))
    scale = 1 / (pairs[-1][2] * pairs[-1][1].dot(pairs[-1][1])) if pairs else 1
    return {
        **others,
        **{name: entry[name] for name in _COUNTS + _WHOSE},
        # while there is no pair, the first step of a search depends on how far the last one went
        "expected": [None] if memory is None else memory["expected"],
        "old_dirs": [y for _, y, _ in pairs],
        "old_stps": [s for s, _, _ in pairs],
        "ro": [inverse for _, _, inverse in pairs],
        "H_diag": scale,
        "d": nothing if unfinished is None else _flat(unfinished, params, trained),
        "t": 0.0 if unfinished is None else 1.0,
        "prev_flat_grad": nothing.clone() if before is None else _flat(before, params, trained),
        "prev_loss": 0.0,
    }


def from_torchs(entry: dict[str, Any], params: list[Tensor]) -> dict[str, Any]:
    """Return a state of torch.optim.LBFGS as ours, the pair that waits for a gradient included.

    Args:
        entry: of torch's class; it is left alone. What others have put into it stays in it.
        params: of all groups.
    """
    trained = _trained(entry, params)
    pairs = [
        (_apart(s, params, trained), _apart(y, params, trained), torch.as_tensor(inverse))
        for y, s, inverse in zip(
            entry["old_dirs"] or [], entry["old_stps"] or [], entry["ro"] or [], strict=True
        )
    ]
    direction: dict[str, Any] = {"pairs": pairs}
    if entry.get("d") is not None and float(entry["t"]) != 0:
        direction["unfinished"] = (
            _apart(entry["d"] * entry["t"], params, trained),
            _apart(entry["prev_flat_grad"], params, trained),
        )
    spent = (FORWARD + BACKWARD) * entry["func_evals"]
    return {
        **{name: value for name, value in entry.items() if name not in _OURS + _TORCHS},
        **{name: entry.get(name, spent) for name in _COUNTS},
        "trained": trained,
        "shapes": [tuple(params[i].shape) for i in trained],
        "maximize": entry.get("maximize", False),
        "memory": {"direction": direction, "expected": list(entry.get("expected", [None]))},
    }


def _trained(entry: dict[str, Any], params: list[Tensor]) -> list[int]:
    """Return which parameters a state is of: those that it says, unless torch has gone on with others."""
    now = [i for i, p in enumerate(params) if p.requires_grad]
    said = entry.get("trained")
    if said is None:
        return now
    frozen = [i for i in range(len(params)) if i not in said]
    vectors = [*(entry["old_dirs"] or []), *(entry["old_stps"] or [])]
    moved = any(part.any() for vector in vectors for part in _apart(vector, params, frozen))
    return now if moved else list(said)


def _flat(vector: Vector, params: list[Tensor], trained: Collection[int]) -> Tensor:
    parts = iter(vector)
    return torch.cat(
        [
            (next(parts) if i in trained else torch.zeros_like(p)).detach().reshape(-1)
            for i, p in enumerate(params)
        ]
    )


def _apart(flat: Tensor, params: list[Tensor], trained: Collection[int]) -> Vector:
    whole = Space().unravel(flat, [p.detach() for p in params])
    return [part.clone() for i, part in enumerate(whole) if i in trained]
