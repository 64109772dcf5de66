"""What is said beneath a cause: units that are copies, cliffs, the first predictions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.diagnosis.cases import facts, inputs, net, numbers, setup, three_classes
from torch import Tensor, nn

from thalweg.diagnosis.facts import gather
from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.mechanisms import mechanisms
from thalweg.diagnosis.output_bias import output_bias
from thalweg.diagnosis.signals import signal_of, suspect_signals
from thalweg.diagnosis.trial import TrialRun

X = inputs()
THREE, Y = three_classes(X), numbers(X)


def said(known: Any, base: TrialRun | None = None) -> dict[str, Finding]:
    run = TrialRun() if base is None else base
    return {each.code: each for each in mechanisms(known, run, signal_of(known))}


# Units that are copies --------------------------------------------------------------------------------------


def half_copied() -> nn.Sequential:
    model = net(3)
    with torch.no_grad():
        for part in (model[0].weight, model[0].bias):
            part[8:] = part[:8]
        model[2].weight[:, 8:] = model[2].weight[:, :8]
    return model


def test_copied_units_are_counted_and_stay_copies() -> None:
    known = facts(half_copied(), (X, THREE), nn.CrossEntropyLoss())
    found = said(known)["symmetric-units"]
    assert "16 of 16 of 0.weight" in found.evidence[0]
    assert found.severity == "advice"
    # the proof of what is said: they are equal after a training
    model, optimizer = known.setup.start(0)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), THREE).backward()
        optimizer.step()
    weight: Tensor = model.get_parameter("0.weight")
    torch.testing.assert_close(weight[8:], weight[:8])
    assert found.remedy is not None
    mended = gather(found.remedy.apply(known.setup), seed=0)
    assert "symmetric-units" not in said(mended)


class Branch(nn.Module):
    """A way around a layer whose weights begin at zero, so that it begins as the identity."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.inner, self.outer, self.last = (
            nn.Linear(4, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8, bias=False),
            nn.Linear(8, 3),
        )
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        found: Tensor = self.last(x + self.outer(torch.relu(self.inner(x))))
        return found


@pytest.mark.parametrize("make", [lambda: net(3), Branch])
def test_units_that_will_differ_are_no_copies(make: Any) -> None:
    """The branch's rows are all zero, and each gets a gradient of its own."""
    known = facts(make(), (X, THREE), nn.CrossEntropyLoss())
    assert "symmetric-units" not in said(known)
    assert not any(each.certain for each in suspect_signals(known, signal_of(known)))


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_units_of_recurrent_layers(kind: Any) -> None:
    """Gates that begin equal are no copies of each other; units of one gate are."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = kind(4, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.last(self.inner(x)[0][:, -1])
            return found

    torch.manual_seed(0)
    model = Model()
    x = X[:, None, :].expand(-1, 5, -1).contiguous()
    assert "symmetric-units" not in said(facts(model, (x, THREE), nn.CrossEntropyLoss()))
    for p in model.inner.parameters():
        nn.init.constant_(p, 0.1)
    nn.init.constant_(model.last.weight[0], 0.3)
    for row in model.last.weight:
        nn.init.constant_(row, float(row.detach().mean()))
    found = said(facts(model, (x, THREE), nn.CrossEntropyLoss()))["symmetric-units"]
    count = len(model.inner.weight_ih_l0)
    assert f"{count} of {count} of inner.weight_ih_l0" in found.evidence[0]


# Cliffs -----------------------------------------------------------------------------------------------------


def run(norms: list[float], losses: list[float]) -> TrialRun:
    return TrialRun(norms=norms, losses=losses, steps=len(losses), planned=len(losses))


def test_a_cliff_is_a_gradient_far_above_others_and_a_loss_that_is_worse_behind_it() -> None:
    known = facts(net(3), (X, THREE), nn.CrossEntropyLoss())
    norms = [1 + 0.01 * k for k in range(40)]
    losses = [2 - 0.03 * k for k in range(40)]
    spike, fallen = [*norms], [*losses]
    spike[25] = 500.0
    fallen[26:] = [9.0] * 14
    found = said(known, run(spike, fallen))["cliff"]
    assert "at step 25" in found.evidence[0]
    assert found.remedy is not None
    clip = found.remedy.apply(known.setup).clip
    # nine tenths of the 25 norms before it lie below the 23rd
    assert clip == pytest.approx(norms[22])
    for harmless in (
        # a spike that does no harm
        run(spike, losses),
        # a loss that grows without one
        run(norms, fallen),
        # large first gradients
        run([500.0, *norms[1:]], fallen),
    ):
        assert "cliff" not in said(known, harmless)


def test_a_loss_that_is_never_finite_has_no_exploding_gradient() -> None:
    known = facts(net(3), (X, THREE), nn.CrossEntropyLoss())
    broken = TrialRun(norms=[0.8, math.nan], losses=[1.0, math.nan], failed="the loss became nan at step 1")
    assert list(said(known, broken)) == ["nonfinite-loss"]
    exploded = TrialRun(norms=[1.0, 1.0, 300.0, math.inf], losses=[1.0] * 4, failed="the loss became inf")
    assert "exploding-gradient" in said(known, exploded)


# The first predictions --------------------------------------------------------------------------------------

RARE = (torch.arange(240) % 40 == 0).long()


@pytest.mark.parametrize(
    ("outputs", "targets", "loss", "end"),
    [
        (2, RARE, nn.CrossEntropyLoss(), ()),
        (1, RARE[:, None].float(), nn.BCEWithLogitsLoss(), ()),
        (1, RARE[:, None].float(), nn.BCELoss(), (nn.Sigmoid(),)),
        (1, Y / 3 + 4, nn.MSELoss(), ()),
    ],
)
def test_first_predictions_far_from_the_mean_are_told_and_mended(
    outputs: int, targets: Tensor, loss: nn.Module, end: tuple[nn.Module, ...]
) -> None:
    known = facts(net(outputs, *end), (X, targets), loss, batch_size=240)
    (found,) = output_bias(known)
    assert (found.code, found.severity) == ("output-bias", "advice")
    assert found.remedy is not None
    mended = gather(found.remedy.apply(known.setup), seed=0)
    # near the loss of the best constant prediction
    share = targets.double().mean()
    still = (
        float(torch.special.entr(share) + torch.special.entr(1 - share))
        if "MSE" not in type(loss).__name__
        else float(targets.double().var(correction=0))
    )
    assert mended.loss == pytest.approx(still, rel=0.25)
    assert known.loss > 2 * still
    assert not list(output_bias(mended))


@pytest.mark.parametrize(
    ("outputs", "targets", "loss"),
    [
        (3, THREE, nn.CrossEntropyLoss()),
        (1, Y, nn.MSELoss()),
        (2, (X[:, 0] > 0.4).long(), nn.CrossEntropyLoss()),
        # a loss of one's own says nothing of what outputs mean
        (1, Y + 100, lambda o, t: (o - t).square().mean()),
    ],
)
def test_first_predictions_near_enough_are_left_alone(outputs: int, targets: Tensor, loss: Any) -> None:
    assert not list(output_bias(gather(setup(net(outputs), (X, targets), loss), seed=0)))
