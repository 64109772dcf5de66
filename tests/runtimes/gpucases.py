"""Every rule there is, with each of its options alone, and what to compare."""

from __future__ import annotations

import numpy as np
import torch

from thalweg import rules
from thalweg.rules import MatrixRule, Rule, as_rule, maximum, minimum, sign, sqrt, trace, where
from thalweg.rules.sign import OVERSHOOTS


def whole_vocabulary(p, g, s, r, *, lr=0.1, decay=0.0, t):
    s = minimum(maximum(s * 0.5 - g, -1.0), abs(g))
    d = where(g * s < 0, sign(g), -sign(s))
    d = where(t > 2, d, d**3)
    if decay:
        p = p * (1 - decay)
    return p - lr * d / sqrt(abs(s) + 1), where(s >= g, s**2, -s), where(r != s, lr, r)


def numbers_alone(p, g, s, r, *, lr=0.1):
    return where(g == g, p, g), lr, g


def nothing_to_hoist(p, g):
    return p - g


OWN = [as_rule(function) for function in (whole_vocabulary, numbers_alone, nothing_to_hoist)]
KNOWN = [rule for rule in vars(rules).values() if isinstance(rule, Rule)]
RULES = [rule for rule in KNOWN if not isinstance(rule, MatrixRule)] + OWN


def cases():
    """Return (rule, hyperparameters, options) for each portable program that differs."""
    found, seen = [], set()
    for rule in RULES:
        flips = [{}] + [{name: not value} for name, value in rule.options.items() if isinstance(value, bool)]
        if len(flips) > 2:
            flips.append({name: True for flip in flips for name in flip})
        if rule is rules.rprop:
            flips += [{"overshoot": word} for word in OVERSHOOTS[1:]]
        zeros = {name: 0.1 for name, value in rule.hyperparameters.items() if value == 0}
        for options in flips:
            for hyper in ({}, zeros):
                program = program_of(rule, hyper, options)
                if program.portable and id(program) not in seen:
                    seen.add(id(program))
                    found.append((rule, hyper, options))
    return found


def program_of(rule, hyper, options):
    settled, _ = rule.settle(hyper, options)
    return trace(rule, options, frozenset(name for name, value in settled.items() if value == 0))


def name_of(case):
    rule, hyper, options = case
    return "-".join([rule.name, *(f"{k}={v}" for k, v in options.items()), *(["more"] if hyper else [])])


def bits(tensor):
    """The bits, with every NaN alike."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    array = tensor.detach().cpu().numpy().copy()
    array[np.isnan(array)] = np.nan
    return array.view(np.uint64 if array.dtype == np.float64 else np.uint32)


EDGES = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-40, -1e-40, 5e-324, 1e38, -1e38, 1.0]


def tensors(seed, dtype, shapes, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    for tensor in made:
        flat = tensor.view(-1)
        chosen = torch.tensor(EDGES[: flat.numel()], dtype=torch.float64)
        flat[torch.randperm(flat.numel(), generator=generator)[: len(chosen)]] = chosen
    return [tensor.to(dtype).to(device) for tensor in made]
