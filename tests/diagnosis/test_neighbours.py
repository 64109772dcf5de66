"""What can be told of targets before anything is trained: columns in another order, and symbols."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.linear_model import Ridge
from tests.diagnosis.cases import setup
from torch import Tensor, nn

from thalweg.diagnosis.data_checks import suspect_data
from thalweg.diagnosis.facts import Facts, gather
from thalweg.diagnosis.neighbours import _by_counts, _counts, learnable, moved_columns
from thalweg.diagnosis.signals import signal_of
from thalweg.diagnosis.skill import Judge
from thalweg.diagnosis.structure import suspect_structure

WINE = load_wine()
ORDER = torch.randperm(178, generator=torch.Generator().manual_seed(0))
X = torch.as_tensor(WINE.data, dtype=torch.float32)[ORDER]
X = (X - X.mean(0)) / X.std(0)
Y = torch.as_tensor(WINE.target)[ORDER]
MOVED = torch.randperm(13, generator=torch.Generator().manual_seed(5))


def wine(x: Tensor, y: Tensor) -> Facts:
    model = nn.Linear(13, 3)
    return gather(setup(model, (X[:110], Y[:110]), nn.CrossEntropyLoss(), validation=(x, y)), seed=0)


def test_columns_in_another_order_are_told_and_brought_back() -> None:
    known = wine(X[110:, MOVED], Y[110:])
    told = learnable(known)
    (found,) = [s for s in suspect_data(known, told) if s.code == "split-mismatch"]
    assert found.certain
    assert "another order" in found.title
    assert found.remedy is not None
    mended = found.remedy.apply(known.setup).validation
    assert mended is not None
    # most of them; two columns that go with the others alike may be taken for each other
    right = (mended[0] == X[110:]).all(0)
    assert int(right.sum()) >= 9


@pytest.mark.parametrize("seed", range(4))
def test_other_rows_are_no_other_order(seed: int) -> None:
    rows = torch.randperm(178, generator=torch.Generator().manual_seed(seed))
    one, other = (X[part].double() for part in (rows[:110], rows[110:]))
    assert moved_columns(*((p - p.mean(0)) / p.std(0) for p in (one, other))) == ()


def test_columns_that_nothing_tells_apart_have_no_order() -> None:
    x, y = (
        torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (200, 90)
    )
    assert moved_columns(x, y[:, [1, 0, 2, 4, 3, 5]]) == ()


def sentences(count: int = 600) -> tuple[Tensor, Tensor]:
    x = torch.randint(30, (count, 16), generator=torch.Generator().manual_seed(0))
    worth = torch.zeros(30)
    worth[:6], worth[6:12] = 1.0, -1.0
    return x, (worth[x].sum(1) > 0).long()


def test_a_rule_of_counts_is_that_of_ridge_regression_without_the_example_itself() -> None:
    x, y = sentences(60)
    counts = _counts(x)(x)
    counts = counts - counts.mean(0)
    judge = Judge(kind="numbers")
    targets = y.double()[:, None] + counts[:, :1]
    exact = []
    for row in range(60):
        others = torch.arange(60) != row
        mean = targets.mean()
        rule = Ridge(alpha=0.05 * 60, fit_intercept=False).fit(counts[others], (targets - mean)[others])
        exact.append(float(rule.predict(counts[row : row + 1]).item() + mean))
    found = _by_counts(counts, targets, counts, targets, judge, same=True)
    assert found == pytest.approx(judge(torch.tensor(exact)[:, None].double(), targets), abs=1e-6)


class Words(nn.Module):
    def __init__(self, hidden: int = 16, layers: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.look = nn.Embedding(30, 8)
        self.inner = nn.GRU(8, hidden, batch_first=True)
        self.more = nn.ModuleList(nn.LSTM(hidden, hidden, batch_first=True) for _ in range(layers - 1))
        self.last = nn.Linear(hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        states = self.inner(self.look(x))[0]
        for layer in self.more:
            states = layer(states)[0]
        found: Tensor = self.last(states[:, -1])
        return found


def test_damaged_labels_of_words_are_told() -> None:
    x, y = sentences()
    wrong = y[:400][torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    for targets, said in ((wrong, True), (y[:400], False)):
        known = gather(
            setup(Words(), (x[:400], targets), nn.CrossEntropyLoss(), validation=(x[400:], y[400:])), seed=0
        )
        found = [s for s in suspect_data(known, learnable(known)) if s.code in ("labels", "split-mismatch")]
        assert [s.code for s in found] == (["labels"] if said else [])
        if said:
            assert "counts of symbols" in found[0].evidence[0]


@pytest.mark.parametrize("layers", [1, 2])
def test_narrow_recurrent_layers_are_widened(layers: int) -> None:
    x, y = sentences(100)
    known = gather(setup(Words(1, layers), (x, y), nn.CrossEntropyLoss()), seed=0)
    (found,) = [s for s in suspect_structure(known, signal_of(known)) if s.code == "capacity"]
    assert found.remedy is not None
    model = found.remedy.apply(known.setup).model()
    assert [p.hidden_size for p in model.modules() if isinstance(p, nn.RNNBase)] == [64] * layers
    assert model(x).shape == (100, 2)
    # what was given stays
    assert known.model.get_submodule("inner").hidden_size == 1
