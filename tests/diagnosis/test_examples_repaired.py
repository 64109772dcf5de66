"""The bad set-ups in examples/ are diagnosed, repaired as the finding says, and then train."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import ROOT
from thalweg import recipe
from thalweg.commands.app import run
from thalweg.diagnosis.targets import diagnose_target

EXAMPLES = ROOT / "examples"
RECIPES = {
    "slow": "learning-rate-low",
    "overshooting": "learning-rate-high",
    "stunted": "regularization",
}
# what the finding says to write, by what stands there
OWN = {
    "one_output": (
        "output-activation",
        {"nn.Softmax(dim=1),": "", "nn.BCELoss()": "nn.BCEWithLogitsLoss()"},
    ),
    "raw_inputs": (
        "input-scale",
        {"y = torch.tensor(targets)": "y = torch.tensor(targets); x = (x - x.mean(0)) / x.std(0)"},
    ),
}


def test_every_example_is_carried_through() -> None:
    assert {path.stem for path in EXAMPLES.iterdir() if path.is_file()} == {*RECIPES, *OWN}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe_is_named_repaired_and_trains(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = EXAMPLES / f"{name}.toml"
    assert (
        run(["diagnose", str(given), "--budget", "1500", "--apply", "mended.toml", "--try", "--seeds", "2"])
        == 0
    )
    said = capsys.readouterr().out
    first = next(line for line in said.splitlines() if line.startswith(("error:", "risk:")))
    assert f"[{RECIPES[name]}]" in first
    assert "tried: the change helps" in said
    scores = []
    for number, one in enumerate((given, Path("mended.toml"))):
        assert run(["train", str(one), "--out", f"run{number}", "--quiet"]) in (0, 1)
        scores.append(_test_score(Path(f"run{number}")))
    assert scores[1] > 0.8
    assert scores[1] > scores[0] + 0.1


def _test_score(directory: Path) -> float:
    from thalweg.training.results import TrainResults

    # a training that broke has no score
    return TrainResults.read(directory / "results.json").result["test"] or 0.0


@pytest.mark.parametrize("name", OWN)
def test_bad_code_is_named_and_learns_with_the_line_changed(name: str, tmp_path: Path) -> None:
    code, lines = OWN[name]
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    found = diagnose_target(f"{EXAMPLES / name}.py:setup", budget=800, seeds=2)
    assert found.findings[0].code == code
    assert found.findings[0].remedy is not None
    assert found.findings[0].remedy.code
    assert found.tried is not None
    assert found.tried.helps
    for old, new in lines.items():
        assert old in text
        text = text.replace(old, new)
    mended = tmp_path / f"{name}.py"
    mended.write_text(text, encoding="utf-8")
    now = diagnose_target(f"{mended}:setup", budget=800)
    assert code not in {finding.code for finding in now.findings if finding.severity != "advice"}
    assert now.diagnosis is not None
    # by itself, without anything that a diagnosis puts in its place
    assert now.diagnosis.skill > max(0.8, max(found.tried.before) + 0.1)


def test_a_changed_recipe_reads_back(tmp_path: Path) -> None:
    out = tmp_path / "mended.toml"
    found = diagnose_target(EXAMPLES / "stunted.toml", budget=1000, apply=out)
    assert found.applied is not None
    assert recipe.read(out) == found.applied.recipe
    assert recipe.read(out).optimizer.hyperparameters["weight_decay"] == 0.0
