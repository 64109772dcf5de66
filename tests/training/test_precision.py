"""Half precision with scaled gradients in one process, and what doesn't go with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from thalweg import recipe
from thalweg.errors import OptionError, RecipeError
from thalweg.strategies import Averaging, Clipping
from thalweg.training import OneProcess

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def steep(outputs: Tensor, targets: Tensor) -> Tensor:
    return 100 * nn.functional.cross_entropy(outputs, targets)


def test_a_step_that_overflows_is_left_out_and_no_point_of_an_average() -> None:
    backend, averaging = OneProcess(precision="float16"), Averaging(kind="uniform")
    fitted = thalweg.fit(
        network(), (X, Y), steep, "sgd", "constant", [averaging], steps=12, batch_size=16, backend=backend,
        hyperparameters={"lr": 1e-3},
    )  # fmt: skip
    # 2**16 times these gradients is over 65504, some halvings less isn't
    scale = backend.save(fitted.model, torch.optim.SGD(fitted.model.parameters()))["scaler"]["scale"]
    left_out = 16 - torch.tensor(scale).log2().item()
    assert 0 < left_out < 8
    assert averaging.state_dict()["average"]["count"] == 12 - left_out
    assert all(value.isfinite().all() for value in fitted.model.state_dict().values())


def test_clipping_sees_gradients_without_their_scale() -> None:
    seen: list[float] = []

    class Looking(Clipping):
        def clip(self, parameters: Any) -> None:
            held = list(parameters)
            seen.append(float(torch.cat([p.grad.flatten() for p in held]).norm()))
            super().clip(held)

    for precision in ("float32", "float16"):
        seen_before = len(seen)
        thalweg.fit(
            network(), (X, Y), "cross-entropy", "sgd", strategies=[Looking(norm=1e-3)], steps=3,
            batch_size=16, precision=precision, hyperparameters={"lr": 1e-3},
        )  # fmt: skip
        assert len(seen) == seen_before + 3
    torch.testing.assert_close(torch.tensor(seen[:3]), torch.tensor(seen[3:]), rtol=1e-2, atol=1e-3)


def test_resumed_it_goes_on_with_its_scale(tmp_path: Path) -> None:
    def train(out: Path | None, steps: int, resume: bool = False) -> dict[str, Tensor]:
        fitted = thalweg.fit(
            network(), (X, Y), steep, "adam", epochs=None, steps=steps, batch_size=16, precision="float16",
            out=out, resume=resume, hyperparameters={"lr": 1e-3},
        )  # fmt: skip
        return fitted.model.state_dict()

    first = train(tmp_path / "out", 9)
    again = train(tmp_path / "out", 9, resume=True)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_gradient_scaling_with_a_closure_is_refused() -> None:
    with pytest.raises(OptionError, match="LBFGS calls a closure, in which no one scale fits"):
        thalweg.fit(network(), (X, Y), "cross-entropy", "lbfgs", steps=1, precision="float16")
    text = """
    data.spec = "nowhere.csv"
    model.spec = "linear"
    optimizer.name = "lbfgs"
    [training]
    batch_size = 8
    epochs = 1
    precision = "float16"
    """
    with pytest.raises(RecipeError, match=r"line 8, column 5: float16 needs gradient scaling.*closure"):
        recipe.loads(text)
