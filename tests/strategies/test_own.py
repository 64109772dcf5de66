"""A strategy of one's own by name: in recipes and in fit, with settings that are checked, and trusted."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import thalweg
from thalweg import recipe
from thalweg.errors import Interrupted, OptionError, RecipeError, TrustError
from thalweg.layers import models
from thalweg.run.problem import initial_module
from thalweg.strategies import build
from thalweg.strategies.own import OwnSettings, build_own
from thalweg.strategies.table import from_tables

CODE = """
from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from thalweg.strategies import Settings, Strategy


class FreezeSettings(Settings):
    layers: int = Field(default=1, ge=1)
    until: float = 0.5
    which: tuple[str, ...] = ()


class Freeze(Strategy):
    settings: FreezeSettings

    def after_backward(self, trainer):
        if trainer.progress < self.settings.until:
            for p in list(trainer.model.parameters())[: -2 * self.settings.layers]:
                p.grad = None


class Named(Strategy):
    def __init__(self, *, rate: float, kind: Literal["a", "b"] = "a", folder: Path = Path(".")) -> None:
        self.rate, self.kind, self.folder = rate, kind, folder

    def rate_factor(self):
        return self.rate


class Free(Strategy):
    def __init__(self, **all):
        self.all = all


class Breaks(Strategy):
    def __init__(self, at=1):
        raise RuntimeError(f"no {at}")


class Watch(Strategy):
    observes = True

    def __init__(self, every: int = 1):
        self.every, self.seen = every, 0

    def after_step(self, trainer):
        self.seen += 1

    def finished(self, trainer):
        trainer.note(f"watched {self.seen} steps")

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


class Ends(Strategy):
    observes = True

    def after_step(self, trainer):
        if trainer.updates == 4:
            raise KeyboardInterrupt


class Both(Watch):
    def rate_factor(self):
        return 1.0


def function():
    pass
"""
TEXT = """
version = 1
data.spec = "iris"
model.spec = "mlp:8"
optimizer = {name = "adam", lr = 0.05}
training = {batch_size = 32, epochs = 4}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "r.toml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THALWEG_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def train(*changes: str, out: str = "run", **more: Any) -> dict[str, Any]:
    results = thalweg.train(None if more.get("bare") else "r.toml", changes=changes, out=out, **{
        key: value for key, value in more.items() if key != "bare"
    })  # fmt: skip
    return {"curve": [point.model_dump() for point in results.curve], "notes": results.notes}


def weights(out: str = "run") -> bytes:
    return Path(out, "weights.safetensors").read_bytes()


# Settings ---------------------------------------------------------------------------------------------


def test_settings_are_those_of_the_model_or_the_arguments(here: Path) -> None:
    made: Any = build("mine.py:Freeze", OwnSettings(layers=2, which=["a", "b"]))
    assert (made.settings.layers, made.settings.which, made.name) == (2, ("a", "b"), "Freeze")
    assert made.priority == 100
    named: Any = build_own("mine.py:Named", {"rate": 2, "folder": "x"})
    assert (named.rate, named.kind, named.folder) == (2.0, "a", Path("x"))
    # written down, so that a resume under others is noticed
    assert named.settings.model_dump() == {"rate": 2, "folder": "x"}
    free: Any = build_own("mine.py:Free", {"anything": [1, {"a": 2}]})
    assert free.all == {"anything": [1, {"a": 2}]}
    both = from_tables({"clipping": {"norm": 1.0}, "mine.py:Freeze": True, "averaging": False})
    assert [each.name for each in both] == ["clipping", "Freeze"]


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown": ("mine.py:Freeze", {"layer": 2}, "has no setting 'layer'; did you mean 'layers'"),
    "unknown argument": ("mine.py:Named", {"rate": 1, "knid": "a"}, "no setting 'knid'; did you mean 'kind'"),
    "none": ("mine.py:Ends", {"at": 2}, "has no setting 'at'; it has none"),
    "out of range": ("mine.py:Freeze", {"layers": 0}, "layers is 0, but must be greater than or equal to 1"),
    "type": ("mine.py:Freeze", {"layers": 1.5}, "layers is 1.5, but must be"),
    "argument's type": ("mine.py:Named", {"rate": "x"}, "rate is 'x', but must be a valid number"),
    "choice": ("mine.py:Named", {"rate": 1, "kind": "c"}, "kind is 'c', but must be 'a' or 'b'"),
    "missing": ("mine.py:Named", {}, "needs the setting 'rate'"),
    "raises": ("mine.py:Breaks", {"at": 3}, r"mine.py:Breaks\(at=3\) raises RuntimeError: no 3"),
    "no strategy": ("mine.py:function", {}, "is of type function, not a class of strategies"),
    "another class": ("mine.py:Path", {}, "is the class Path, not a class of strategies"),
    "nobody": ("mine.py:Freez", {}, "did you mean 'Freeze'"),
    "no file": ("mone.py:Freeze", {}, "did you mean 'mine.py'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_sentence(case: str, here: Path) -> None:
    spec, settings, words = REFUSED[case]
    with pytest.raises(OptionError, match=words):
        build_own(spec, settings)
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(OptionError, match=words):
        thalweg.fit(model, (torch.ones(4, 2), torch.ones(4, 2)), "mse", "sgd", strategies={spec: settings},
                    steps=1, batch_size=2)  # fmt: skip


def test_settings_that_are_none_are_told() -> None:
    class Odd(thalweg.strategies.Strategy):
        def __init__(self) -> None:
            self.settings = {"layers": 2}  # type: ignore[assignment]

    with pytest.raises(OptionError, match="settings of the strategy 'Odd' are of type dict"):
        thalweg.strategies.in_order([Odd()])


# Recipes ----------------------------------------------------------------------------------------------


def test_recipes_hold_it_and_read_back_equal_without_running_it(tmp_path: Path) -> None:
    own = TEXT + '[strategies."no/such.py:Freeze"]\nlayers = 2\nnames = ["a"]\n[strategies."b.c:D"]\n'
    found = recipe.loads(own)
    assert found.strategies.own() == {
        "no/such.py:Freeze": OwnSettings(layers=2, names=["a"]), "b.c:D": OwnSettings(),
    }  # fmt: skip
    assert recipe.loads(recipe.dumps(found)) == found
    assert tomllib.loads(recipe.dumps(found))["strategies"]["no/such.py:Freeze"]["layers"] == 2
    changed = recipe.loads(
        own, changes=['strategies."no/such.py:Freeze".layers=3', 'strategies."b.c:D"=false']
    )
    assert changed.strategies.own() == {"no/such.py:Freeze": OwnSettings(layers=3, names=["a"])}
    on = recipe.loads(TEXT, changes=['strategies."b.c:D"=true'])
    assert on.strategies.own() == {"b.c:D": OwnSettings()}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("[strategies.averagin]", r"line 7, column 13: \[strategies\] has no 'averagin'; did you mean"),
        ("[strategies.batch_size]", r"\[strategies\] has no 'batch_size'; did you mean 'batch-size'"),
        ('[strategies."mine.py:"]', "there is no strategy 'mine.py:'; one of your own is 'file.py:Class'"),
        (
            '[strategies]\n"m.py:F" = 3',
            r'strategies."m.py:F" is 3 but must be a table, \[strategies."m.py:F"\]',
        ),
        ('[strategies."m.py:F"]\nat = 2000-01-01', 'strategies."m.py:F".at is .* but must be text, a finite'),
        ('[strategies."m.py:F"]\nat = [1, nan]', 'strategies."m.py:F".at is .* but must be text, a finite'),
    ],
)
def test_mistakes_in_recipes(lines: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe.loads(TEXT + lines + "\n")


def test_an_unknown_table_of_a_change_is_said_as_the_change() -> None:
    with pytest.raises(RecipeError, match=r"^changes=\['strategies.averagin.decay=1'\]: .*no 'averagin'"):
        recipe.loads(TEXT, changes=["strategies.averagin.decay=1"])


def test_it_trains_by_recipe_as_by_fit(here: Path) -> None:
    train('strategies."mine.py:Freeze".until=1')
    frozen = recipe.read("run/recipe.toml")
    assert frozen.strategies.own() == {"mine.py:Freeze": OwnSettings(until=1)}
    first, last = (safetensors_of("run")[name] for name in ("0.weight", "2.weight"))
    train(out="plain")
    plain = safetensors_of("plain")
    assert not torch.equal(plain["2.weight"], last)
    initial = initial_weights()
    assert torch.equal(first, initial["0.weight"])
    assert not torch.equal(last, initial["2.weight"])
    assert not torch.equal(plain["0.weight"], initial["0.weight"])
    x, y = torch.randn(32, 2), torch.randn(32, 1)

    def fitted(strategies: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        thalweg.fit(model, (x, y), "mse", "sgd", strategies=strategies, steps=3, batch_size=8)
        return list(model.parameters())

    by_name = fitted({"mine.py:Freeze": {"until": 1}})
    assert all(map(torch.equal, by_name, fitted([build_own("mine.py:Freeze", {"until": 1})])))
    assert not torch.equal(by_name[0], fitted([])[0])


def safetensors_of(out: str) -> dict[str, torch.Tensor]:
    return load_file(Path(out, "weights.safetensors"))


def initial_weights() -> dict[str, torch.Tensor]:
    return initial_module(models.factory("mlp:8"), (4,), 3, 0).state_dict()


def test_a_resume_is_exact_and_changed_code_or_settings_are_refused(here: Path) -> None:
    freeze = 'strategies."mine.py:Freeze".layers=1'
    train(freeze, out="whole")
    ended(freeze)
    with pytest.raises(OptionError, match=r'begun with another strategies."mine.py:Freeze"'):
        train('strategies."mine.py:Freeze".layers=2', resume=True)
    (here / "mine.py").write_text(CODE + "\n# changed\n")
    with pytest.raises(TrustError, match=r"mine\.py has changed"):
        train(freeze, resume=True)
    (here / "mine.py").write_text(CODE)
    train(freeze, resume=True)
    assert weights() == weights("whole")


def test_a_strangers_directory_runs_no_strategy(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended('strategies."mine.py:Freeze".layers=1')
    monkeypatch.setenv("THALWEG_STATE_DIR", str(here / "another"))
    monkeypatch.setattr("thalweg.settings.trust.gate._remembered_here", set())
    with pytest.raises(TrustError, match=r"names code that you haven't trained with here: mine\.py"):
        train(bare=True, resume=True)
    # which it names too, and which ends it once more
    with pytest.raises(Interrupted):
        train(bare=True, resume=True, trust_code=True)


def ended(*changes: str) -> None:
    """Leave a training behind that was interrupted after some steps."""
    with pytest.raises(Interrupted):
        train(*changes, 'strategies."mine.py:Ends"=true', checkpoint_seconds=0)


def test_one_that_observes_joins_and_leaves_a_recipe_that_is_resumed(here: Path) -> None:
    train(out="whole")
    ended()
    watched = train('strategies."mine.py:Watch".every=2', resume=True)
    assert watched["notes"][-1].startswith("watched ")
    assert weights() == weights("whole")
    with pytest.raises(OptionError, match=r'begun with another strategies."mine.py:Named"'):
        train('strategies."mine.py:Named".rate=0.5', resume=True)
    with pytest.raises(OptionError, match=r"begun with another strategies\.averaging"):
        train("strategies.averaging=true", resume=True)
    with pytest.raises(OptionError, match="only observes, but has rate_factor"):
        train('strategies."mine.py:Both"=true', resume=True)


def test_one_that_changes_training_does_not_leave(here: Path) -> None:
    ended('strategies."mine.py:Named".rate=0.5')
    with pytest.raises(OptionError, match=r'begun with another strategies."mine.py:Named"'):
        train(resume=True)


def test_members_of_an_ensemble_have_each_their_own(here: Path) -> None:
    found = train('strategies."mine.py:Watch"=true', "ensemble.members=2", "training.epochs=2")
    assert [note.partition(": ")[2] for note in found["notes"] if "watched" in note] == [
        "watched 4 steps"
    ] * 2


def test_the_report_names_it(here: Path) -> None:
    train('strategies."mine.py:Freeze".layers=1')
    page = Path("run/report.html").read_text()
    assert "mine.py:Freeze" in page
