"""Snapshots, and the mean of several models' probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thalweg.averaging.ensembles import KeptSnapshots, averaged_probabilities
from thalweg.errors import OptionError


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_snapshots_predict_as_the_model_did_when_they_were_taken() -> None:
    model, x = net(), torch.randn(6, 3)
    snapshots, expected = KeptSnapshots(), []
    for step in (10, 20, 30):
        model.train()(torch.randn(8, 3))
        model[0].weight.data.add_(torch.randn(4, 3))
        snapshots.take(model, step=step)
        expected.append(model.eval()(x).detach().softmax(-1))
    model.train()
    held = {name: value.clone() for name, value in model.state_dict().items()}
    got = averaged_probabilities(snapshots.members(model), x)
    torch.testing.assert_close(got, torch.stack(expected).mean(0))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, held[name])
    again = KeptSnapshots()
    again.load_state_dict(snapshots.state_dict())
    assert again.steps == [10, 20, 30]
    assert torch.equal(averaged_probabilities(again.members(model), x), got)


def test_only_the_newest_are_kept() -> None:
    model = nn.Linear(1, 1)
    snapshots = KeptSnapshots(keep=2, device="cpu")
    for step in range(5):
        model.weight.data.fill_(float(step))
        snapshots.take(model, step=step)
    assert snapshots.steps == [3, 4]
    assert len(snapshots) == 2
    assert [float(state["weight"]) for state in snapshots.state_dict()["states"]] == [3.0, 4.0]
    with pytest.raises(OptionError, match="keep = 0"):
        KeptSnapshots(keep=0)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "identity"])
def test_probabilities_are_averaged_and_not_outputs(activation: str) -> None:
    models = [net().double() for _ in range(4)]
    x = torch.randn(5, 3, dtype=torch.float64)
    forward = {"softmax": lambda z: z.softmax(-1), "sigmoid": torch.sigmoid, "identity": lambda z: z}[
        activation
    ]
    expected = torch.stack([forward(model.eval()(x).detach()) for model in models]).mean(0)
    models[0].train()
    got = averaged_probabilities(models, x, activation=activation)
    torch.testing.assert_close(got, expected)
    assert models[0].training
    assert not got.requires_grad


def test_the_averaged_log_loss_is_never_worse_than_the_members_mean() -> None:
    """Jensen: minus the logarithm is convex."""
    generator = torch.Generator().manual_seed(0)
    outputs = [3 * torch.randn(200, 4, generator=generator) for _ in range(5)]
    targets = torch.randint(4, (200,), generator=generator)
    mean = averaged_probabilities([lambda _, z=z: z for z in outputs], torch.zeros(1))
    nll: list[Tensor] = [nn.functional.cross_entropy(z, targets) for z in outputs]
    assert float(nn.functional.nll_loss(mean.log(), targets)) < float(torch.stack(nll).mean())


def test_several_arguments_and_what_isnt_allowed() -> None:
    got = averaged_probabilities([nn.Bilinear(2, 2, 3)], (torch.ones(1, 2), torch.ones(1, 2)))
    torch.testing.assert_close(got.sum(), torch.tensor(1.0))
    with pytest.raises(OptionError, match="there are no members"):
        averaged_probabilities([], torch.zeros(1))
    with pytest.raises(OptionError, match="activation = 'relu'"):
        averaged_probabilities([nn.Linear(1, 1)], torch.zeros(1, 1), activation="relu")
