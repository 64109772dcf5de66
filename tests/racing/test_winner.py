"""winner.py, run without thalweg, prints the curve of the run it was written from."""

import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch

import races
from thalweg import catalogue, data, recipe
from thalweg.execution import loop
from thalweg.layers import models
from thalweg.layers.surgery import ModelParts, with_parts
from thalweg.racing import winner
from thalweg.randomness.generators import own_generators
from thalweg.run.objective import Objective
from thalweg.run.problem import Problem
from thalweg.run.spec import Run, Setting, Workload

SEED, REPLICATE = 5, 2

OWN = """
import random

import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(input_shape[0], 8), nn.Tanh(), nn.Linear(8, outputs))

    def forward(self, x):
        return self.body(x)


class Frozen(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(input_shape[0]), nn.Linear(input_shape[0], outputs)
        self.norm.eval()

    def forward(self, x):
        return self.layer(self.norm(x))


class Noisy(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.layer = nn.Linear(input_shape[0], outputs)
        with torch.no_grad():
            self.layer.weight.copy_(torch.from_numpy(np.random.randn(*self.layer.weight.shape)))
            self.layer.bias.fill_(random.gauss(0, 1))

    def forward(self, x):
        if self.training:
            x = x + 0.3 * torch.from_numpy(np.random.randn(*x.shape)).float() + random.random()
        return self.layer(x)


def points():
    x = np.random.randn(150, 6).astype(np.float32) + random.random() + torch.randn(6).numpy()
    return x, (x.sum(1) > x.sum(1).mean()).astype(np.int64)


def noisy_loss(outputs, targets):
    # evaluations of the script have the metric alone
    factor = 1 + random.random() if outputs.requires_grad else 1
    return factor * nn.functional.cross_entropy(outputs, targets)


Deep = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))
one_logit = nn.Sequential(nn.Linear(30, 1))


class Heads(nn.Module):
    # two heads in a dictionary of tuples; in training beside something else
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(30, 2), nn.Linear(30, 2)

    def forward(self, x):
        heads = {"heads": (self.one(x), self.other(x))}
        return {**heads, "scale": x.mean()} if self.training else heads


class Hidden(Heads):
    def forward(self, x):
        return {"logits": self.one(x), "hidden": self.other(x)}


def of_both(outputs, targets):
    first, second = outputs["heads"]
    return sum(nn.functional.cross_entropy(head, targets) for head in (first, second))


def of_hidden(outputs, targets):
    return nn.functional.cross_entropy(outputs["logits"] + outputs["hidden"], targets)


def right(outputs, targets):
    return (outputs.argmax(1) == targets).float().mean()


def shift(outputs, targets):
    return nn.functional.cross_entropy(outputs + 1, targets, label_smoothing=0.5)


class PerToken(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.scores = nn.Linear(input_shape[1], 3)

    def forward(self, x):
        return self.scores(x).transpose(1, 2)


def inputs(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def several():
    x = inputs(160, 4)
    return x, 3 * x[:, :2] + x[:, 2:] ** 2


def many():
    x = inputs(160, 4)
    return x, (x[:, :3] > 0).astype(np.int64)


def left_out():
    x = inputs(160, 4)
    labels = (x.sum(1) > 0).astype(np.int64)
    labels[:40:3] = -100
    return x, labels


def tokens():
    x = inputs(160, 5, 4)
    labels = (x.sum(2) > 0).astype(np.int64) + (x[..., 0] > 1)
    labels[:, 4] = -100
    return x, labels


def exact_match(outputs, targets):
    return ((outputs > 0) == (targets > 0)).all(1).double().mean()


def loss(outputs, targets):
    return nn.functional.smooth_l1_loss(outputs[:, 0], targets)


def median_error(outputs, targets):
    return (outputs[:, 0] - targets).abs().median()


def my_rule(p, g, velocity, *, lr=0.01, momentum=0.9):
    velocity = momentum * velocity + g
    return p - lr * velocity, velocity
"""

CASES = {
    "digits, mlp": {
        "data": "digits",
        "model": "mlp:32",
        "optimizer": ("adam", {"lr": 0.01}),
        "schedule": "cosine",
    },
    "digits, sparse weights": {
        "data": "digits",
        "model": "mlp:32",
        "optimizer": ("sgd", {"lr": 0.3}),
        "schedule": "linear",
        "initialization": {"scheme": "sparse", "k": 7, "scale": 0.4},
    },
    "diabetes, normalized weights of a module": {
        "data": "diabetes",
        "model": "own.py:Net",
        "optimizer": ("adam", {"lr": 0.01}),
        "schedule": "constant",
        "initialization": {"scheme": "normalized", "gain": 0.5},
    },
    "wine, a frozen batch norm": {
        "data": "wine",
        "model": "own.py:Frozen",
        "optimizer": ("sgd", {"lr": 0.3}),
        "schedule": "constant",
    },
    "wine, a frozen batch norm, by work": {
        "data": "wine",
        "model": "own.py:Frozen",
        "optimizer": ("lbfgs", {"batch_factor": 2.0, "batch_growth": 1.0, "max_iter": 3}),
        "schedule": "constant",
    },
    **{
        f"several numbers, {metric}": {
            "data": "own.py:several",
            "model": "linear",
            "optimizer": ("adam", {"lr": 0.05}),
            "schedule": "constant",
            "loss": loss,
            "metric": metric,
        }
        for loss, metric in (("mse", "rmse"), ("huber", "mae"), ("mae", "r2"))
    },
    "many labels": {
        "data": "own.py:many",
        "model": "linear",
        "optimizer": ("adam", {"lr": 0.05}),
        "schedule": "constant",
        "loss": "bce",
        "metric": "own.py:exact_match",
    },
    **{
        f"some left out, {metric}": {
            "data": "own.py:left_out",
            "task": "custom",
            "model": "linear",
            "optimizer": ("adam", {"lr": 0.05}),
            "schedule": "constant",
            "loss": "cross-entropy",
            "metric": metric,
        }
        for metric in ("accuracy", "balanced-accuracy", "log-loss", "auc")
    },
    "tokens": {
        "data": "own.py:tokens",
        "model": "own.py:PerToken",
        "optimizer": ("adam", {"lr": 0.05}),
        "schedule": "constant",
        "loss": "cross-entropy",
        "metric": "accuracy",
    },
    "digits, lbfgs": {
        "data": "digits",
        "model": "linear",
        "optimizer": ("lbfgs", {"batch_factor": 3.5, "batch_growth": 2.0, "max_iter": 3}),
        "schedule": "constant",
    },
    "iris, newton": {
        "data": "iris",
        "model": "linear",
        "epochs": 40,
        "optimizer": ("newton", {"damping": 0.1, "batch_factor": 2.0}),
        "schedule": "constant",
    },
    "digits, torch's LBFGS": {
        "data": "digits",
        "model": "linear",
        "optimizer": ("torch.optim:LBFGS", {"lr": 0.5, "max_iter": 4}),
        "schedule": "constant",
    },
    "digits, cnn": {
        "data": "digits",
        "model": "cnn:4",
        "optimizer": ("momentum", {"lr": 0.1}),
        "schedule": "one-cycle",
    },
    "digits, an optimizer that evaluates a mean": {
        "data": "digits",
        "model": "mlp:16",
        "optimizer": ("schedule-free", {"lr": 0.02, "beta1": 0.8}),
        "schedule": "constant",
    },
    "digits, rprop": {
        "data": "digits",
        "model": "mlp:16",
        "optimizer": ("rprop", {"lr": 0.001, "step_size_max": 0.05}),
        "schedule": "constant",
    },
    "breast-cancer, plateau": {
        "data": "breast-cancer",
        "model": "mlp:16",
        "optimizer": ("sgd", {"lr": 0.5}),
        "schedule": "plateau",
        "metric": "log-loss",
        "epochs": 20,
        "evaluations": 40,
    },
    "wine, balanced": {
        "data": "wine",
        "model": "linear",
        "optimizer": ("rmsprop", {"lr": 0.01, "alpha": 0.9}),
        "schedule": "step",
        "metric": "balanced-accuracy",
    },
    "breast-cancer, bce": {
        "data": "breast-cancer",
        "model": "mlp:8",
        "loss": "bce",
        "metric": "auc",
        "optimizer": ("adamw", {"lr": 0.01, "weight_decay": 0.1}),
        "schedule": "warmup-stable-decay",
    },
    "breast-cancer, one logit of a module": {
        "data": "breast-cancer",
        "model": "own.py:one_logit",
        "loss": "bce",
        "metric": "accuracy",
        "optimizer": ("nesterov", {"lr": 0.01}),
        "schedule": "linear",
    },
    "diabetes, own objective": {
        "data": "diabetes",
        "model": "own.py:Net",
        "loss": "own.py:loss",
        "metric": "own.py:median_error",
        "optimizer": ("torch.optim:RAdam", {"lr": 0.01}),
        "schedule": "inverse-time",
    },
    "diabetes, huber": {
        "data": "diabetes",
        "model": "mlp:16",
        "loss": "huber",
        "metric": "mae",
        "optimizer": ("adagrad", {"lr": 0.05}),
        "schedule": "polynomial",
    },
    "table, regression": {
        "data": "houses.csv",
        "target": "price",
        "missing": "median",
        "model": "mlp:16",
        "optimizer": ("adam", {"lr": 0.01}),
        "schedule": "exponential",
    },
    "table, own rule": {
        "data": "houses.csv",
        "target": "price",
        "missing": "median",
        "model": "linear",
        "metric": "r2",
        "optimizer": ("own.py:my_rule", {"lr": 0.02}),
        "schedule": "inverse-square",
    },
}


CASES["a model that draws from NumPy's and Python's generators"] = {
    "data": "iris",
    "model": "own.py:Noisy",
    "optimizer": ("sgd", {"lr": 0.1}),
    "schedule": "constant",
}
CASES["data and a loss that draw from them"] = {
    "data": "own.py:points",
    "model": "linear",
    "loss": "own.py:noisy_loss",
    "optimizer": ("sgd", {"lr": 0.1}),
    "schedule": "constant",
}

for called, output, loss, metric in (
    ("names alone", "heads.1", "cross-entropy", "accuracy"),
    ("a loss of all", "heads.1", "own.py:of_both", "accuracy"),
    ("a metric of the part", "heads.0", "own.py:of_both", "own.py:right"),
    ("functions of the part", "heads.0", "own.py:shift", "own.py:right"),
):
    CASES[f"a part of the outputs, {called}"] = {
        "data": "breast-cancer",
        "model": "own.py:Heads",
        "output": output,
        "loss": loss,
        "metric": metric,
        "optimizer": ("sgd", {"lr": 0.3}),
        "schedule": "constant",
    }
CASES["a part of the outputs that is found by its name"] = {
    "data": "breast-cancer",
    "model": "own.py:Hidden",
    "optimizer": ("lbfgs", {"batch_factor": 2.0, "batch_growth": 1.0, "max_iter": 3}),
    "schedule": "constant",
}
CASES["a part of the outputs, another loss on the plateau"] = {
    "data": "breast-cancer",
    "model": "own.py:Hidden",
    "loss": "cross-entropy",
    "validation_loss": "own.py:of_hidden",
    "metric": "log-loss",
    "optimizer": ("sgd", {"lr": 0.5}),
    "schedule": "plateau",
    "epochs": 20,
    "evaluations": 40,
}
CASES["breast-cancer, another loss on the plateau"] = {
    **CASES["breast-cancer, plateau"],
    "validation_loss": "own.py:shift",
}
CASES["digits, parts"] = {
    "data": "digits",
    "model": "mlp:32,32",
    "parts": {"batch_norm": True, "maxout": 2, "skip": True},
    "optimizer": ("sgd", {"lr": 0.1}),
    "schedule": "cosine",
}
CASES["parts of a module of one's own"] = {
    "data": "diabetes",
    "model": "own.py:Deep",
    "parts": {"batch_norm": True},
    "optimizer": ("adam", {"lr": 0.01}),
    "schedule": "constant",
}

NEEDS_THALWEG = {
    "digits, parts",
    "parts of a module of one's own",
    "a part of the outputs that is found by its name",
    "table, own rule",
    "digits, an optimizer that evaluates a mean",
    "digits, lbfgs",
    "iris, newton",
    "wine, a frozen batch norm, by work",
    "digits, sparse weights",
    "diabetes, normalized weights of a module",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    draw = np.random.default_rng(0)
    rows = ["area,rooms,town,heating,price"]
    for _ in range(160):
        area, rooms, town = draw.uniform(30, 200), draw.integers(1, 7), draw.integers(4)
        price = 2.5 * area + 10 * rooms + 40 * town + draw.normal(0, 5)
        area_text = "" if draw.random() < 0.05 else f"{area:.2f}"
        heating = ["gas", "oil", "wood"][draw.integers(3)]
        rows.append(f'{area_text},{rooms},"town {"ABCD"[town]}",{heating},{price:.3f}')
    (tmp_path / "houses.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def made(case):
    """The text of a case's winner.py, and what the training loop gives."""
    with own_generators(SEED, "data"):
        source = data.load(
            case["data"], target=case.get("target"), task=case.get("task"), missing=case.get("missing")
        )
    prepared = data.prepare(source, seed=SEED, replicate=REPLICATE)
    name, numbers = case["optimizer"]
    begins = case.get("initialization", {})
    chosen = recipe.Recipe.model_validate(
        {
            "data": {
                "spec": case["data"],
                "target": case.get("target"),
                "task": case.get("task"),
                "missing": case.get("missing"),
                "seed": SEED,
                "replicate": REPLICATE,
            },
            "model": {"spec": case["model"], "output": case.get("output"), **case.get("parts", {})},
            "objective": {
                "loss": case.get("loss"),
                "metric": case.get("metric"),
                "validation_loss": case.get("validation_loss"),
            },
            "optimizer": {"name": name, **numbers},
            "schedule": {"name": case["schedule"]},
            "strategies": {"initialization": begins} if begins else {},
            "training": {
                "batch_size": 32,
                "epochs": case.get("epochs", 4),
                "seed": 1234,
                "evaluations": case.get("evaluations", 7),
            },
        }
    )
    assert recipe.loads(recipe.dumps(chosen)) == chosen
    text = winner.script(chosen, source=source, prepared=prepared)
    setting = Setting(
        optimizer=name, hyperparameters=numbers, schedule=case["schedule"], initialization=begins
    )
    workload = Workload(
        epochs=chosen.training.epochs,
        batch_size=32,
        evaluations=case.get("evaluations", 7),
        score_test=True,
    )
    problem = Problem(
        factory=with_parts(models.factory(case["model"]), ModelParts(**case.get("parts", {}))),
        data=prepared,
        objective=Objective(
            loss=case.get("loss") or ("mse" if prepared.task.kind == "regression" else "cross-entropy"),
            metric=case.get("metric") or ("rmse" if prepared.task.kind == "regression" else "accuracy"),
            judged=case.get("validation_loss"),
            output=case.get("output"),
        ),
        optimizers={name: catalogue.resolve(name)},
    )
    outcome = loop.run(Run(identity="x", setting=setting, seed=1234), problem, workload)
    return text, outcome


def read(output):
    *curve, test = output.splitlines()
    words = [line.split() for line in curve]
    assert all(word[0] == "step" and word[2] == "validation" for word in words)
    assert test.startswith("test ")
    return [int(word[1]) for word in words], [float(word[3]) for word in words], float(test.split()[1])


def agree(output, outcome):
    steps, validation, test = read(output)
    assert steps == outcome.steps
    assert None not in outcome.validation
    np.testing.assert_allclose(validation, outcome.validation, rtol=1e-4, atol=1e-4)
    assert test == pytest.approx(outcome.test[-1], rel=1e-4, abs=1e-4)
    assert abs(validation[-1] - validation[0]) > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_prints_the_curve_of_the_run(name, folder, capsys):
    text, outcome = made(CASES[name])
    imports = [line for line in text.splitlines() if line.startswith(("import", "from"))]
    # A rule of ours or of a person's own has no other home.
    assert any("thalweg" in line for line in imports) == (name in NEEDS_THALWEG)
    (folder / "winner.py").write_text(text)
    capsys.readouterr()
    with torch.random.fork_rng():
        runpy.run_path("winner.py", run_name="__main__")
    agree(capsys.readouterr().out, outcome)


def test_in_a_process_of_its_own(folder):
    text, outcome = made(CASES["digits, mlp"])
    (folder / "winner.py").write_text(text)
    done = subprocess.run([sys.executable, "winner.py"], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    agree(done.stdout, outcome)


def test_the_plateau_case_has_plateaus(folder):
    _, outcome = made(CASES["breast-cancer, plateau"])
    _, constant = made(CASES["breast-cancer, plateau"] | {"schedule": "constant"})
    assert outcome.validation[:3] == constant.validation[:3]
    assert abs(outcome.validation[-1] - constant.validation[-1]) > 1e-3


def test_short_and_readable(folder):
    text, _ = made(CASES["digits, mlp"])
    assert len(text.splitlines()) < 80
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9", "-"], input=text, text=True
    )
    assert checked.returncode == 0


def test_python_objects_have_no_spelling():
    x, y = torch.randn(60, 3), torch.arange(60) % 2
    source = data.load((x, y))
    prepared = data.prepare(source, seed=0, replicate=0)
    chosen = recipe.Recipe.model_validate(
        {
            "data": {"spec": source.spec},
            "model": {"spec": "linear"},
            "optimizer": {"name": "sgd", "lr": 0.1},
            "training": {"batch_size": 8, "epochs": 1},
        }
    )
    assert winner.script(chosen, source=source, prepared=prepared) is None
    iris = data.load("iris")
    for strategies in ({"averaging": {}}, {"initialization": {"scheme": "he", "open_gates": True}}):
        more = recipe.Recipe.model_validate(
            chosen.model_dump() | {"data": {"spec": "iris"}, "strategies": strategies}
        )
        assert winner.script(more, source=iris, prepared=data.prepare(iris, seed=0, replicate=0)) is None
    split = data.prepare(iris, seed=0, replicate=0)
    for part, value in (("model", {"spec": "python:Net"}), ("objective", {"loss": "python:loss"})):
        own = recipe.Recipe.model_validate(chosen.model_dump() | {part: value})
        assert winner.script(own, source=iris, prepared=split) is None


def test_a_race_leaves_a_script_where_a_part_of_the_outputs_is_compared(folder, capsys):
    with races.engine():
        found = races.run(
            folder / "run", data="breast-cancer", model="own.py:Heads", output="heads.1", trials=2,
            loss="own.py:of_both", validation_loss="own.py:of_both",
        )  # fmt: skip
    won = recipe.read(folder / "run" / "winner.toml")
    assert (won.objective.loss, won.objective.validation_loss) == ("own.py:of_both",) * 2
    capsys.readouterr()
    with torch.random.fork_rng():
        runpy.run_path(str(folder / "run" / "winner.py"), run_name="__main__")
    _, validation, test = read(capsys.readouterr().out)
    (won_by,) = (one for one in found.optimizers if one.name == won.optimizer.name)
    runs = {(run.replicate, run.seed): run for run in won_by.runs}
    run = runs[won.data.replicate, won.training.seed]
    assert validation[-1] == pytest.approx(run.validation, abs=1e-4)
    assert test == pytest.approx(run.score, abs=1e-4)
