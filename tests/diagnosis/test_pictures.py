"""What is drawn of a set-up: within its budget, without a trace, and kept in a run directory."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thalweg
from thalweg.commands.app import run
from thalweg.curvature import Interpolation, LossSurface, NoiseScale, SpectralDensity, TrajectoryPlane
from thalweg.diagnosis.pictures import FILE, Pictures, read_pictures, store_pictures, take_pictures
from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.targets import diagnose_target
from thalweg.errors import RunDirectoryError
from thalweg.randomness.generators import generator_states
from thalweg.report import write_pictures
from thalweg.report.page import render_training

RECIPE = """
[data]
spec = "iris"
[model]
spec = "mlp:8"
[optimizer]
name = "sgd"
lr = {rate}
[training]
batch_size = 16
epochs = 6
"""


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 4, generator=generator)
    return x, (x[:, 0] > x[:, 1]).long()


def setup(rate: float = 0.1, *, norm: bool = False, optimizer: str = "sgd") -> tuple[Setup, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU(), nn.Linear(8, 2)
    )
    made: Any = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "lbfgs": torch.optim.LBFGS}[optimizer]
    held = made(model.parameters(), lr=rate)
    return Setup.of(model, data(), nn.CrossEntropyLoss(), held, batch_size=20, epochs=4), model


def kinds(found: Pictures) -> list[type]:
    return [type(each.found) for each in found.shown]


@pytest.fixture(scope="module")
def taken() -> Pictures:
    return take_pictures(setup(norm=True)[0], budget=700)


def test_everything_is_drawn_within_the_budget(taken: Pictures) -> None:
    assert kinds(taken) == [Interpolation, NoiseScale, LossSurface, TrajectoryPlane, SpectralDensity]
    assert taken.gradients <= 700
    assert taken.notes == ()
    line, noise, around, plane, spectrum = (each.found for each in taken.shown)
    assert isinstance(plane, TrajectoryPlane)
    assert isinstance(around, LossSurface)
    assert isinstance(line, Interpolation)
    # the short training went down, and its end is where the surface is
    assert plane.path_losses[0] > plane.path_losses[-1]
    assert around.centre == pytest.approx(plane.path_losses[-1])
    assert line.losses[np.flatnonzero(line.at == 0)[0]] == pytest.approx(plane.path_losses[0])
    assert around.statistics == "estimated"
    assert taken.shown[1].batch_size == 20
    last = taken.shown[-1]
    # of gradient descent the bound is 2 over the rate
    assert last.limit == pytest.approx(2 / 0.1)
    assert last.ends is not None
    assert last.ends[0] <= last.ends[1]
    assert isinstance(noise, NoiseScale)
    assert isinstance(spectrum, SpectralDensity)


@pytest.mark.parametrize("budget", [3, 30, 120])
def test_a_small_budget_is_kept_and_what_is_left_out_is_said(budget: int) -> None:
    found = take_pictures(setup()[0], budget=budget)
    assert found.gradients <= budget
    assert len(found.shown) + len(found.notes) >= 5 or budget == 3
    if budget == 3:
        assert found.shown == ()
        assert all("too small" in note for note in found.notes)


def test_an_adaptive_optimizers_spectrum_is_the_one_that_it_sees() -> None:
    last = take_pictures(setup(0.01, optimizer="adam")[0], budget=700).shown[-1]
    assert last.matrix == "Hessian as Adam sees it"
    assert last.limit == pytest.approx(100.0)


def test_a_training_that_diverges_is_drawn_up_to_there() -> None:
    found = take_pictures(setup(1e6)[0], budget=250)
    around = next(each for each in found.shown if isinstance(each.found, LossSurface))
    assert isinstance(around.found, LossSurface)
    assert around.found.centre < 100


def test_a_set_up_that_cant_be_computed_says_why_and_one_that_steps_otherwise_is_drawn() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 2)
    broken = Setup.of(model, data(), nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1))
    found = take_pictures(broken, budget=100)
    assert found.shown == ()
    assert "nothing can be drawn" in found.notes[0]
    closure = take_pictures(setup(0.1, optimizer="lbfgs")[0], budget=300)
    assert LossSurface in kinds(closure)


def test_nothing_is_touched() -> None:
    made, model = setup(norm=True)
    before, states = copy.deepcopy(model.state_dict()), generator_states(torch.device("cpu"))
    take_pictures(made, budget=150)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    for a, b in zip(states, generator_states(torch.device("cpu")), strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_of_a_run_the_end_is_its_result() -> None:
    made, model = setup()
    result = {name: value + 0.5 for name, value in model.state_dict().items()}
    between = {name: value + 0.1 * torch.randn_like(value) for name, value in result.items()}
    found = take_pictures(made, budget=250, result=result, checkpoints=[between])
    plane = next(each.found for each in found.shown if isinstance(each.found, TrajectoryPlane))
    assert isinstance(plane, TrajectoryPlane)
    assert len(plane.path) == 3
    line = found.shown[0].found
    assert isinstance(line, Interpolation)
    assert line.distance == pytest.approx(
        0.5 * math.sqrt(sum(p.numel() for p in model.parameters())), rel=1e-5
    )
    assert found.shown[0].names == ("first weights", "result of the run")


def test_all_of_them_go_into_one_page(taken: Pictures, tmp_path: Path) -> None:
    text = write_pictures(taken, tmp_path / "page.html", title="<i>").read_text(encoding="utf-8")
    assert "&lt;i&gt;" in text
    assert all(f"{each.title}." in text for each in taken.shown)
    none = Pictures(shown=(), gradients=1.0, notes=("nothing can be drawn: <b>",))
    assert (
        "nothing can be drawn: &lt;b&gt;" in write_pictures(none, tmp_path / "none.html").read_text().lower()
    )


# Kept in a run directory ---------------------------------------------------------------------------------


def test_pictures_that_are_kept_are_read_back(taken: Pictures, tmp_path: Path) -> None:
    assert read_pictures(tmp_path) is None
    store_pictures(taken, tmp_path)
    again = read_pictures(tmp_path)
    assert again is not None
    assert again.gradients == taken.gradients
    for one, other in zip(taken.shown, again.shown, strict=True):
        assert type(one.found) is type(other.found)
        for name, value in vars(one.found).items():
            np.testing.assert_array_equal(value, getattr(other.found, name))
        assert {k: v for k, v in vars(one).items() if k != "found"} == {
            k: v for k, v in vars(other).items() if k != "found"
        }


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"pictures": [{"kind": "os.system"}], "notes": [], "gradients": 1}', '{"pictures": 3}'],
)
def test_a_damaged_file_is_one_sentence_and_no_end_of_a_report(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="remove it"):
        read_pictures(tmp_path)


def test_a_run_is_drawn_into_its_directory_and_its_report(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(rate=0.1), encoding="utf-8")
    thalweg.train(str(recipe), out=str(tmp_path / "run"))
    plain = render_training(tmp_path / "run")
    found = diagnose_target(tmp_path / "run", budget=500, pictures=True)
    assert found.diagnosis is not None
    assert found.pictures is not None
    assert found.diagnosis.gradients + found.pictures.gradients <= 500
    assert found.to_json()["pictures"]["gradients"] == found.pictures.gradients
    html = render_training(tmp_path / "run")
    assert 'id="landscape"' in html
    assert 'id="landscape"' not in plain
    assert "From the first weights to the result of the run." in html
    line = found.pictures.shown[0].found
    assert isinstance(line, Interpolation)
    weights = json.loads((tmp_path / "run" / FILE).read_text(encoding="utf-8"))
    assert weights["version"] == 1
    # where nothing can be kept, the pictures are there all the same
    (tmp_path / "run" / FILE).unlink()
    (tmp_path / "run" / FILE).mkdir()
    again = diagnose_target(tmp_path / "run", budget=120, pictures=True)
    assert again.pictures is not None
    assert any("can't be written" in note for note in again.notes) == bool(again.pictures.shown)
    assert again.pictures.shown
    (tmp_path / "run" / FILE).rmdir()
    # damage is said, and the rest of the report stands
    (tmp_path / "run" / FILE).write_text("[]", encoding="utf-8")
    damaged = render_training(tmp_path / "run")
    assert "what thalweg writes there" in damaged
    assert 'id="curves"' in damaged


def test_the_command_draws_into_its_page_and_asks_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, page = tmp_path / "recipe.toml", tmp_path / "page.html"
    recipe.write_text(RECIPE.format(rate=0.1), encoding="utf-8")
    assert run(["diagnose", str(recipe), "--pictures"]) == 2
    said = capsys.readouterr().err
    assert "--out FILE" in said
    assert said.count("\n") == 1
    assert run(["diagnose", str(recipe), "--pictures", "--out", str(page), "--budget", "500"]) == 0
    assert "pictures: " in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert 'id="landscape"' in text
    assert "each filter moves by its own length" in text
