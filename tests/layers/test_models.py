from __future__ import annotations

import importlib
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from thalweg import data, objectives
from thalweg.data import Prepared
from thalweg.errors import ModelError, OptionError
from thalweg.layers import models
from thalweg.objectives import Task


@pytest.fixture(scope="module")
def wine() -> Prepared:
    return data.prepare(data.load("wine"), seed=0, replicate=0)


@pytest.mark.parametrize(
    ("spec", "shape", "kinds"),
    [
        ("linear", (5,), "Linear"),
        ("linear", (1, 4, 4), "Flatten Linear"),
        ("mlp:8,6", (5,), "Linear ReLU Linear ReLU Linear"),
        ("mlp:8", (2, 4, 4), "Flatten Linear ReLU Linear"),
        (
            "cnn:4,8",
            (3, 8, 9),
            "Conv2d ReLU MaxPool2d Conv2d ReLU MaxPool2d AdaptiveAvgPool2d Flatten Linear",
        ),
    ],
)
def test_built_models_and_their_scripts(spec: str, shape: tuple[int, ...], kinds: str) -> None:
    torch.manual_seed(3)
    model = models.build(spec, shape, 7)
    assert isinstance(model, nn.Sequential)
    assert " ".join(type(layer).__name__ for layer in model) == kinds
    assert model(torch.randn(2, *shape)).shape == (2, 7)
    text = models.script(spec, shape, 7)
    assert text is not None
    torch.manual_seed(3)
    twin = eval(text, {"nn": nn})
    assert str(twin) == str(model)
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mpl:3", "there is no model 'mpl:3'"),
        ("linaer", "did you mean 'linear'"),
        ("mlp", "needs whole numbers from 1 on"),
        ("mlp:", "as in 'mlp:128,64'"),
        ("mlp:8,x", "needs whole numbers"),
        ("mlp:8,0", "needs whole numbers"),
        ("cnn:-3", "as in 'cnn:16,32'"),
        ("linear:5", "takes no widths; write 'linear', or 'mlp:5'"),
        ("nowhere.py:net", "there is no file 'nowhere.py'"),
    ],
)
def test_specs_that_name_no_model(spec: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        models.factory(spec)


@pytest.mark.parametrize(
    ("spec", "shape", "says"),
    [
        ("cnn:4", (5,), r"needs images, \[channels, height, width\], not \[5\]"),
        ("cnn:2,2,2,2", (1, 8, 8), "halves its images 4 times, .* give at most 3 numbers"),
        ("mlp:4", (), "needs examples of one shape"),
    ],
)
def test_shapes_that_a_model_cannot_take(spec: str, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        models.build(spec, shape, 2)


OWN = """
import torch
from torch import nn

def both(input_shape, outputs): return nn.Linear(input_shape[0], outputs)
def any_names(a, b): return nn.Linear(a[0], b)
def by_name(width=4, *, outputs): return nn.Linear(13, outputs)
def none(): return nn.Linear(13, 3)
def optional(width=3): return nn.Linear(13, width)
def three(a, b, c): ...
def raises(input_shape, outputs): raise RuntimeError("no weights")
def word(): return "net"
number = 3
class Net(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.layer = nn.Linear(*input_shape, outputs)
        self.scale = nn.Parameter(torch.full((), 2.0))
    def forward(self, x):
        return self.scale * self.layer(x)
made = Net((13,), 3)
class Breaks(Net):
    def forward(self, x):
        return x @ self.nothing
class Frozen(Net):
    def __init__(self, input_shape, outputs):
        super().__init__(input_shape, outputs)
        self.requires_grad_(False)
class Detached(Net):
    def forward(self, x):
        return super().forward(x).detach()
class Flat(Net):
    def forward(self, x):
        return super().forward(x)[:, 0]
class Pair(Net):
    def forward(self, x):
        return super().forward(x), 1
class Wide(Net):
    def __init__(self, input_shape, outputs):
        super().__init__(input_shape, outputs + 1)
class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, g): raise ValueError("not differentiable")
class NoWayBack(Net):
    def forward(self, x):
        return Backward.apply(super().forward(x))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    return "own.py"


@pytest.mark.parametrize("name", ["both", "any_names", "by_name", "none", "optional", "Net"])
def test_own_factories_and_their_scripts(own: str, name: str) -> None:
    spec = f"{own}:{name}"
    torch.manual_seed(1)
    model = models.build(spec, (13,), 3)
    assert model(torch.zeros(2, 13)).shape == (2, 3)
    text = models.script(spec, (13,), 3)
    assert text is not None
    torch.manual_seed(1)
    twin = eval(text, {"nn": nn, "runpy": runpy})
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


def test_factory_in_a_module() -> None:
    model = models.build("torch.nn:Identity", (3,), 2)
    assert isinstance(model, nn.Identity)
    text = models.script("torch.nn:Identity", (3,), 2)
    assert text is not None
    assert str(eval(text, {"importlib": importlib})) == "Identity()"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("three", r"needs the arguments a, b, c; let it take \(input_shape, outputs\), or none"),
        ("raises", r"can't be built: RuntimeError in line \d+ of own.py: no weights"),
        ("word", "gives str, not a torch.nn.Module"),
        ("number", "is int, not a module"),
        ("tree", "did you mean 'three'"),
    ],
)
def test_own_factories_that_give_no_model(own: str, name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        models.build(f"{own}:{name}", (13,), 3)


def test_module_is_copied_and_drawn_anew(own: str) -> None:
    module: Any = runpy.run_path(own)["made"]
    before = module.layer.weight.clone()
    make = models.factory(module)
    torch.manual_seed(1)
    one = make((13,), 3)
    torch.manual_seed(1)
    two = make((13,), 3)
    three = make((13,), 3)
    assert torch.equal(module.layer.weight, before)
    assert torch.equal(one.layer.weight, two.layer.weight)
    assert not torch.equal(one.layer.weight, three.layer.weight)
    assert not torch.equal(one.layer.weight, before)
    assert one.scale == 2
    assert one.scale is not module.scale
    assert models.script(module, (13,), 3) is None


def test_check_leaves_everything_as_it_was(wine: Prepared) -> None:
    model = nn.Sequential(nn.BatchNorm1d(13), nn.Dropout(0.5), nn.Linear(13, 3))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models.check(model, wine, objectives.loss(None, wine.task))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Breaks", r"raises on a batch of shape \(8, 13\): AttributeError.*own.py.*'nothing'"),
        ("Frozen", "has no trainable parameters"),
        ("Detached", "doesn't depend on the model's parameters"),
        ("Flat", r"gives shape \(8,\) for 8 examples, but 3 classes need \(8, 3\)"),
        ("Wide", r"gives shape \(8, 4\) for 8 examples, but 3 classes need \(8, 3\)"),
        ("NoWayBack", "raises on the way backward: ValueError.*not differentiable"),
    ],
)
def test_models_that_do_not_fit(own: str, wine: Prepared, name: str, says: str) -> None:
    model = models.build(f"{own}:{name}", wine.input_shape, wine.outputs)
    with pytest.raises(ModelError, match=says):
        models.check(model, wine, objectives.loss(None, wine.task))


def test_losses_and_metrics_that_do_not_fit(wine: Prepared) -> None:
    model = models.build("linear", (13,), 3)
    for function, says in (
        (lambda outputs, targets: outputs, r"gives shape \(8, 3\), but training needs a scalar"),
        (lambda outputs, targets: 3.0, "gives float"),
        (
            lambda outputs, targets: outputs @ targets,
            r"raises on outputs of shape \(8, 3\) and targets of shape",
        ),
    ):
        with pytest.raises(ModelError, match=says):
            models.check(model, wine, objectives.loss(function, wine.task))
    loss = objectives.loss(None, wine.task)
    for metric, says in (
        (lambda outputs, targets: 1 / 0, "raises: ZeroDivisionError"),
        (lambda outputs, targets: "x", "gave str, not a number"),
    ):
        with pytest.raises(OptionError, match=says):
            models.check(model, wine, loss, objectives.metric(metric, wine.task))


def test_one_logit_needs_bce() -> None:
    prepared = data.prepare(data.load("breast-cancer"), seed=0, replicate=0)
    model = nn.Linear(30, 1)
    with pytest.raises(ModelError, match=r"for one logit choose the loss 'bce'"):
        models.check(model, prepared, objectives.loss(None, prepared.task))
    models.check(model, prepared, objectives.loss("bce", prepared.task))


def test_regression_needs_one_number() -> None:
    prepared = data.prepare(data.load("diabetes"), seed=0, replicate=0)
    loss = objectives.loss(None, prepared.task)
    models.check(models.build("mlp:4", (10,), 1), prepared, loss)
    with pytest.raises(ModelError, match=r"a number for each example needs \(8, 1\)"):
        models.check(nn.Linear(10, 2), prepared, loss)


def test_sequences_and_a_model_of_ones_own() -> None:
    items = [(torch.arange(6), torch.arange(6) % 3) for _ in range(20)]
    source = data.load(items, collate=torch.utils.data.default_collate)
    prepared = data.prepare(source, seed=0, replicate=0)
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 3))
    models.check(
        model,
        prepared,
        objectives.loss(lambda o, t: nn.functional.cross_entropy(o.transpose(1, 2), t), prepared.task),
    )


def test_descriptions() -> None:
    assert set(models.names()) == set(models.describe())
    assert models.default((64,)) == "mlp:64"
    with pytest.raises(ModelError, match=r"give your own"):
        models.default(())
    assert Task(kind="custom").classes == ()
