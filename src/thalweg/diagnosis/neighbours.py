"""How much nearest neighbours tell of the targets: whether there is anything to be learnt, and where.

Of sequences of symbols, which have no distances, it is asked what a linear rule of their counts tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.skill import Judge

__all__ = ["Learnable", "learnable", "moved_columns", "related"]

_MOST = 1000
_RIDGE = 0.05
# Symbols that are counted, the most frequent ones, and columns whose order is looked at.
_MOST_SYMBOLS, _MOST_COLUMNS = 1000, 40
# From how many orders of columns a better one is looked for.
_STARTS = 8


@dataclass(frozen=True, kw_only=True)
class Learnable:
    """How far neighbours tell a target: skill of a nearest-neighbour prediction, the larger of 1 and 5.

    Attributes:
        by: who was asked, in words.
        training: of each training example from the others.
        validation: of each validation example from the other validation examples, where these are one's own.
        across: of validation examples from training examples.
        recoded: likewise, with the classes of one part named anew as fits best.
        shifted: the best of training's, where targets are moved by so many places; 0: none is better.
        moved: where the validation data's columns stand in the training data, for each; empty: where they do.
        moved_skill: across, with the columns brought back.
    """

    training: float
    validation: float
    across: float
    recoded: float
    shifted: int = 0
    shifted_skill: float = 0.0
    error: float = 0.1
    by: str = "nearest neighbours"
    moved: tuple[int, ...] = ()
    moved_skill: float = 0.0


def learnable(facts: Facts) -> Learnable | None:
    """Ask neighbours; ``None`` where inputs aren't one tensor, or the task isn't classes or numbers."""
    setup, judge = facts.setup, facts.judge
    if not isinstance(setup.inputs, Tensor) or judge.kind not in ("classes", "numbers"):
        return None
    if judge.kind == "classes" and len(setup.targets) != len(judge.numbers(setup.targets)):  # type: ignore[arg-type]
        return None
    symbols = _is_looked_up(facts)
    if facts.inputs is None or facts.inputs.finite < 1 or (symbols and setup.inputs.ndim != 2):
        return None
    told = _by_counts if symbols else _by_neighbours
    flat = _counts(setup.inputs) if symbols else _flat
    rows = facts.held.rows[: 4 * _MOST]
    if len(rows) > _MOST:
        rows = rows[torch.linspace(0, len(rows) - 1, _MOST).round().long()]
    x, y = flat(setup.inputs[rows]), setup.targets[rows]
    center, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-12)
    x = (x - center) / scale
    mine = told(x, y, x, y, judge, same=True)
    others = across = recoded = math.nan
    moved: tuple[int, ...] = ()
    moved_skill = 0.0
    if facts.held.validation is not None and len(facts.held.validation[1]) >= 20:
        raw, vy = facts.held.validation
        vx = flat(raw)
        if vx.shape[1:] != x.shape[1:]:
            return None
        across = told(x, y, (vx - center) / scale, vy, judge)
        if facts.held.own:
            own = (vx - vx.mean(0)) / vx.std(0, correction=0).clamp(min=1e-12)
            others = told(own, vy, own, vy, judge, same=True)
            recoded = math.nan if symbols else _recoded(x, y, (vx - center) / scale, vy, judge)
            if not symbols and raw.ndim == 2:
                moved = moved_columns(x, own)
                back = vx[:, list(moved)] if moved else vx
                moved_skill = told(x, y, (back - center) / scale, vy, judge) if moved else across
    shift, found = 0, mine
    if mine < 0.15 and len(rows) == len(setup.targets):
        shift, found = _shifted(x, y, judge, mine, told)
    elif mine < 0.15:
        whole = min(len(setup.targets), 2 * _MOST)
        wx = (flat(setup.inputs[:whole]) - center) / scale
        shift, found = _shifted(wx, setup.targets[:whole], judge, mine, told)
    few = max(1.0, len(rows) * (1 - _most_frequent(judge, y)))
    return Learnable(
        training=mine,
        validation=others,
        across=across,
        recoded=recoded,
        shifted=shift,
        shifted_skill=found,
        error=1 / math.sqrt(few),
        by="counts of symbols" if symbols else "nearest neighbours",
        moved=moved,
        moved_skill=moved_skill,
    )


def moved_columns(x: Tensor, y: Tensor) -> tuple[int, ...]:
    """Return in which order columns of ``y`` go with those of ``x``; empty where they go as they are.

    Columns are known by how they go together: the matrix of their correlations, whose rows and columns are
    ordered anew so that it is nearest to the other one. That they stand otherwise is only said if the
    matrices differ far more than those of two random parts of all rows, and much less in the new order.

    Args:
        x, y: ``[N, columns]`` and ``[M, columns]``, both standardized.
    """
    columns = x.shape[1]
    if not 3 <= columns <= _MOST_COLUMNS:
        return ()

    def together(part: Tensor) -> Tensor:
        part = part - part.mean(0)
        return torch.nan_to_num(torch.corrcoef(part.T)) if len(part) > 2 else torch.eye(columns)

    def apart(one: Tensor, other: Tensor) -> float:
        return float((one - other).square().mean().sqrt())

    whole = torch.cat([x, y])
    draws = torch.Generator().manual_seed(0)
    chance = []
    for _ in range(20):
        order = torch.randperm(len(whole), generator=draws)
        chance.append(apart(together(whole[order[: len(x)]]), together(whole[order[len(x) :]])))
    spread = float(torch.tensor(chance).std())
    a, b = together(x), together(y)
    far = apart(a, b)
    if far < max(chance) + 4 * spread:
        return ()
    from scipy.optimize import linear_sum_assignment, quadratic_assignment

    # columns whose quantiles are alike are a start, from which swaps of two lead on
    shares = torch.linspace(0.02, 0.98, 25, dtype=x.dtype)
    alike = torch.cdist(x.quantile(shares, 0).T, y.quantile(shares, 0).T)
    best, guess = far, linear_sum_assignment(alike.numpy())[1]
    order = torch.arange(columns)
    for seed in range(_STARTS):
        options = {"maximize": True, "rng": np.random.default_rng(seed)}
        begun = {**options, "partial_guess": np.stack([np.arange(columns), guess], 1)}
        found = quadratic_assignment(a.numpy(), b.numpy(), method="2opt", options=begun)
        places = torch.from_numpy(found.col_ind)
        if (near := apart(a, b[places][:, places])) < best:
            best, order = near, places
        drawn = {**options, "P0": "randomized"}
        guess = quadratic_assignment(a.numpy(), b.numpy(), method="faq", options=drawn).col_ind
    if best > 0.5 * far:
        return ()
    return tuple(order.tolist())


def related(facts: Facts) -> bool:
    """Say whether any input goes with any target, straight and beyond chance.

    Correlations of independent columns are near normal with a spread of 1 / sqrt(N); of as many pairs as are
    looked at, none should lie beyond the bound in 99 of 100 data sets.
    """
    setup, judge = facts.setup, facts.judge
    inputs, targets = setup.inputs, setup.targets
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor) or len(inputs) != len(targets):
        return False
    if not inputs.dtype.is_floating_point or facts.inputs is None or facts.inputs.finite < 1:
        return False
    x, number = _flat(inputs), judge.numbers(targets)
    if number is not None and len(number) != len(x):
        return False
    y = targets.reshape(len(x), -1).double()
    if number is not None:
        y = torch.nn.functional.one_hot(number, max(2, judge.classes)).double()
    x, y = (each - each.mean(0) for each in (x, y))
    sizes = torch.linalg.vector_norm(x, dim=0)[:, None] * torch.linalg.vector_norm(y, dim=0)
    correlations = (x.T @ y) / sizes.clamp(min=1e-300)
    bound = float(torch.special.ndtri(torch.tensor(1 - 0.005 / correlations.numel(), dtype=torch.float64)))
    return float(correlations.abs().max()) * math.sqrt(len(x)) > bound


def _most_frequent(judge: Judge, targets: Tensor) -> float:
    number = judge.numbers(targets)
    if number is None:
        return 0.0
    counts = torch.bincount(number).double()
    return float(counts.max() / counts.sum())


def _is_looked_up(facts: Facts) -> bool:
    inputs = facts.setup.inputs
    return not inputs.dtype.is_floating_point and inputs.dtype != torch.uint8


def _flat(x: Tensor) -> Tensor:
    x = x.double()
    if x.ndim == 4 and x.shape[-1] * x.shape[-2] > 256:
        # neighbours of pictures are found as well in small ones
        x = torch.nn.functional.adaptive_avg_pool2d(x, 14)
    return x.reshape(len(x), -1)


def _counts(inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what counts the symbols ``[N, length]`` of sequences: square roots, of the frequent ones."""
    names, many = torch.unique(inputs.reshape(-1), return_counts=True)
    kept = names[many.argsort(descending=True)[:_MOST_SYMBOLS]].sort().values

    def counted(given: Tensor) -> Tensor:
        place = torch.searchsorted(kept, given.contiguous()).clamp(max=len(kept) - 1)
        known = (kept[place] == given).double()
        return torch.zeros(len(given), len(kept), dtype=torch.float64).scatter_add_(1, place, known).sqrt()

    return counted


def _by_counts(
    x: Tensor, y: Tensor, given: Tensor, targets: Tensor, judge: Judge, *, same: bool = False
) -> float:
    """Skill of ridge regression; where examples are asked for themselves, of each from the others."""
    if len(x) < 8:
        return math.nan
    number = judge.numbers(y)
    wanted = y.double().reshape(len(y), -1)
    if number is not None:
        wanted = torch.nn.functional.one_hot(number, max(2, judge.classes)).double()
    mean = wanted.mean(0)
    gram = x.T @ x + _RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    made = torch.linalg.solve(gram, x.T)
    guess = given @ (made @ (wanted - mean))
    if same:
        # what an example adds to its own prediction is taken out, exactly
        own = (given * made.T).sum(1, keepdim=True)
        guess = (guess - own * (wanted - mean)) / (1 - own).clamp(min=1e-9)
    return judge(guess + mean, targets)


def _nearest(x: Tensor, given: Tensor, *, same: bool, count: int) -> Tensor:
    distances = torch.cdist(given, x)
    if same:
        distances.fill_diagonal_(math.inf)
    return distances.topk(min(count, len(x) - 1), largest=False).indices


def _by_neighbours(
    x: Tensor, y: Tensor, given: Tensor, targets: Tensor, judge: Judge, *, same: bool = False
) -> float:
    if len(x) < 8:
        return math.nan
    near = _nearest(x, given, same=same, count=5)
    return max(judge(_voted(y, near[:, :count], judge), targets) for count in (1, 5))


def _voted(y: Tensor, near: Tensor, judge: Judge) -> Tensor:
    number = judge.numbers(y)
    if number is not None:
        votes = torch.nn.functional.one_hot(number[near], max(2, judge.classes)).double()
        # of equal votes the nearest decides
        first = torch.nn.functional.one_hot(number[near[:, 0]], max(2, judge.classes)).double()
        return votes.sum(1) + 0.5 * first
    return y.double()[near].mean(1)


def _recoded(x: Tensor, y: Tensor, given: Tensor, targets: Tensor, judge: Judge) -> float:
    """Skill across parts after naming classes as fits best."""
    number, there = judge.numbers(y), judge.numbers(targets)
    if number is None or there is None or judge.classes > 100:
        return math.nan
    from scipy.optimize import linear_sum_assignment

    guess = _voted(y, _nearest(x, given, same=False, count=5), judge).argmax(1)
    table = torch.zeros(judge.classes + 2, judge.classes + 2, dtype=torch.float64)
    table.index_put_((guess, there), torch.ones(len(there), dtype=torch.float64), accumulate=True)
    rows, columns = linear_sum_assignment(-table.numpy())
    right = float(table[torch.as_tensor(rows), torch.as_tensor(columns)].sum()) / len(there)
    most = float(torch.bincount(there).max()) / len(there)
    return (right - most) / (1 - most) if most < 1 else math.nan


def _shifted(
    x: Tensor, y: Tensor, judge: Judge, found: float, told: Callable[..., float]
) -> tuple[int, float]:
    best = 0
    for places in (-2, -1, 1, 2):
        skill = told(x, y.roll(places, 0), x, y.roll(places, 0), judge, same=True)
        if skill > found + 0.25:
            best, found = places, skill
    return best, found
