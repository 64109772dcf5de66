"""Healthy trainings drawn from a seed; kept are those that reach near what a good training reaches.

The judge's own plain loop decides, with two seeds and against a sensible training of the same data. Which
draws were kept is written down beside the results, since deciding takes minutes.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hospital import bases, data
from hospital.case import Case, Given, given, read
from hospital.nets import Attention, ConvNet, Recurrent, mlp
from hospital.training import trained

__all__ = ["drawn", "generated"]

RESULTS = Path(__file__).parent / "results"
_ACTS = (nn.ReLU, nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid)
# the score that a sensible training must have, so that the data can be learned at all
_LEAST = 0.4
# optimizer to the middle of its sensible rates
_OPTIMIZERS: dict[str, tuple[float, dict[str, Any]]] = {
    "SGD": (0.1, {}),
    "momentum": (0.03, {"momentum": 0.9}),
    "nesterov": (0.03, {"momentum": 0.9, "nesterov": True}),
    "Adam": (4e-3, {}),
    "AdamW": (4e-3, {"weight_decay": 0.02}),
    "RMSprop": (2e-3, {}),
    "Adagrad": (0.03, {}),
    "NAdam": (3e-3, {}),
}


def generated(
    seed: int, count: int = 100, *, said: Callable[[str], None] = lambda text: None, most: int = 1000
) -> list[Case]:
    """Return so many healthy cases of a seed; what was decided before is read, and the rest decided."""
    path = RESULTS / f"generated-{seed}.json"
    known: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept: list[Case] = []
    for number in range(most):
        if len(kept) == count:
            break
        name, given_, good = drawn(seed, number)
        if str(number) not in known:
            known[str(number)] = _scores(given_, good)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(known, indent=0) + "\n", encoding="utf-8")
            said(f"{name}: {known[str(number)]}{' kept' if _well(known[str(number)]) else ''}")
        if _well(known[str(number)]):
            kept.append(Case(f"generated {seed}-{number}: {name}", (), given_, good))
    return kept


def _scores(made: Callable[[int], Given], good: Callable[[int], Given]) -> list[float]:
    """Return the score of a sensible training, then those of the drawn one, as far as needed."""
    scores = [round(trained(good(0), 0), 4)]
    for seed in (0, 1):
        if scores[0] > _LEAST and (len(scores) == 1 or _near(scores)):
            scores.append(round(trained(made(seed), seed), 4))
    return scores


def _near(scores: list[float]) -> bool:
    return scores[0] > _LEAST and min(scores[1:]) >= max(scores[0] - 0.05, scores[0] * 0.94)


def _well(scores: list[float]) -> bool:
    return len(scores) == 3 and _near(scores)


def drawn(seed: int, number: int) -> tuple[str, Callable[[int], Given], Callable[[int], Given]]:
    """Return a description, a training that may be healthy, and a sensible one of the same data."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choice([_table, _table, _table, _numbers, _numbers, _images, _sequences])
    name, make, good = kind(rng, 1000 * seed + number)
    optimizer, rate, options = _optimizer(rng)
    batch = rng.choice([8, 16, 32, 32, 64, 128])
    # as long as people train: until it is done, and a little longer
    epochs = rng.choice([20, 30, 45])
    epochs = max(6, min(80, round(epochs * math.sqrt(batch / 32))))

    def full(_: int) -> Given:
        return make(batch_size=batch, epochs=epochs, optimizer=partial(optimizer, lr=rate, **options))

    return f"{name}, {optimizer.__name__} {rate:.2g}, batches of {batch}", full, good


def _optimizer(rng: random.Random) -> tuple[Any, float, dict[str, Any]]:
    name = rng.choice(list(_OPTIMIZERS))
    middle, options = _OPTIMIZERS[name]
    kind = getattr(torch.optim, {"momentum": "SGD", "nesterov": "SGD"}.get(name, name))
    options = dict(options)
    if rng.random() < 0.2:
        options["weight_decay"] = rng.choice([1e-5, 1e-4, 1e-3])
    # sensible ones, and such as nobody would choose that may work nonetheless
    return kind, float(f"{middle * 10 ** rng.uniform(-0.7, 0.9):.2g}"), options


def _net(rng: random.Random, inputs: int, outputs: int) -> tuple[str, Callable[[], nn.Module]]:
    depth = rng.choice([0, 1, 1, 2, 2, 3, 4])
    widths = [rng.choice([12, 24, 32, 48, 64, 100, 160]) for _ in range(depth)]
    act = rng.choice(_ACTS)
    norm = rng.choice([None, None, None, nn.BatchNorm1d, nn.LayerNorm])
    dropout = rng.choice([0.0, 0.0, 0.0, 0.1, 0.3, 0.5])
    words = f"MLP {'-'.join(map(str, [inputs, *widths, outputs]))} {act.__name__}"
    words += f" {norm.__name__}" if norm else ""
    words += f" dropout {dropout}" if dropout else ""
    return words, partial(mlp, inputs, *widths, outputs, act=act, norm=norm, dropout=dropout)


def _table(rng: random.Random, seed: int) -> tuple[str, Callable[..., Given], Callable[[int], Given]]:
    name = rng.choice(["blobs", "blobs", "digits", "wine", "cancer", "moons", "rings", "iris", "tags"])
    if name == "blobs":
        classes, columns = rng.choice([2, 3, 5, 8]), rng.choice([4, 8, 16, 30])
        found = data.blobs(
            seed,
            classes=classes,
            columns=columns,
            number=rng.choice([300, 800, 1500]),
            spread=rng.uniform(0.5, 1.3),
        )
    else:
        found = getattr(data, name)(seed)
        columns, classes = (
            found.x.shape[1],
            1 if name == "cancer" else 5 if name == "tags" else int(found.y.max()) + 1,
        )
    good_net = partial(mlp, columns, 64, 32, classes)
    words, net = _net(rng, columns, classes)
    loss: Any = nn.CrossEntropyLoss()
    more: dict[str, Any] = {}
    if name in ("cancer", "tags"):
        loss, more = (
            nn.BCEWithLogitsLoss(),
            {"read": read.logit, "scored": "labels" if name == "tags" else "accuracy"},
        )
    elif rng.random() < 0.15:
        loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    elif rng.random() < 0.15:
        loss, words = nn.MultiMarginLoss(), f"{words}, hinge"
    reference = nn.BCEWithLogitsLoss() if more else nn.CrossEntropyLoss()
    if name != "tags" and rng.random() < 0.25:
        found = found.inputs(_unit(rng, columns, seed))
        words += ", columns in their own units"
    return (
        f"{name}, {words}",
        lambda **rest: given(found, net, loss, **more, **rest),
        lambda _: given(_sensible(found), good_net, reference, bases.adam(3e-3), epochs=40, **more),
    )


def _unit(rng: random.Random, columns: int, seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    scale = 10 ** (0.3 * torch.randn(columns, generator=draws))
    shift = 0.7 * torch.randn(columns, generator=draws)
    return lambda x: x * scale + shift


def _sensible(found: data.Data) -> data.Data:
    mean, std = found.x.mean(0), found.x.std(0).clamp_min(1e-6)
    return found.inputs(lambda x: (x - mean) / std)


def _numbers(rng: random.Random, seed: int) -> tuple[str, Callable[..., Given], Callable[[int], Given]]:
    name = rng.choice(["friedman", "machine", "houses", "diabetes"])
    found = getattr(data, name)(seed)
    columns, outputs = found.x.shape[1], found.y.shape[1]
    words, net = _net(rng, columns, outputs)
    loss = rng.choice([nn.MSELoss(), nn.MSELoss(), nn.HuberLoss(), nn.L1Loss(), nn.SmoothL1Loss()])
    if rng.random() < 0.3:
        factor, shift = 10 ** rng.uniform(-0.5, 0.8), rng.uniform(-2, 2)
        found = found.targets(lambda y: factor * y + shift)
        words += f", targets times {factor:.1f}"
    more = {"read": read.number, "scored": "r2"}
    return (
        f"{name}, {words}, {type(loss).__name__}",
        lambda **rest: given(found, net, loss, **more, **rest),
        lambda _: given(
            found, partial(mlp, columns, 48, 24, outputs), nn.MSELoss(), bases.adam(5e-3), epochs=40, **more
        ),
    )


def _images(rng: random.Random, seed: int) -> tuple[str, Callable[..., Given], Callable[[int], Given]]:
    name, size, classes, channels = rng.choice(
        [("digit_images", 8, 10, 1), ("shapes", 12, 4, 1), ("colours", 8, 3, 3)]
    )
    found = getattr(data, name)(seed)
    width, hidden = rng.choice([4, 8, 12]), rng.choice([16, 32, 64])
    norm, dropout, act = (
        rng.random() < 0.5,
        rng.choice([0.0, 0.0, 0.25, 0.5]),
        rng.choice([nn.ReLU, nn.ReLU, nn.GELU, nn.Tanh]),
    )
    net = partial(
        ConvNet, size, classes, channels, width=width, hidden=hidden, norm=norm, dropout=dropout, act=act
    )
    words = f"{name}, CNN {width}-{hidden} {act.__name__}{' BatchNorm' if norm else ''}"
    words += f" dropout {dropout}" if dropout else ""
    return (
        words,
        lambda **rest: given(
            found, net, nn.CrossEntropyLoss(), **{**rest, "epochs": min(rest["epochs"], 20)}
        ),
        lambda _: given(
            found,
            partial(ConvNet, size, classes, channels, norm=name == "colours"),
            nn.CrossEntropyLoss(),
            bases.adam(4e-3),
            epochs=20,
        ),
    )


def _sequences(rng: random.Random, seed: int) -> tuple[str, Callable[..., Given], Callable[[int], Given]]:
    name = rng.choice(["waves", "forecast", "words"])
    found = getattr(data, name)(seed)
    loss: Any = nn.MSELoss() if name == "forecast" else nn.CrossEntropyLoss()
    outputs = {"waves": 3, "forecast": 1, "words": 2}[name]
    more: dict[str, Any] = {"read": read.number, "scored": "r2"} if name == "forecast" else {}
    if name == "words":
        width = rng.choice([16, 32])
        net: Any = partial(Attention, 2, vocabulary=30, width=width, dropout=rng.choice([0.0, 0.1]))
        words, good = f"attention {width}", partial(Attention, 2, vocabulary=30)
    else:
        kind, hidden = rng.choice(["GRU", "LSTM"]), rng.choice([12, 24, 40])
        net = partial(Recurrent, 1, outputs, hidden=hidden, kind=kind)
        words, good = f"{kind} {hidden}", partial(Recurrent, 1, outputs)
    return (
        f"{name}, {words}",
        lambda **rest: given(found, net, loss, **more, **{**rest, "epochs": min(rest["epochs"], 25)}),
        lambda _: given(found, good, loss, bases.adam(8e-3), epochs=20, **more),
    )
