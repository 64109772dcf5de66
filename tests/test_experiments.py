"""Experiments: every recipe reads, pages are those of the results, the driver goes on where it stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from experiments import carrying_out, comparing, experiment, figure, page
from experiments.__main__ import main
from experiments.comparing import Interval
from experiments.experiment import Before, Contrast, Experiment, Panel, Variant
from scipy import stats

from thalweg import recipe
from thalweg.errors import Interrupted, OptionError, ThalwegError

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes" / "stages").glob("*.toml"))
NAMES = experiment.names()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_reads_and_names_what_is_there(path: Path) -> None:
    whole = recipe.read(path)
    assert recipe.loads(recipe.dumps(whole)) == whole
    text = path.read_text(encoding="utf-8")
    assert f"thalweg train recipes/stages/{path.name} --out " in text
    for file in re.findall(r"(?:recipes|docs)/[\w/.-]+\.(?:toml|py|md)", text):
        assert (ROOT / file).is_file(), file


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_of_an_experiment_reads(name: str) -> None:
    one = experiment.load(name)
    for panel, variant in one.cells():
        recipe.read(ROOT / variant.recipe, one.changes(panel, variant, 3))
        for before in one.needed(variant):
            recipe.read(ROOT / before.recipe, one.changes_before(before, panel, 3))
    digests = {experiment.digest(one, panel, variant) for panel, variant in one.cells()}
    assert len(digests) == len(one.cells())


@pytest.mark.parametrize("name", NAMES)
def test_committed_results_are_of_the_recipes_as_they_are(name: str) -> None:
    file = carrying_out.RESULTS / f"{name}.json"
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    assert len(carrying_out.kept(experiment.load(name), file)) == len(runs)


def test_pages_are_those_of_the_results() -> None:
    made = page.documents()
    stale = [
        path.relative_to(ROOT).as_posix()
        for path, text in made.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run: make experiments"
    assert {path.stem for path in made if path.suffix == ".svg"} == set(NAMES)
    there = set(page.FOLDER.iterdir())
    assert there == {path for path in made if path.parent == page.FOLDER}


QUICK = ["data.spec=digits", "training.batch_size=256", "training.evaluations=1"]


def run(*arguments: str, results: Path, folder: Path) -> int:
    sets = [word for change in QUICK for word in ("--set", change)]
    return main([*arguments, "--results", str(results), "--folder", str(folder), *sets])


def test_the_driver_trains_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, folder = tmp_path / "results", tmp_path / "work"
    greedy = ("greedy", "--seeds", "1", "--only", "sigmoid / greedy with")
    assert run(*greedy, results=results, folder=folder) == 0
    first = runs_in(results / "greedy.json")
    assert [(each["variant"], each["seed"]) for each in first] == [("greedy with raw input", 0)]
    assert all(0 < each["test"] <= 1 and each["seconds"] > 0 and each["machine"] for each in first)
    assert "| greedy with raw input |" in capsys.readouterr().out
    assert run(*greedy, results=results, folder=folder) == 0
    assert runs_in(results / "greedy.json") == first
    assert run("greedy", "--seeds", "1", "--only", "sigmoid / dir", results=results, folder=folder) == 0
    assert [each["variant"] for each in runs_in(results / "greedy.json")] == ["direct", first[0]["variant"]]
    # nothing begins after its time
    assert run("greedy", "--minutes", "0", results=results, folder=folder) == 0
    assert len(runs_in(results / "greedy.json")) == 2


def runs_in(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["runs"]
    return found


def test_what_comes_before_is_trained_once_a_seed(tmp_path: Path) -> None:
    results, folder = tmp_path / "results", tmp_path / "work"
    for start in ("torch's start / distilled", "He's start / distilled"):
        assert run("hints", "--seeds", "1", "--only", start, results=results, folder=folder) == 0
    assert len(runs_in(results / "hints.json")) == 2
    assert len(list((folder / "before").iterdir())) == 1


def made_up(**changes: Any) -> Experiment:
    given: dict[str, Any] = {
        "name": "made-up",
        "title": "Made up",
        "claim": "It is said.",
        "setting": "It is tried.",
        "reference": "plain",
        "panels": (Panel(name="few"), Panel(name="many", changes=("data.examples=900",))),
        "variants": (
            Variant(name="plain", recipe="recipes/stages/images.toml"),
            Variant(name="other", recipe="recipes/stages/images.toml", changes=("optimizer.lr=0.1",)),
        ),
    }
    return Experiment(**{**given, **changes})


def runs_of(one: Experiment, values: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    return [
        {
            "panel": panel, "variant": variant, "seed": seed, "test": value, "seconds": 2.0, "updates": 30,
            "machine": "a machine", "load": 3.0, "commit": "abc", "digest": "",
        }
        for (panel, variant), mine in values.items()
        for seed, value in enumerate(mine)
    ]  # fmt: skip


def test_differences_are_paired_and_their_intervals_are_students() -> None:
    draws = np.random.default_rng(0)
    plain, other = draws.random(6), draws.random(7)
    one = made_up(contrasts=(Contrast(this="many / plain", that="few / other"),))
    there = runs_of(
        one, {("few", "plain"): [*plain], ("few", "other"): [*other], ("many", "plain"): [*plain[:4]]}
    )
    first, last = comparing.differences(one, there[::-1])
    for found, x, y in ((first, other[:6], plain), (last, plain[:4], other[:4])):
        low, high = stats.ttest_rel(100 * x, 100 * y).confidence_interval(0.95)
        assert (found.found.low, found.found.high) == pytest.approx((low, high))
        assert found.found.mean == pytest.approx(100 * (x - y).mean())
    assert (last.this, last.that, last.panel) == ("plain (many)", "other (few)", "")


@pytest.mark.parametrize(
    ("mean", "half", "verdict", "words"),
    [
        (3.0, 1.0, "gains", "gains 3.0 points over that (+2.0 to +4.0; n = 5)"),
        (-3.0, 1.0, "loses", "loses 3.0 points against that (-4.0 to -2.0; n = 5)"),
        (0.3, 0.4, "the same", "is within 1 point of that (-0.1 to +0.7; n = 5)"),
        (0.3, 0.8, "not known", "n = 5 can't tell"),
        (-0.3, 0.8, "not known", "n = 5 can't tell"),
    ],
)
def test_the_verdict_follows_from_the_interval(mean: float, half: float, verdict: str, words: str) -> None:
    one = comparing.Difference(
        panel="p", this="this", that="that", found=Interval(mean, half, 5), matters=1.0
    )
    assert one.verdict == verdict
    assert words in one.sentence()


def test_one_pair_tells_nothing() -> None:
    one = comparing.Difference(panel="", this="a", that="b", found=comparing.interval([9.0]), matters=1.0)
    assert one.verdict == "not known"
    assert one.sentence() == "**a** against b: one pair tells nothing."


def test_a_page_has_every_number_and_the_picture_every_run() -> None:
    one = made_up()
    there = runs_of(one, {("few", "plain"): [0.5, 0.52], ("few", "other"): [0.7, 0.72]})
    there.append({**there[0], "seed": 2, "test": None, "failed": "it isn't finite"})
    text = page.page(one, there)
    assert "| plain | 51.0 ± 12.7 |  | 2, 1 failed | 30 | 2.0 |" in text
    assert "| other | 71.0 ± 12.7 | +20.0 (+20.0 to +20.0) | 2 | 30 | 2.0 |" in text
    assert "few: **other** gains 20.0 points over plain (+20.0 to +20.0; n = 2)." in text
    assert page.summary(one, there) == "Few, against plain, better: other by 20.0."
    assert "an earlier state" not in text
    there[0]["ran_at"] = "abd"
    assert " 1 of them were trained from an earlier state" in page.page(one, there)
    scores = comparing.scores(one, there)
    drawn = ElementTree.fromstring(figure.picture(one, scores))
    marks = [each for each in drawn.iter() if each.tag.endswith("circle")]
    assert len(marks) == 4 + 2
    assert drawn[0].text == figure.alternative(one, scores)
    assert "few: plain 51.0, other 71.0" in figure.alternative(one, scores)


def test_only_what_a_function_uses_tells_trainings_apart(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    text = (
        "SIZE = 3\ndef helper(n):\n    return n\n"
        'def net():\n    """Say."""\n    return helper(SIZE)\n'
        "def other():\n    pass\n"
    )
    codes = []
    for changed in (
        text,
        text.replace('"""Say."""', '"""Say it."""').replace("return n\n", "return n  # why\n"),
        text.replace("    pass", "    return 1"),
        text.replace("SIZE = 3", "SIZE = 4"),
        text.replace("return n\n", "return -n\n"),
    ):
        file.write_text(changed, encoding="utf-8")
        codes.append(experiment._code(file, "net"))
    assert codes[0] == codes[1] == codes[2]
    assert codes[0] != codes[3]
    assert codes[0] != codes[4]


def test_runs_of_another_recipe_are_dropped(tmp_path: Path) -> None:
    one, file = made_up(), tmp_path / "results.json"
    panel, variant = one.cells()[0]
    there = runs_of(one, {("few", "plain"): [0.5], ("many", "plain"): [0.6]})
    there[0]["digest"] = experiment.digest(one, panel, variant)
    carrying_out.write(file, there)
    assert carrying_out.kept(one, file) == there[:1]
    assert carrying_out.kept(one, file, changes=["training.epochs=1"]) == []


def test_what_comes_before_is_part_of_what_is_trained() -> None:
    before = Before(recipe="recipes/stages/scorer.toml", out="runs/scorer", shares=("data.spec",))
    easy = (Variant(name="plain", recipe="recipes/stages/curriculum.toml"),)
    noisy = Panel(name="noisy", changes=("data.spec=digits", "optimizer.lr=0.1"))
    one = made_up(before=(before,), variants=easy, panels=(noisy,))
    assert one.needed(easy[0]) == [before]
    assert one.changes_before(before, noisy, 4) == ["data.spec=digits", "training.seed=4", "data.replicate=4"]
    other = made_up(
        before=(Before(recipe="recipes/stages/images.toml", out="runs/scorer"),),
        variants=easy,
        panels=(noisy,),
    )
    assert experiment.digest(one, noisy, easy[0]) != experiment.digest(other, noisy, easy[0])
    # a recipe that doesn't begin with it needs it not
    assert one.needed(Variant(name="plain", recipe="recipes/stages/images.toml")) == []


def test_a_failure_is_kept_and_a_refusal_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(options: Any) -> Any:
        if any("lr=" in change for change in options.changes):
            raise OptionError("the rate can't be used")
        if interrupted:
            raise Interrupted("interrupted at step 3")
        raise ThalwegError("the loss isn't finite")

    monkeypatch.setattr(carrying_out, "run_recipe", trained)
    said: list[str] = []
    interrupted = False
    one, file = made_up(), tmp_path / "results.json"
    runs = carrying_out.carry_out(one, seeds=1, results=file, folder=tmp_path, said=said.append)
    assert [(each["variant"], each["failed"]) for each in runs] == [("plain", "the loss isn't finite")] * 2
    assert sum("the rate can't be used" in line for line in said) == 2
    assert carrying_out.kept(one, file) == runs
    assert comparing.differences(one, runs) == []
    # whoever ends it hasn't seen a training fail
    interrupted = True
    with pytest.raises(Interrupted):
        carrying_out.carry_out(one, seeds=2, results=file, folder=tmp_path, said=said.append)
    assert carrying_out.kept(one, file) == runs


def test_a_comparison_with_what_isnt_trained_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "experiments" / "hints.toml").read_text(encoding="utf-8")
    (tmp_path / "odd.toml").write_text(text.replace('reference = "labels"', 'reference = "lables"'))
    monkeypatch.setattr(experiment, "__file__", str(tmp_path / "experiment.py"))
    with pytest.raises(ValueError, match="lables"):
        experiment.load("odd")
