"""The state of ``torch.optim.LBFGS`` as ours, and ours as its."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.secondorder.solution import BACKWARD, FORWARD
from thalweg.secondorder.vectors import Space, Vector, is_sharded

__all__ = ["as_torchs", "from_torchs"]

_COUNTS = ("n_iter", "func_evals", "passes")


def as_torchs(entry: dict[str, Any], params: list[Tensor]) -> dict[str, Any]:
    """Return a state of our LBFGS as torch keeps it, and as :func:`from_torchs` takes it back to the bit.

    torch finishes its last pair with the next gradient; ours are finished, so that it gets one of no length.

    Args:
        entry: of our class; it is left alone.
        params: of all groups. torch's vectors hold frozen ones too.
    """
    memory = entry["memory"]
    if is_sharded(params):
        return entry
    direction = {"pairs": []} if memory is None else memory["direction"]
    pairs = [(_flat(s, params), _flat(y, params), inverse) for s, y, inverse in direction["pairs"]]
    nothing = torch.zeros_like(_flat([p.detach() for p in params if p.requires_grad], params))
    unfinished, before = direction.get("unfinished", (None, None))
    scale = 1 / (pairs[-1][2] * pairs[-1][1].dot(pairs[-1][1])) if pairs else 1
    return {
        **{name: entry[name] for name in _COUNTS},
        "old_dirs": [y for _, y, _ in pairs],
        "old_stps": [s for s, _, _ in pairs],
        "ro": [inverse for _, _, inverse in pairs],
        "H_diag": scale,
        "d": nothing if unfinished is None else _flat(unfinished, params),
        "t": 0.0 if unfinished is None else 1.0,
        "prev_flat_grad": nothing.clone() if before is None else _flat(before, params),
        "prev_loss": 0.0,
    }


def from_torchs(entry: dict[str, Any], params: list[Tensor]) -> dict[str, Any]:
    """Return a state of torch.optim.LBFGS as ours, the pair that waits for a gradient included.

    Args:
        entry: of torch's class; it is left alone.
        params: of all groups.
    """
    pairs = [
        (_apart(s, params), _apart(y, params), torch.as_tensor(inverse))
        for y, s, inverse in zip(
            entry["old_dirs"] or [], entry["old_stps"] or [], entry["ro"] or [], strict=True
        )
    ]
    direction: dict[str, Any] = {"pairs": pairs}
    if entry.get("d") is not None and float(entry["t"]) != 0:
        direction["unfinished"] = (
            _apart(entry["d"] * entry["t"], params),
            _apart(entry["prev_flat_grad"], params),
        )
    spent = (FORWARD + BACKWARD) * entry["func_evals"]
    return {
        **{name: entry.get(name, spent) for name in _COUNTS},
        "shapes": [tuple(p.shape) for p in params if p.requires_grad],
        "memory": {"direction": direction, "expected": [None]},
    }


def _flat(vector: Vector, params: list[Tensor]) -> Tensor:
    parts = iter(vector)
    return torch.cat(
        [(next(parts) if p.requires_grad else torch.zeros_like(p)).detach().reshape(-1) for p in params]
    )


def _apart(flat: Tensor, params: list[Tensor]) -> Vector:
    whole = Space().unravel(flat, [p.detach() for p in params])
    return [part.clone() for part, p in zip(whole, params, strict=True) if p.requires_grad]
