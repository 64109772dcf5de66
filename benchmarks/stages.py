"""What training in stages costs: beside plain ``fit``, a plain step, and torchdistill.

    python -m benchmarks.stages --json benchmarks/results/stages.json

- **Stage**: a list of one stage against plain ``fit`` on the same parameters, all of mlp:128,64 or its
  last two layers. Both come to the same weights, which is checked.
- **Greedy**: pretraining of a net of six hidden layers, layer by layer, against the time of its trained
  parts: each layer with its head trained by plain ``fit`` on the outputs of the layers before, which were
  computed beforehand.
- **Blurred**: a step on K = 8 noisy copies, antithetic, as lanes and one after another, against a plain
  step.
- **Hints**: the hint stage of a thin convolutional student, by ``fit`` and in torchdistill's
  ``DistillationBox`` with the same nets, regressor, batches and optimizer; and by ``fit`` where the teacher
  is asked anew in each step, as the box does. The box is given its batches ready made, since its loader
  would take most of the time. Without torchdistill, which needs torchvision too, it is left out.

What is timed is a whole training, set-up included, on one thread. In each round every contender takes its
steps once, in an order drawn anew; ratios are taken within a round. Besides the clock, CPU time is taken,
which a busy machine disturbs less.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from benchmarks import records
from benchmarks.fit import BATCH, EXAMPLES, X, Y, adam, against, network, rounds_of
from torch import Tensor, nn

import thalweg
from thalweg.randomness.streams import order
from thalweg.stages import Blurred, BlurredLoss, Stage, greedy, hint_loss, hints

DEEP = (784, *[128] * 6, 10)
SAMPLES, SIGMA = 8, 0.1


def fit(model: nn.Module, steps: int, stages: list[Stage] | None = None, **more: Any) -> nn.Module:
    """Train by ``fit`` as all contenders are trained."""
    given = {"data": (X, Y), "loss": F.cross_entropy, "batch_size": BATCH, **more}
    thalweg.fit(model, given.pop("data"), given.pop("loss"), adam, stages=stages, steps=steps, **given)
    return model


def same(one: nn.Module, other: nn.Module) -> None:
    """Hold that two contenders come to the same weights."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs), "they don't do the same"


# A stage and plain fit ----------------------------------------------------------------------------------


def stage_of(rounds: int, steps: int, trains: list[str] | None) -> dict[str, Any]:
    """A list of one stage against ``fit``."""

    def plain(steps: int) -> nn.Module:
        model = network()
        if trains is not None:
            for name, p in model.named_parameters():
                p.requires_grad_(name.split(".")[0] in trains)
        return fit(model, steps)

    def staged(steps: int) -> nn.Module:
        return fit(network(), steps, [Stage(name="all", trains=trains, seed=0)])

    same(plain(150), staged(150))
    seconds = rounds_of({"fit": lambda: plain(steps), "stage": lambda: staged(steps)}, rounds)
    begins = rounds_of({"fit": lambda: plain(1), "stage": lambda: staged(1)}, 9)["clock"]
    return {
        "steps": steps,
        "milliseconds for one step, set-up included": records.milliseconds(begins),
        **against(seconds, "stage", "fit", steps),
    }


# Greedy pretraining and its parts -----------------------------------------------------------------------


def greedy_of(rounds: int, steps: int) -> dict[str, Any]:
    """Greedy pretraining against its trained parts, each on inputs computed beforehand."""
    model = network(DEEP)
    inputs = [X]
    with torch.no_grad():
        for number in range(0, 2 * (len(DEEP) - 3), 2):
            inputs.append(model[number : number + 2](inputs[-1]))

    def whole() -> None:
        net = network(DEEP)
        fit(net, steps, greedy(net, X[:2], steps=steps, joint=False))

    def parts() -> None:
        net = network(DEEP)
        for number, given in enumerate(inputs):
            last = number == len(inputs) - 1
            head = net[-1] if last else nn.Linear(DEEP[number + 1], 10)
            fit(nn.Sequential(net[2 * number], nn.ReLU(), head), steps, data=(given, Y))

    seconds = rounds_of({"greedy": whole, "parts": parts}, rounds)
    return {
        "layers": len(inputs),
        "steps a layer": steps,
        **against(seconds, "greedy", "parts", steps * len(inputs)),
    }


# Blurred steps ------------------------------------------------------------------------------------------


def blurred_of(rounds: int, steps: int, widths: tuple[int, ...], batch: int) -> dict[str, Any]:
    """Steps on K noisy copies against plain ones, in a loop of one's own."""

    def loop(lanes: bool | None) -> nn.Module:
        model = network(widths)
        optimizer = adam(model.parameters())
        trained = model if lanes is None else Blurred(model, SIGMA, SAMPLES, lanes=lanes)
        loss: Any = F.cross_entropy if lanes is None else BlurredLoss("cross-entropy")
        indices = torch.from_numpy(order(EXAMPLES, seed=0, epoch=0))
        inputs, targets = X[:, : widths[0]].contiguous(), Y
        for step in range(steps):
            chosen = indices[(step * batch) % (EXAMPLES - batch) :][:batch]
            if isinstance(trained, Blurred):
                trained.follow(progress=step / steps, step=step, seed=0)
            optimizer.zero_grad()
            loss(trained(inputs[chosen]), targets[chosen]).backward()
            optimizer.step()
        return model

    seconds = rounds_of(
        {"plain": lambda: loop(None), "lanes": lambda: loop(True), "one by one": lambda: loop(False)}, rounds
    )
    return {
        "samples": SAMPLES,
        "microseconds a step, plain": records.spread(seconds["clock"]["plain"], 1e6 / steps),
        "as lanes": against(seconds, "lanes", "plain", steps),
        "one after another": against(seconds, "one by one", "plain", steps),
    }


# Hints and torchdistill ---------------------------------------------------------------------------------

IMAGES = X[:1280].reshape(-1, 1, 28, 28)


def teacher() -> nn.Module:
    """A wide net; its hint is after the second convolution."""
    torch.manual_seed(1)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 3, padding=1),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(32, 64, 3, padding=1),
            relu3=nn.ReLU(),
            flat=nn.Flatten(),
            last=nn.Linear(64 * 49, 10),
        )
    )  # fmt: skip


def student() -> nn.Module:
    """A thin and deep net, which is guided after the third of its convolutions."""
    torch.manual_seed(2)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(8, 8, 3, padding=1),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(8, 8, 3, padding=1),
            relu3=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv4=nn.Conv2d(8, 8, 3, padding=1),
            relu4=nn.ReLU(),
            conv5=nn.Conv2d(8, 8, 3, padding=1),
            relu5=nn.ReLU(),
            flat=nn.Flatten(),
            last=nn.Linear(8 * 49, 10),
        )
    )  # fmt: skip


def regressor() -> nn.Module:
    """From the student's 8 features to the teacher's 32, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Conv2d(8, 32, 1)


def hinted(steps: int) -> nn.Module:
    """The hint stage by ``fit``."""
    made, wide = student(), teacher()
    stage = hints(
        made, wide, IMAGES[:2], hint="relu2", guided="relu3", loss=F.cross_entropy,
        regressor=lambda guided, hint: regressor(),
    )[0]  # fmt: skip
    return fit(made, steps, [stage], data=(IMAGES, Y[: len(IMAGES)]))


def asked_anew(steps: int) -> nn.Module:
    """The same, where the teacher is asked in each step, as where images are augmented."""
    with patch("thalweg.training.staged.can_be_computed", lambda *given: False):
        return hinted(steps)


def boxed(steps: int) -> nn.Module:
    """The hint stage by torchdistill."""
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.models.registry import register_adaptation_module

    logging.disable(logging.INFO)
    register_adaptation_module(lambda: regressor(), key="regressor")
    above = ["conv1", "relu1", "pool1", "conv2", "relu2"]
    mine, wide = student(), teacher().eval()
    box = get_distillation_box(
        wide, mine, {},
        {
            "num_epochs": 1,
            "teacher": {
                "sequential": above, "forward_hook": {"output": ["relu2"]}, "requires_grad": False,
                "forward_proc": "forward_batch_only",
            },
            "student": {
                "adaptations": {"regressor": {"key": "regressor", "kwargs": {}}},
                "sequential": [*above, "conv3", "relu3", "+regressor"],
                "forward_hook": {"output": ["+regressor"]}, "requires_grad": True,
                "forward_proc": "forward_batch_only",
            },
            "optimizer": {"key": "Adam", "kwargs": {"lr": 1e-3, "fused": True}},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {"sub_terms": {"hint": {
                    "criterion": {"key": "MSELoss", "kwargs": {}},
                    "criterion_wrapper": {"key": "SimpleLossWrapper", "kwargs": {
                        "input": {"is_from_teacher": False, "module_path": "+regressor", "io": "output"},
                        "target": {"is_from_teacher": True, "module_path": "relu2", "io": "output"},
                    }},
                    "weight": 0.5,
                }}},
            },
        },
        torch.device("cpu"), None, False, 1.0,
    )  # fmt: skip
    box.student_model.train()
    box.teacher_model.eval()
    for chosen in _batches(steps):
        loss = box.forward_process(IMAGES[chosen], Y[chosen], {})
        box.post_forward_process(loss=loss)
    box.clean_modules()
    return mine


def by_hand(steps: int) -> nn.Module:
    """The hint stage in a loop with hooks, over the whole of both nets."""
    mine, wide, joins = student(), teacher().eval().requires_grad_(False), regressor()
    kept: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, given, output: kept.__setitem__(name, output)

    mine.relu3.register_forward_hook(note("guided"))
    wide.relu2.register_forward_hook(note("hint"))
    optimizer = adam([*(p for name, p in mine.named_parameters() if name[:5] in ("conv1", "conv2", "conv3")),
                      *joins.parameters()])  # fmt: skip
    for chosen in _batches(steps):
        with torch.no_grad():
            wide(IMAGES[chosen])
        mine(IMAGES[chosen])
        loss = hint_loss({"regressed": joins(kept["guided"]), "hint": kept["hint"]})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return mine


def _batches(steps: int) -> list[Tensor]:
    """The batches that the stage takes."""
    from thalweg.randomness.streams import seed32
    from thalweg.run.sampler import Batches

    taken = Batches(len(IMAGES), seed=seed32(0, "stage", "hints 1"), size=BATCH)
    return [taken.take(step / steps) for step in range(steps)]


def hints_of(rounds: int, steps: int) -> dict[str, Any]:
    """The hint stage by ``fit`` against torchdistill, where that is installed, and a loop by hand."""
    contenders: dict[str, Callable[[], Any]] = {
        "fit": lambda: hinted(steps),
        "fit, the teacher asked anew": lambda: asked_anew(steps),
        "a loop with hooks": lambda: by_hand(steps),
    }
    peers = ["a loop with hooks"]
    try:
        import torchdistill  # noqa: F401
    except ImportError:
        print("hints: torchdistill isn't installed and is left out", flush=True)
    else:
        contenders["torchdistill"] = lambda: boxed(steps)
        peers.insert(0, "torchdistill")
        same(boxed(20), hinted(20))
    same(by_hand(20), hinted(20))
    same(asked_anew(20), hinted(20))
    seconds = rounds_of(contenders, rounds)
    found: dict[str, Any] = {"steps": steps}
    for name in ("fit", "fit, the teacher asked anew"):
        for peer in peers:
            found[f"{name}, against {peer}"] = against(seconds, name, peer, steps)
    return found


def _part(name: str, rounds: int, steps: int) -> dict[str, Any]:
    if name == "stage":
        return {
            "all layers": stage_of(rounds, steps, None),
            "the last two layers": stage_of(rounds, steps, ["2", "4"]),
        }
    if name == "greedy":
        return {"mlp of six hidden layers": greedy_of(rounds, steps // 2)}
    if name == "blurred":
        return {
            "mlp:128,64 on 784, batch 64": blurred_of(rounds, steps // 5, (784, 128, 64, 10), 64),
            "mlp:64,32 on 64, batch 32": blurred_of(rounds, steps // 5, (64, 64, 32, 10), 32),
        }
    return {"a thin convolutional student": hints_of(rounds, steps // 2)}


def main() -> None:
    """Run what is asked for and write the results."""
    parser = records.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1000)
    parts = ["stage", "greedy", "blurred", "hints"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = records.begin("torchdistill", rounds=asked.rounds, threads=1)
    for part in asked.parts:
        results[part] = _part(part, asked.rounds, asked.steps)
        for name, values in results[part].items():
            print(f"{part}: {name}")
            _show(values, "    ")
        # what was measured stays where a later part is broken off
        records.end(results, asked.json)


def _show(values: dict[str, Any], indent: str) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and "median" in value:
            print(f"{indent}{key}: {records.said(value, '.3f')}", flush=True)
        elif isinstance(value, dict):
            print(f"{indent}{key}")
            _show(value, indent + "    ")
        else:
            print(f"{indent}{key}: {value}", flush=True)


if __name__ == "__main__":
    main()
