"""Greedy supervised pretraining against loops written by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thalweg
from stages.nets import Functional, ResNet, VisionTransformer, mlp
from stages.twins import batches, descend
from thalweg.errors import ModelError, OptionError
from thalweg.stages import Prefixed, Upto, find_blocks, greedy, head_for, join_raw_input
from thalweg.stages.raw_input import WithRawInput

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(30, 4, dtype=torch.float64, generator=GENERATOR)
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0.5).long()
IMAGES = torch.randn(12, 1, 8, 8, generator=GENERATOR)
LABELS = torch.arange(12) % 3


class Heads:
    """Makes heads with known weights, and keeps them."""

    def __init__(self) -> None:
        self.made: list[nn.Module] = []

    def __call__(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        head = head_for(shape, outputs).double()
        with torch.no_grad():
            head[-1].weight.copy_(
                torch.linspace(-1, 1, head[-1].weight.numel()).reshape(head[-1].weight.shape)
            )
            head[-1].bias.zero_()
        self.made.append(head)
        return head


def by_hand(net: nn.Sequential, heads: Heads, steps: int, size: int, lr: float, joint: int) -> None:
    """Two blocks of layer and activation, the second with the net's own head, then all."""
    head = heads((6,), 3)
    for rows in batches(30, "greedy 1", steps, size):
        x, y = X[rows], Y[rows]
        descend(
            [net[0].weight, net[0].bias, head[-1].weight, head[-1].bias],
            lambda x=x, y=y: F.cross_entropy(head(torch.tanh(net[0](x))), y), lr,
        )  # fmt: skip
    for rows in batches(30, "greedy 2", steps, size):
        x, y = torch.tanh(net[0](X[rows])).detach(), Y[rows]
        descend(
            [net[2].weight, net[2].bias, net[4].weight, net[4].bias],
            lambda x=x, y=y: F.cross_entropy(net[4](torch.tanh(net[2](x))), y), lr,
        )  # fmt: skip
    for rows in batches(30, "greedy joint", joint, size):
        descend(list(net.parameters()), lambda rows=rows: F.cross_entropy(net(X[rows]), Y[rows]), lr)


@pytest.mark.parametrize("form", ["modules", "functions"])
def test_step_by_step_as_by_hand(form: str) -> None:
    torch.manual_seed(1)
    net = mlp(4, 6, 6, 3, activation=nn.Tanh).double()
    model: nn.Module = copy.deepcopy(net)
    if form == "functions":
        model = Functional((4, 6, 6, 3)).double()
        model.load_state_dict(
            {f"layers.{int(name[0]) // 2}{name[1:]}": value for name, value in net.state_dict().items()}
        )
    stages = greedy(model, X[:5], steps=4, joint=3, make_head=Heads())
    assert [stage.name for stage in stages] == ["greedy 1", "greedy 2", "greedy joint"]
    thalweg.fit(
        model, (X, Y), "cross-entropy", "sgd", hyperparameters={"lr": 0.3}, batch_size=7, stages=stages,
    )  # fmt: skip
    by_hand(net, Heads(), 4, 7, 0.3, 3)
    for one, other in zip(model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def kept_after(model: nn.Module, stages: Any, count: int, data: Any) -> dict[str, Tensor]:
    """The state after the first stages."""
    thalweg.fit(model, data, "cross-entropy", "adamw", batch_size=6, stages=stages[:count])
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("kind", [ResNet, VisionTransformer])
def test_earlier_blocks_stay_to_the_bit_and_later_ones_as_drawn(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind()
    stages = greedy(model, IMAGES, steps=1, joint=False)
    chain = find_blocks(model, IMAGES)
    before = copy.deepcopy(model.state_dict())
    for number, stage in enumerate(stages):
        # what is the stage's own comes and goes
        after = kept_after(model, [stage], 1, (IMAGES, LABELS))
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        names = (*chain.blocks[number].trains, *(chain.head.trains if number == len(stages) - 1 else ()))
        mine = {name for name in after for own in names if name == own or name.startswith(f"{own}.")}
        assert changed <= mine
        assert {name.partition(".num")[0] for name in mine if name.endswith("weight")} <= changed
        before = after
    assert list(before) == list(kind().state_dict())


def test_what_a_stage_trains_is_the_block_on_what_may_be_computed_once() -> None:
    model = ResNet()
    built = [stage.build(model) for stage in greedy(model, IMAGES, joint=False)]  # type: ignore[misc]
    assert [type(each) for each in built[1:]] == [Prefixed] * 3
    with torch.no_grad():
        model.eval()
        z = built[-1].prefix(IMAGES)
        assert torch.equal(built[-1].rest(z), model(IMAGES))
    # where more happens between blocks, up to the next one
    transformer = VisionTransformer()
    first = greedy(transformer, IMAGES)[0].build(transformer)  # type: ignore[misc]
    assert isinstance(first.body, Upto)


def test_a_new_head_leaves_that_of_the_model_as_drawn() -> None:
    model = mlp(4, 6, 6, 3).double()
    state = copy.deepcopy(model[4].state_dict())
    stages = greedy(model, X[:5], steps=2, head="new")
    thalweg.fit(model, (X, Y), "cross-entropy", "sgd", stages=stages[:-1], batch_size=8)
    assert all(torch.equal(value, state[name]) for name, value in model[4].state_dict().items())
    assert stages[-1].trains is None


def test_one_number_that_is_no_row_too() -> None:
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(4, 5, 5, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)[:, 0]

    thalweg.fit(
        Squeezed(), (X, X.sum(1)), "mse", "sgd", stages=greedy(Squeezed(), X[:4], steps=1), batch_size=8
    )


# With the raw input -------------------------------------------------------------------------------------


def test_the_raw_input_is_joined_to_what_a_block_is_given() -> None:
    torch.manual_seed(0)
    model = mlp(4, 6, 5, 3, activation=nn.Tanh).double()
    plain = copy.deepcopy(model)
    assert join_raw_input(model, X[:5]) == ("0", "2")
    extra = model[2].extra[-1].weight
    h = torch.tanh(plain[0](X))
    # as a layer that is given both beside each other
    both = F.linear(
        torch.cat([h, X], 1), torch.cat([plain[2].weight, plain[2].weight @ extra], 1), plain[2].bias
    )
    torch.testing.assert_close(model(X), plain[4](torch.tanh(both)), rtol=1e-12, atol=1e-12)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].extra[-1].weight.zero_()
    assert torch.equal(other(X), plain(X))
    assert not torch.equal(other(X), model(X))
    assert join_raw_input(model, X[:5]) == ("0", "2")
    assert sum(isinstance(part, WithRawInput) for part in model.modules()) == 1


@pytest.mark.parametrize("kind", [ResNet, VisionTransformer, lambda: mlp(64, 6, 6, 3)])
def test_greedy_with_the_raw_input_trains_the_maps_and_freezes_them(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind()
    inputs = IMAGES if not isinstance(model, nn.Sequential) else IMAGES.flatten(1)
    stages = greedy(model, inputs, steps=1, raw_input=True, joint=1)
    maps = [name for name, _ in model.named_parameters() if ".extra." in name]
    first = kept_after(model, [stages[0]], 1, (inputs, LABELS))
    second = kept_after(model, [stages[1]], 1, (inputs, LABELS))
    changed = [name for name in maps if not torch.equal(first[name], second[name])]
    assert changed == maps[:1]
    thalweg.fit(model, (inputs, LABELS), "cross-entropy", "adam", stages=stages[2:], batch_size=6)
    with pytest.raises(ModelError, match="only be run as a part of its model"):
        next(part for part in model.modules() if isinstance(part, WithRawInput))(torch.zeros(1))


# Bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"head": "old"}, OptionError, "head is 'old', but must be keep or new"),
        ({"joint": 0}, OptionError, "joint is 0, but must be a whole number of at least 1"),
        ({"blocks": ["5"]}, OptionError, "no part '5' in the model"),
        ({"outputs": 0}, OptionError, "asked for 0 outputs"),
        ({"epochs": 1, "steps": 1}, OptionError, "both given"),
        ({"make_head": lambda shape, outputs: None}, OptionError, "make_head gives NoneType"),
    ],
)
def test_bad_input_gets_a_sentence(given: dict[str, Any], error: type[Exception], said: str) -> None:
    model = mlp(4, 6, 6, 3).double()
    with pytest.raises(error, match=said):
        thalweg.fit(model, (X, Y), "cross-entropy", "sgd", stages=greedy(model, X[:4], **given), epochs=1)
    with pytest.raises(ModelError, match="no chain of blocks"):
        greedy(nn.Linear(4, 2).double(), X[:4])
