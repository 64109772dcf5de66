"""``thalweg diagnose``: what it takes, what it says, what it writes, and what it refuses in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thalweg import recipe
from thalweg.commands.app import run
from thalweg.diagnosis.finding import Finding, Remedy
from thalweg.diagnosis.recipe_changes import changed_recipe
from thalweg.diagnosis.recipe_setup import setup_of_recipe
from thalweg.diagnosis.recorded import RecordedRun, recorded_findings
from thalweg.diagnosis.targets import diagnose_target
from thalweg.errors import OptionError

SLOW = """
data.spec = "iris"
model.spec = "mlp:16"
optimizer = {name = "sgd", lr = 1e-6}
training = {batch_size = 16, epochs = 10}
"""
OWN_MODEL = """
import torch

def net(input_shape, outputs):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(input_shape[0], outputs))
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["diagnose", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


def test_a_recipe_is_diagnosed_and_its_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    Path("slow.toml").write_text(SLOW)
    assert run(["diagnose", "slow.toml", "--budget", "600", "--json", "--apply", "mended.toml"]) == 0
    found = json.loads(capsys.readouterr().out)
    first = found["findings"][0]
    assert (first["code"], first["severity"]) == ("learning-rate-low", "error")
    assert not found["healthy"]
    assert found["gradients"] <= 600
    assert found["applied"]["settings"] == first["remedy"]["settings"]
    mended = recipe.read("mended.toml")
    assert mended.optimizer.hyperparameters["lr"] == first["remedy"]["settings"]["optimizer.lr"] > 1e-6
    assert mended.model_dump(exclude={"optimizer"}) == recipe.read("slow.toml").model_dump(
        exclude={"optimizer"}
    )


def test_a_page_shows_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    # a name may hold anything
    Path("<b>slow.toml").write_text(SLOW)
    assert run(["diagnose", "<b>slow.toml", "--budget", "400", "--out", "page.html", "--quiet"]) == 0
    page = Path("page.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    said = capsys.readouterr().out
    assert "report: page.html" in said
    found = diagnose_target("<b>slow.toml", budget=400).findings
    assert found
    for finding in found:
        assert f"<code>{finding.code}</code>" in page
    assert "<b>slow" not in page
    # the loss, skill, and what each layer lets through
    assert page.count('class="plot"') == 3


def test_nothing_is_wrong_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("good.toml").write_text(SLOW)
    changed = ["--set", "optimizer.lr=0.1", "--set", "training.epochs=20"]
    assert run(["diagnose", "good.toml", *changed, "--budget", "600", "--apply", "mended.toml"]) == 0
    said = capsys.readouterr().out
    assert "healthy: nothing is wrong" in said
    assert "there is no changed recipe to write: no finding asks for a change" in said
    assert not Path("mended.toml").exists()


def test_bad_input_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(
        "def few():\n    return 1, 2\n\ndef other():\n    return {'model': 1, 'lose': 2}\n\n"
        "def broken():\n    raise KeyError('x')\n\nvalue = 3\n"
    )
    Path("there.toml").write_text(SLOW)
    Path("empty").mkdir()
    assert "can't be read" in refused(["none.toml"], capsys)
    assert "name the function in it" in refused(["own.py"], capsys)
    assert "returns 2 values" in refused(["own.py:few"], capsys)
    assert "did you mean 'loss'" in refused(["own.py:other"], capsys)
    assert "raises KeyError" in refused(["own.py:broken"], capsys)
    assert "is of type int" in refused(["own.py:value"], capsys)
    assert "exists already" in refused(["there.toml", "--apply", "there.toml"], capsys)
    assert "exists already" in refused(["there.toml", "--out", "there.toml"], capsys)
    assert "there is no folder" in refused(["there.toml", "--apply", "no/such.toml"], capsys)
    assert "is no run directory" in refused(["empty"], capsys)
    assert "give at least 2" in refused(["there.toml", "--try", "--seeds", "1"], capsys)
    assert "budget" in refused(["there.toml", "--budget", "0"], capsys)
    assert "--set" in refused(["own.py:few", "--set", "optimizer.lr=1"], capsys)


def test_a_run_of_a_strangers_model_runs_no_code(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(OWN_MODEL)
    wanted = (
        SLOW.replace("mlp:16", "net.py:net")
        .replace("1e-6", "0.01")
        .replace("epochs = 10", "epochs = 10, evaluations = 8")
    )
    Path("own.toml").write_text(wanted)
    assert run(["train", "own.toml", "--out", "run", "--quiet"]) == 0
    # what it names is another's now, and leaves a trace when it is run
    Path("net.py").write_text(OWN_MODEL + "\nopen('ran', 'w').close()\n")
    capsys.readouterr()
    assert run(["diagnose", "run", "--budget", "300"]) == 0
    said = capsys.readouterr().out
    assert "only the recorded curve was diagnosed" in said
    assert "--trust-code" in said
    assert "[slow-convergence]" in said
    assert not Path("ran").exists()
    assert run(["diagnose", "run", "--budget", "300", "--trust-code"]) == 0
    assert "only the recorded curve" not in capsys.readouterr().out
    assert Path("ran").exists()
    Path("net.py").unlink()
    assert run(["diagnose", "run", "--budget", "300", "--apply", "mended.toml"]) == 0
    assert "net.py" in capsys.readouterr().out
    assert recipe.read("mended.toml").training.epochs == 30


def test_the_set_up_of_a_recipe_is_what_its_training_sees() -> None:
    wanted = recipe.loads("""
    data.spec = "diabetes"
    model.spec = "mlp:8"
    optimizer = {name = "adam", lr = 0.02}
    schedule = {name = "linear"}
    training = {batch_size = 32, epochs = 2}
    strategies.clipping.norm = 0.5
    strategies.early-stopping.patience = 3
    """)
    made = setup_of_recipe(wanted)
    setup = made.setup
    assert abs(float(setup.inputs.mean())) < 1e-4
    assert abs(float(setup.targets.mean())) < 1e-4
    assert abs(float(setup.targets.std()) - 1) < 0.01
    assert (setup.clip, setup.named_loss, setup.batch_size, setup.epochs) == (0.5, "mse", 32, 2)
    assert made.notes == ("the short trainings are without its strategies: early-stopping",)
    _, optimizer = setup.start(0)
    rates = []
    for _ in range(3):
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.02)
    assert rates[0] > rates[1] > rates[2] > 0


def finding(code: str, *, confidence: float = 0.8, **settings: object) -> Finding:
    remedy = Remedy(text="change it", settings={key.replace("__", "."): v for key, v in settings.items()})
    return Finding(
        code=code, severity="error", title="t", evidence=(), cause="c", remedy=remedy, confidence=confidence
    )  # fmt: skip


def test_remedies_become_keys_of_the_recipe() -> None:
    wanted = recipe.loads("""
    data.spec = "digits"
    model = {spec = "mlp:2,2", dropout = 0.9}
    optimizer = {name = "momentum", lr = 0.5, momentum = 0.9, weight_decay = 0.1}
    training = {batch_size = 512, epochs = 2}
    groups.patterns = [{match = "0.*", rate = 0.0}]
    """)

    def settings(*findings: Finding) -> dict[str, object]:
        return dict(changed_recipe(findings, wanted).settings)

    assert settings(finding("learning-rate-high", optimizer__lr=0.05)) == {"optimizer.lr": 0.05}
    assert settings(finding("capacity")) == {"model.spec": "mlp:64,64"}
    assert settings(finding("regularization")) == {"model.dropout": 0.0, "optimizer.weight_decay": 0.0}
    assert settings(finding("frozen")) == {"groups.patterns": []}
    # a whole table, so that no hyperparameter of the old optimizer is left
    other = changed_recipe([finding("optimizer", optimizer={"name": "adam", "lr": 1e-3})], wanted).recipe
    assert other.optimizer.hyperparameters == {"lr": 1e-3}
    both = finding("optimizer", optimizer={"name": "adam", "lr": 1e-3}, optimizer__lr=5.0)
    assert settings(both) == {"optimizer": {"name": "adam", "lr": 0.01}}
    # of what was tried the first alone; what is certain all
    first, second = (
        finding("batch-large", training__batch_size=32),
        finding("epochs-few", training__epochs=10),
    )
    assert settings(first, second) == {"training.batch_size": 32}
    sure = finding("frozen", confidence=1.0)
    assert settings(sure, first) == {"groups.patterns": [], "training.batch_size": 32}
    with pytest.raises(OptionError, match="a recipe can't say this remedy; change it"):
        changed_recipe([finding("hidden-activation")], wanted)


def test_a_rate_of_scaled_groups_is_the_recipes() -> None:
    wanted = recipe.loads(SLOW)
    found = changed_recipe([finding("learning-rate-low", optimizer__lr=0.01)], wanted, scale=4.0)
    assert found.settings == {"optimizer.lr": 0.04}


@pytest.mark.parametrize(
    ("training", "validation", "failed", "codes"),
    [
        ([2.0, 0.5, 0.2, 0.15, 0.14, 0.14], [None] * 6, False, []),
        ([2.0, 1.7, 1.4, 1.1, 0.8, 0.5], [None] * 6, False, ["slow-convergence"]),
        ([2.0, 5.0, None, None, None, None], [None] * 6, True, ["nonfinite-loss"]),
        ([2.0, 1.0, 0.4, 0.1, 0.02, 0.01], [2.0, 1.2, 1.0, 1.3, 1.8, 2.2], False, ["overfitting"]),
        ([2.0, 1.0, 1.6, 0.9, 1.7, 0.9, 1.6, 0.9, 1.7, 0.9], [None] * 10, False, ["oscillating-loss"]),
        # noise that is small against the way, and a validation loss that rises with training's
        ([2.0, 0.5, 0.3, 0.32, 0.3, 0.31, 0.3, 0.31], [2.0, 0.6, 0.5, 0.5, 0.5, 0.51, 0.5, 0.5], False, []),
        ([], [], False, []),
    ],
)  # fmt: skip
def test_a_curve_is_read(
    training: list[float | None], validation: list[float | None], failed: bool, codes: list[str]
) -> None:
    recorded = RecordedRun(
        steps=list(range(0, 10 * len(training), 10)), training=training, validation=validation, failed=failed
    )
    found = recorded_findings(recorded, rate=0.1, epochs=10)
    assert [
        each.code for each in found if each.code != "slow-convergence" or "slow-convergence" in codes
    ] == codes


def test_interrupting_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("slow.toml").write_text(SLOW)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("thalweg.diagnosis.targets.diagnose_setup", interrupted)
    assert run(["diagnose", "slow.toml", "--apply", "mended.toml"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not Path("mended.toml").exists()


def test_a_set_up_of_ones_own_is_a_tuple_or_a_dictionary() -> None:
    Path("mine.py").write_text(
        "import torch\n"
        "def setup():\n"
        "    torch.manual_seed(0)\n"
        "    x = torch.randn(200, 3)\n"
        "    model = torch.nn.Linear(3, 1)\n"
        "    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)\n"
        "    return model, (x, x.sum(1, keepdim=True)), 'mse', optimizer, 16, 5\n"
    )
    found = diagnose_target("mine.py:setup", budget=600)
    assert found.findings[0].code == "learning-rate-low"
    with pytest.raises(OptionError, match=r"mine\.py:setup has no recipe"):
        found.changed()
