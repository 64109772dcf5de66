"""Models with several inputs predict from files and from Python what they themselves give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import thalweg
from races import TINY
from thalweg import recipe
from thalweg.commands import app
from thalweg.errors import UserError
from thalweg.settings.plugins import load_object

OWN = """
import numpy as np
import torch
from torch import nn

rng = np.random.default_rng(0)
ids, size = rng.integers(0, 5, (90, 3)), rng.normal(size=90)
y = (ids.sum(1) + size > 6).astype(int)

def named():
    return {"ids": ids, "size": size, "y": y}

def in_order():
    return (ids, size), y

def within():
    return {"text": {"ids": ids}, "size": size, "label": y}

def numbers():
    return {"ids": ids, "size": size, "y": size + ids[:, 0]}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.drop = nn.Embedding(5, 4), nn.Dropout(0.3)
        self.last = nn.Linear(5, 2)

    def forward(self, ids, size):
        hidden = self.drop(self.words(ids).mean(1))
        return {"logits": self.last(torch.cat([hidden, size[:, None]], 1)), "hidden": hidden}

class Within(Net):
    def forward(self, text, size):
        return super().forward(text["ids"], size)["logits"]

class One(Net):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 1)
"""

RECIPE = """[data]
spec = "{file}:{data}"
[model]
spec = "{file}:{model}"
[optimizer]
name = "adam"
lr = 0.05
[training]
batch_size = 16
epochs = 3
evaluations = 1
{more}
"""
FORMS = [("named", "Net"), ("in_order", "Net"), ("within", "Within")]


def trained(folder: Path, data: str = "named", model: str = "Net", more: str = "") -> Path:
    file = folder / "own.py"
    file.write_text(OWN, encoding="utf-8")
    thalweg.train(
        recipe.loads(RECIPE.format(file=file, data=data, model=model, more=more)), out=folder / "out"
    )
    return folder / "out"


def fresh(rows: int = 7) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    return rng.integers(0, 5, (rows, 3)), rng.normal(size=rows)


def own_outputs(folder: Path, model: str, ids: Any, size: Any, weights: str = "weights") -> Tensor:
    """What the model itself gives, without any of thalweg's ways of calling it."""
    module: nn.Module = load_object(f"{folder / 'own.py'}:{model}", "model", UserError)()
    module.load_state_dict(safetensors.torch.load_file(folder / "out" / f"{weights}.safetensors"))
    module.eval()
    first = torch.tensor(ids)
    given: Any = {"ids": first} if model == "Within" else first
    with torch.no_grad():
        found = module(given, torch.tensor(size, dtype=torch.float32))
    return found["logits"] if isinstance(found, dict) else found


def arranged(data: str, ids: Any, size: Any) -> Any:
    return {
        "named": {"ids": ids, "size": size},
        "in_order": (ids, size),
        "within": {"text": {"ids": ids}, "size": size},
    }[data]


@pytest.mark.parametrize(("data", "model"), FORMS)
def test_from_python_and_from_the_command(
    data: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # more than a block of predictions
    out, (ids, size) = trained(tmp_path, data, model), fresh(1100)
    wanted = own_outputs(tmp_path, model, ids, size).softmax(1)
    found = thalweg.predict(out, arranged(data, ids, size))
    torch.testing.assert_close(torch.tensor(found.probabilities).float(), wanted, rtol=1e-5, atol=1e-6)
    assert found.values == [str(number) for number in wanted.argmax(1).tolist()]
    assert found.notes == []
    names = ("text.ids", "size") if data == "within" else ("ids", "size")
    np.savez(tmp_path / "new.npz", **dict(zip(names, (ids, size), strict=True)))
    file = tmp_path / "predictions.csv"
    assert app.run(["predict", str(out), "--data", str(tmp_path / "new.npz"), "--out", str(file)]) == 0
    assert capsys.readouterr().out == f"predictions: {file} (1100 rows)\n"
    table = pl.read_csv(file)
    torch.testing.assert_close(
        torch.tensor(table["probability 1"].to_numpy()).float(), wanted[:, 1], rtol=1e-5, atol=1e-6
    )


def test_an_ensemble_samples_and_snapshots(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    out, (ids, size) = trained(tmp_path / "a", more="[ensemble]\nmembers = 2\n"), fresh()
    each = [own_outputs(tmp_path / "a", "Net", ids, size, f"member-{n}").softmax(1) for n in (1, 2)]
    found = thalweg.predict(out, {"ids": ids, "size": size})
    torch.testing.assert_close(torch.tensor(found.probabilities).float(), sum(each) / 2, rtol=1e-5, atol=1e-6)
    drawn = thalweg.predict(out, {"ids": ids, "size": size}, samples=4)
    assert drawn.spread is not None
    assert drawn.notes == []
    assert not np.allclose(drawn.probabilities, found.probabilities)
    with pytest.raises(UserError, match=r"crops are of images, .* inputs here are several"):
        thalweg.predict(out, {"ids": ids, "size": size}, crops=5)


def test_numbers(tmp_path: Path) -> None:
    out, (ids, size) = trained(tmp_path, "numbers", "One"), fresh()
    found = thalweg.predict(out, {"ids": ids, "size": size})
    own = own_outputs(tmp_path, "One", ids, size)[:, 0].double().numpy()
    np.testing.assert_allclose(np.asarray(found.values), own, rtol=1e-6)


def test_the_winner_of_a_race_predicts(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN, encoding="utf-8")
    given = {**TINY, "data": f"{file}:named", "model": f"{file}:Net", "optimizers": ["adam"], "trials": 2}
    thalweg.race(**given, out=tmp_path / "race", engine="loop")
    thalweg.train(tmp_path / "race" / "winner.toml", out=tmp_path / "out")
    ids, size = fresh()
    wanted = own_outputs(tmp_path, "Net", ids, size).softmax(1)
    found = thalweg.predict(tmp_path / "out", {"size": size, "ids": ids})
    torch.testing.assert_close(torch.tensor(found.probabilities).float(), wanted, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, (ids, size) = trained(tmp_path), fresh()
    with pytest.raises(UserError, match="the data has no 'size', which training used; it holds 'ids'"):
        thalweg.predict(out, {"ids": ids})
    with pytest.raises(UserError, match="takes numbers from 0 to 4, not 9"):
        thalweg.predict(out, {"ids": ids + 5, "size": size})
    np.savez(tmp_path / "new.npz", ids=ids)
    words = ["predict", str(out), "--data", str(tmp_path / "new.npz"), "--out", str(tmp_path / "p.csv")]
    assert app.run(words) == 2
    assert capsys.readouterr().err.startswith("error: new.npz has no 'size', which training used")
    assert not (tmp_path / "p.csv").exists()
