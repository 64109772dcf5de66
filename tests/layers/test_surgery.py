"""Parts put into models by name: order, the same for every build, and what is refused."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter

import pytest
import torch
from torch import nn

from thalweg.errors import ModelError
from thalweg.layers import BatchNorm, Maxout, Skip, StochasticDepth, models, set_stochastic_depth
from thalweg.layers.surgery import ModelParts, insert_parts, with_parts
from thalweg.randomness.keyed import Keyed, RunDraws
from thalweg.run.problem import initial_module

ALL = ModelParts(batch_norm=True, dropout=0.3, maxout=2, skip=True, stochastic_depth=0.2)


class Own(nn.Module):
    """A person's own, whose activations are functions."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(4, 8), nn.Linear(8, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.upper(torch.relu(self.lower(x)))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.top = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.top(torch.relu(self.table(x).mean(1)))


def test_nothing_is_nothing() -> None:
    factory = models.factory("mlp:4")
    assert with_parts(factory, ModelParts()) is factory
    assert not ModelParts(dropout=0.0, maxout=1).given()


def test_every_build_is_alike_and_another_process_can_make_it() -> None:
    factory = with_parts(models.factory("cnn:4,4,8"), ALL)
    again = pickle.loads(pickle.dumps(factory))
    one, two = (initial_module(each, (1, 8, 8), 10, 5) for each in (factory, again))
    assert str(one) == str(two)
    for (name, a), (other, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    # no convolution under batch norm has a bias that the mean would take away
    assert all(each.bias is None for each in one.modules() if isinstance(each, nn.Conv2d))


def test_an_own_model_is_seen_on_zeros() -> None:
    model = insert_parts(Own(), ModelParts(batch_norm=True, dropout=0.2), input_shape=(4,))
    found = [type(each).__name__ for each in model.modules() if not list(each.children())]
    assert found == ["Linear", "BatchNorm", "Dropout", "Linear"]
    x = torch.randn(50, 4)
    lower = model.lower(x)
    torch.testing.assert_close(lower.mean(0), torch.zeros(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model", "parts", "words"),
    [
        (Own, ModelParts(maxout=2), r"model\.maxout can't be had: no layer and activation"),
        (Own, ModelParts(batch_norm=True), r"model\.batch_norm can't be had: no layer was found"),
        (lambda: nn.Sequential(nn.Linear(4, 2)), ModelParts(dropout=0.5), r"model\.dropout can't be had"),
        (Own, ModelParts(skip=True), r"model\.skip can't be had: no layer with its activation"),
        (
            Own,
            ModelParts(stochastic_depth=0.1),
            r"model\.stochastic_depth can't be had: there are no",
        ),
    ],
)
def test_what_has_no_place(model, parts, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match=words):
        insert_parts(model(), parts)


def test_a_model_that_takes_no_zeros() -> None:
    with pytest.raises(ModelError, match=r"batch_norm can't be had: the model raises on a batch of zeros"):
        insert_parts(Tokens(), ModelParts(batch_norm=True), input_shape=(6,))
    assert len(list(insert_parts(Tokens(), ModelParts(dropout=0.1)).modules())) == 5


def kinds(model: nn.Module) -> list[str]:
    return [type(each).__name__ for each in model.modules() if not list(each.children())]


def test_the_order_is_maxout_batch_norm_skip_dropout() -> None:
    model = insert_parts(models.build("mlp:6,6", (4,), 3), ALL)
    plain = ["Linear", "BatchNorm", "Maxout"]
    # dropout lies within the branch, what is added is the input as it came
    block = ["Dropout", *plain, "Identity", "StochasticDepth", "Identity"]
    assert kinds(model) == [*plain, *block, "Dropout", "Linear"]
    (skip,) = (each for each in model.modules() if isinstance(each, Skip))
    assert skip.drop is not None
    assert skip.drop.rate == 0.2


def test_an_equipped_model_is_what_its_formula_says() -> None:
    """At evaluation, in float64, block by block: x + (1 - p) f(x), p growing from block to block."""
    torch.manual_seed(1)
    model = insert_parts(models.build("mlp:6,6,6", (4,), 3), ALL).double()
    norms = [each for each in model.modules() if isinstance(each, BatchNorm)]
    layers = [each for each in model.modules() if isinstance(each, nn.Linear)]
    for norm in norms:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    assert any(isinstance(each, Maxout) for each in model.modules())
    h = x = torch.randn(7, 4, dtype=torch.float64)
    for number, (layer, norm) in enumerate(zip(layers[:-1], norms, strict=True)):
        a = (h @ layer.weight.T - norm.running_mean) / torch.sqrt(1e-8 + norm.running_var) + norm.bias
        f = torch.stack([a[:, 2 * unit : 2 * unit + 2].amax(1) for unit in range(6)], 1)
        h = f if number == 0 else h + (1 - 0.2 * number / 2) * f
    torch.testing.assert_close(model.eval()(x), h @ layers[-1].weight.T + layers[-1].bias)


def test_skips_alone_add_the_block_to_its_input() -> None:
    model = insert_parts(models.build("mlp:6,6", (4,), 3), ModelParts(skip=True))
    x = torch.randn(7, 4)
    h = torch.relu(model[0](x))
    h = h + torch.relu(model[2].body[0](h))
    for training in (True, False):
        assert torch.equal(model.train(training)(x), model[4](h))


def test_training_leaves_blocks_out_as_often_as_it_should() -> None:
    torch.manual_seed(2)
    rate, steps = 0.6, 2000
    model = insert_parts(
        models.build("mlp:5,5,5", (4,), 2), ModelParts(skip=True, stochastic_depth=rate)
    ).double()
    first, one, two, top = model[0], model[2].body[0], model[4].body[0], model[6]
    x = torch.randn(3, 4, dtype=torch.float64)
    outputs = {}
    for kept in itertools.product((0, 1), repeat=2):
        h = torch.relu(first(x))
        h = h + kept[0] * torch.relu(one(h))
        h = h + kept[1] * torch.relu(two(h))
        outputs[kept] = top(h)
    chance = {(a, b): (0.7 if a else 0.3) * (0.4 if b else 0.6) for a, b in outputs}
    draws, seen = RunDraws(3, torch.device("cpu")), Counter[tuple[int, ...]]()
    mean = torch.zeros(3, 2, dtype=torch.float64)
    with torch.no_grad():
        for draws.step in range(steps):
            with Keyed(draws):
                out = model(x)
            (kept,) = (pattern for pattern, expected in outputs.items() if torch.allclose(out, expected))
            seen[kept] += 1
            mean += out / steps
    for pattern, p in chance.items():
        assert abs(seen[pattern] / steps - p) < 5 * math.sqrt(p * (1 - p) / steps)
    expected = sum(chance[pattern] * outputs[pattern] for pattern in outputs)
    second = sum(chance[pattern] * outputs[pattern] ** 2 for pattern in outputs)
    assert bool(((mean - expected).abs() <= 5 * ((second - expected**2) / steps).sqrt()).all())
    # with one block and a linear top, evaluation is the mean of training
    single = insert_parts(models.build("mlp:5,5", (4,), 2), ModelParts(skip=True, stochastic_depth=rate))
    h = torch.relu(single[0](x.float()))
    both = [single[4](h), single[4](h + torch.relu(single[2].body[0](h)))]
    torch.testing.assert_close(single.eval()(x.float()), rate * both[0] + (1 - rate) * both[1])


class Residual(nn.Module):
    """A person's own, with a residual block of its own making."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.drop, self.top = nn.Linear(4, 4), StochasticDepth(0.0), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.top(x + self.drop(torch.relu(self.branch(x))))
        return out


def test_stochastic_depth_takes_the_blocks_that_a_model_has() -> None:
    assert insert_parts(Residual(), ModelParts(stochastic_depth=0.4)).drop.rate == 0.4
    model = nn.Sequential(Residual(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    insert_parts(model, ModelParts(skip=True, stochastic_depth=0.4))
    assert set_stochastic_depth(model, 0.4) == {"0.drop": 0.2, "1": 0.4}
