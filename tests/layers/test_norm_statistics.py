"""Batch norm's statistics, estimated anew: the whole data set's, whatever the batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from thalweg.errors import DataError, ModelError
from thalweg.layers.norm import BatchNorm
from thalweg.layers.norm_statistics import estimate_batch_norm

X = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 2


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(4, 6), BatchNorm(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 5), nn.BatchNorm1d(5)
    ).double()


@pytest.mark.parametrize("sizes", [[50], [20, 20, 10], [49, 1], [7] * 7 + [1]])
def test_the_first_layers_statistics_are_those_of_all_examples(sizes: list[int]) -> None:
    model = net()
    before = model[1].num_batches_tracked.clone()
    assert estimate_batch_norm(model, X.split(sizes)) == 2
    h = model[0](X).detach()
    torch.testing.assert_close(model[1].running_mean, h.mean(0))
    torch.testing.assert_close(model[1].running_var, h.var(0, correction=0))
    assert torch.equal(model[1].num_batches_tracked, before)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_one_batch_gives_what_torch_gives() -> None:
    ours, torchs = net(), net()
    for model in (ours, torchs):
        model[1] = nn.BatchNorm1d(6).double()
        model[3] = nn.Identity()
    estimate_batch_norm(ours, [(X, "targets")])
    update_bn([(X, "targets")], torchs)
    for index in (1, 5):
        torch.testing.assert_close(ours[index].running_mean, torchs[index].running_mean)
        torch.testing.assert_close(ours[index].running_var, torchs[index].running_var)


def test_feature_maps_axes_and_a_forward_of_ones_own() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps, self.rows, self.unused = nn.BatchNorm2d(3), BatchNorm(4, axis=-1), nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.rows(self.maps(x))
            return out

    model = Two().eval()
    x = torch.randn(6, 3, 5, 4)
    seen = []

    def forward(batch: dict[str, Tensor]) -> None:
        seen.append(1)
        model(batch["x"])

    assert estimate_batch_norm(model, [{"x": x[:4]}, {"x": x[4:]}], forward=forward) == 2
    assert len(seen) == 2
    torch.testing.assert_close(model.maps.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(model.maps.running_var, x.var((0, 2, 3)))
    assert model.unused.running_mean.tolist() == [0.0, 0.0]
    assert not model.training


def test_nothing_to_estimate_and_nothing_to_estimate_from() -> None:
    assert estimate_batch_norm(nn.Linear(2, 2), iter([1 / 1])) == 0
    model = net()
    model[1].running_mean.fill_(7.0)
    with pytest.raises(DataError, match="there are no batches"):
        estimate_batch_norm(model, [])
    with pytest.raises(ModelError, match="can't take inputs of shape"):
        estimate_batch_norm(model, [X, X[:, :2]])
    assert model[1].running_mean.tolist() == [7.0] * 6  # as before
    assert model.training


@pytest.mark.parametrize("sizes", [[50], [30, 20], [30, 19, 1], [1, 49]])
def test_shares_of_several_processes_give_the_statistics_of_all_examples(sizes: list[int]) -> None:
    """A share of a single example counts too."""
    sent: list[Tensor] = []

    def alone(mine: Tensor) -> list[Tensor]:
        sent.append(mine)
        return [mine]

    shares = X.split(sizes)
    for share in shares:
        estimate_batch_norm(nn.Sequential(BatchNorm(4)).double(), [share], gather=alone)
    model = nn.Sequential(BatchNorm(4)).double()
    assert estimate_batch_norm(model, [shares[0]], gather=lambda mine: sent) == 1
    torch.testing.assert_close(model[0].running_mean, X.mean(0))
    torch.testing.assert_close(model[0].running_var, X.var(0, correction=0))
