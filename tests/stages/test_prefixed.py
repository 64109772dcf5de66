"""A frozen part before what is trained, and heads that are made to fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.layers.interface import Interface
from thalweg.stages import Prefixed, head_for
from thalweg.stages.freezing import frozen

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def prefix() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))


@pytest.mark.parametrize("mode", [True, False])
def test_the_prefix_evaluates_and_has_no_gradient_whatever_the_mode(mode: bool) -> None:
    both = Prefixed(prefix(), nn.Linear(3, 2))
    both.train(mode)
    both.prefix[1].eval()
    modes = [part.training for part in both.modules()]
    y = both(X)
    y.sum().backward()
    expected = both.rest(prefix().eval()(X))
    assert torch.equal(y, expected)
    assert all(p.grad is None for p in both.prefix.parameters())
    assert both.rest.weight.grad is not None
    assert both.prefix[1].num_batches_tracked == 0
    assert [part.training for part in both.modules()] == modes


def test_within_freezing_too() -> None:
    both = Prefixed(prefix(), nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)))
    with frozen(both, trains=["rest"], of=both) as names:
        assert names == ["rest.0.weight", "rest.0.bias"]
        assert not any(part.training for part in both.prefix.modules())
        assert both.rest[1].training
    assert all(part.training for part in both.modules())


@pytest.mark.parametrize("form", ["tuple", "list", "dict"])
def test_what_the_prefix_gives_goes_on_by_its_form(form: str) -> None:
    class Gives(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {"tuple": (x, x + 1), "list": [x, x + 1], "dict": {"second": x + 1, "first": x}}[form]

    class Takes(nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return second - 2 * first

    torch.testing.assert_close(Prefixed(Gives(), Takes())(X), 1 - X)


def test_inputs_go_in_as_the_prefix_takes_them() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return x * scale

    both = Prefixed(Two(), nn.Linear(4, 2))
    scale = torch.tensor(2.0)
    with Interface().attached(both):
        assert torch.equal(both({"scale": scale, "x": X}), both.rest(X * 2))


@pytest.mark.parametrize(
    ("shape", "first", "rows"),
    [
        ((4,), None, lambda z: z),
        ((3, 4), None, lambda z: z.mean(1)),
        ((4, 3), True, lambda z: z.mean(2)),
        ((4, 3, 5), None, lambda z: z.mean((2, 3))),
        ((4, 3, 5, 2), None, lambda z: z.mean((2, 3, 4))),
        ((3, 5, 4), False, lambda z: z.mean((1, 2))),
    ],
)
def test_a_head_is_a_linear_layer_on_a_row_an_example(shape: Any, first: bool | None, rows: Any) -> None:
    head = head_for(shape, 2, channels_first=first, like=nn.Linear(1, 1).double())
    z = torch.randn(6, *shape, dtype=torch.float64)
    assert torch.equal(head(z), head[-1](rows(z)))
    assert head[-1].in_features == 4


def test_what_no_head_fits_gets_a_sentence() -> None:
    with pytest.raises(ModelError, match=r"features of shape \[\] an example"):
        head_for((), 2)
    with pytest.raises(OptionError, match="asked for 0 outputs"):
        head_for((3,), 0)
