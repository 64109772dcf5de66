"""Recipes drawn at random, small enough to train for some seconds, and different in all that has state."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import tomli_w

__all__ = ["NETWORK", "STRATEGIES", "draw", "draw_for_two", "write"]

NETWORK = '''"""A network with all that has state or draws: batch norm, dropout, and torch's generator."""

import torch
from torch import nn


class Noise(nn.Module):
    """Adds noise from torch's own generator while training."""

    def forward(self, x):
        return x + 0.01 * torch.empty_like(x).normal_() if self.training else x


def network(input_shape, outputs):
    width = 1
    for size in input_shape:
        width *= size
    return nn.Sequential(
        nn.Flatten(), nn.Linear(width, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3), Noise(),
        nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, outputs),
    )
'''

# name to optimizer table, batch size and epochs; second-order ones on a smaller problem
_FIRST: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05},
    "momentum": {"lr": 0.02},
    "adam": {"lr": 0.005},
    "adamw": {"lr": 0.005},
    "nadam": {"lr": 0.005},
    "rmsprop": {"lr": 0.002},
    "rprop": {"lr": 0.001},
    "lion": {"lr": 0.0005},
    "muon": {"lr": 0.005},
    "schedule-free": {"lr": 0.01},
}
_WHOLE = ("muon",)
_SECOND = ("lbfgs", "cg-pr", "newton-cg", "gauss-newton", "levenberg-marquardt")

STRATEGIES: dict[str, list[dict[str, Any]]] = {
    "initialization": [{"scheme": "he"}, {"scheme": "orthogonal", "output_bias": True}],
    "augmentation": [{"translate": 0.1, "brightness": 0.2, "flip": 0.3}],
    "guard": [{"every": 20, "bound": 3.0}],
    "clipping": [{"norm": 0.5}, {"unit": 0.05, "value": 0.5}],
    "averaging": [{"decay": 0.99}, {"kind": "uniform", "every": 3}, {"kind": "tail"}],
    "snapshots": [{"cycles": 3}],
    "plateau": [{"patience": 0, "decay": 0.7}],
    "batch-size": [{"growth": 3.0}],
    "early-stopping": [{"patience": 6, "watch": "loss"}],
}
"""Settings of each that a recipe may draw; a test holds the names to those there are."""


def draw(rng: random.Random, second_order: bool = False, work: float = 1.0) -> dict[str, Any]:
    """Draw a recipe.

    Args:
        rng: decides.
        second_order: whether its optimizer is one that needs closures, graphs or outputs.
        work: how long to train, as a multiple of a few seconds.
    """
    training: dict[str, Any] = {"seed": rng.randrange(1000), "evaluations": rng.choice([3, 12, 30])}
    schedule = rng.choice([{"name": "constant"}, {"name": "cosine"}, {"name": "cosine", "cycles": 3}])
    chosen = {
        name: rng.choice(settings)
        for name, settings in STRATEGIES.items()
        if rng.random() < 0.45 and not (second_order and name in ("guard", "clipping", "augmentation"))
    }
    if second_order:
        name = rng.choice(_SECOND)
        optimizer: dict[str, Any] = {"name": name}
        training |= {"batch_size": 32, "epochs": max(2, round(150 * work))}
        data, model = "iris", rng.choice(["mlp:6", "net.py:network"])
    else:
        name = rng.choice(sorted(_FIRST))
        optimizer = {"name": name, **_FIRST[name]}
        training |= {"batch_size": rng.choice([16, 24]), "epochs": max(2, round(20 * work))}
        training["accumulate"] = rng.choice([1, 1, 3])
        training["precision"] = rng.choice(["float32", "float32", "float32", "bfloat16"])
        data, model = "digits", rng.choice(["net.py:network", "net.py:network", "mlp:24", "cnn:4"])
        if model == "cnn:4":
            training["epochs"] = max(2, training["epochs"] // 3)
        if name == "schedule-free":
            chosen.pop("averaging", None)
        if name not in ("rprop", "muon") and rng.random() < 0.3:
            schedule = {"name": "plateau"}
            chosen.pop("plateau", None)
    recipe: dict[str, Any] = {
        "version": 1,
        "data": {"spec": data, "seed": rng.randrange(3)},
        "model": {"spec": model},
        "optimizer": optimizer,
        "schedule": schedule,
        "training": training,
    }
    if chosen:
        recipe["strategies"] = chosen
    return recipe


def draw_for_two(rng: random.Random, parallel: str, work: float = 1.0) -> dict[str, Any]:
    """Draw a first-order recipe for two processes, by ``"ddp"`` or ``"fsdp2"``; a step takes longer there."""
    recipe = draw(rng, work=work / 6)
    while parallel == "fsdp2" and recipe["optimizer"]["name"] in _WHOLE:
        recipe = draw(rng, work=work / 6)
    recipe["training"]["parallel"] = parallel
    return recipe


def write(recipe: dict[str, Any], folder: Path) -> Path:
    """Write a recipe, and the network that it may name, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(NETWORK, encoding="utf-8")
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps(recipe), encoding="utf-8")
    return path
