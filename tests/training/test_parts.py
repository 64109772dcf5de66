"""The parts of an accumulated batch draw random numbers of their own, and the same ones when asked again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from thalweg import optim
from thalweg.training.steps import split

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(24, 4, generator=GENERATOR)
Y = X.sum(1, keepdim=True)


class Noting(nn.Module):
    """Dropout that says what it keeps, in training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.kept = nn.Linear(4, 1), list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.functional.dropout(torch.ones_like(x), 0.5, self.training)
        if self.training:
            self.kept.append(mask)
        found: Tensor = self.layer(x * mask)
        return found


def drawn(parts: int, name: str, seed: int = 1) -> list[list[Tensor]]:
    """Three steps on batches of 8: the masks of each step's forward passes."""
    model, steps = Noting(), list[list[Tensor]]()
    optimizer: Any = {"sgd": optim.SGD, "lbfgs": optim.LBFGS}[name](model.parameters(), lr=0.1)

    def note(*_: Any) -> None:
        steps.append(list(model.kept))
        model.kept.clear()

    optimizer.register_step_post_hook(note)
    thalweg.fit(model, (X, Y), "mse", optimizer, steps=3, batch_size=8, accumulate=parts, seed=seed)
    return steps


@pytest.mark.parametrize("parts", [2, 4])
def test_no_two_parts_or_steps_draw_the_same(parts: int) -> None:
    masks = [mask for step in drawn(parts, "sgd") for mask in step]
    assert len(masks) == 3 * parts
    assert {len(mask) for mask in masks} == {8 // parts}
    for i, mask in enumerate(masks):
        assert not any(torch.equal(mask, other) for other in masks[:i])
    again = [mask for step in drawn(parts, "sgd") for mask in step]
    assert all(map(torch.equal, masks, again))
    other = [mask for step in drawn(parts, "sgd", seed=2) for mask in step]
    assert not any(map(torch.equal, masks, other))


def test_a_search_sees_the_same_function_again_in_every_part() -> None:
    parts = 2
    steps = drawn(parts, "lbfgs")
    assert len(steps) == 3
    for masks in steps:
        assert len(masks) > 2 * parts
        assert len(masks) % parts == 0
        for i, mask in enumerate(masks):
            assert torch.equal(mask, masks[i % parts])
        assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(steps[0][0], steps[1][0])


@pytest.mark.parametrize("parts", [3, 4, 1000, 10**15])
def test_a_batch_has_no_more_parts_than_examples(parts: int) -> None:
    batch = {"x": torch.arange(6).reshape(3, 2), "y": torch.arange(3)}
    found = split(batch, parts)
    assert [part["y"].tolist() for part in found] == [[0], [1], [2]]
    assert [part["x"].tolist() for part in found] == [[[0, 1]], [[2, 3]], [[4, 5]]]
