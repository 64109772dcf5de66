"""``[[stage]]`` in recipes: what a table says is what ``fit(stages=...)`` carries out, killed or not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import thalweg
import trainings
from thalweg import data, recipe
from thalweg.data.prepare import some_of
from thalweg.errors import OptionError, RecipeError, ThalwegError, UserError
from thalweg.layers import models
from thalweg.recipe.build import build
from thalweg.recipe.stages import fewer
from thalweg.report.page import write as write_page
from thalweg.report.training import pictures
from thalweg.report.training import read as read_page
from thalweg.run.problem import initial_module
from thalweg.stages import (
    Ramp,
    Stage,
    curriculum,
    curriculum_controls,
    difficulty_of,
    greedy,
    hints,
    methods,
)
from thalweg.stages.stage import GIVEN
from thalweg.strategies import Clipping, Initialization
from thalweg.training.rates import ScheduleOf
from thalweg.training.results import TrainResults

MAIN = """version = 1
data = {spec = "iris"}
model = {spec = "mlp:8,8"}
optimizer = {name = "adam", lr = 0.02}
schedule = {name = "cosine", warmup = 0.2}
training = {batch_size = 16, epochs = 2, evaluations = 3, seed = 3}
strategies = {clipping = {norm = 1.0}}
"""


def written(folder: Path, stages: str, main: str = MAIN, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(main + stages, encoding="utf-8")
    return path


def weights(out: Path, name: str = "weights") -> dict[str, torch.Tensor]:
    return load_file(out / f"{name}.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def by_hand(stages: Any, **more: Any) -> torch.nn.Module:
    """The same training from Python, with the stages that a function of model and examples returns."""
    prepared = data.prepare(data.load("iris"), seed=0, replicate=0)
    model = initial_module(models.factory("mlp:8,8"), prepared.input_shape, prepared.outputs, 3)
    given = {
        "hyperparameters": {"lr": 0.02}, "epochs": 2, "batch_size": 16, "evaluations": 3, "seed": 3,
        "validation": prepared.validation, "metric": "accuracy",
        "strategies": [Clipping(norm=1.0)], "schedule": ScheduleOf("cosine", {"warmup": 0.2}), **more,
    }  # fmt: skip
    fitted = thalweg.fit(
        model, prepared.train, "cross-entropy", "adam", stages=stages(model, prepared.train), **given
    )
    return fitted.model


PLAIN = """
[[stage]]
name = "head"
trains = ["4"]
epochs = 1
optimizer = {name = "sgd", lr = 0.1}
schedule = {name = "constant"}
strategies = {}

[[stage]]
name = "all"
examples = 60
steps = 7
batch_size = 20
carries = true
result = "best"
groups = {depth_factor = 0.5}
objective = {loss = "torch.nn.functional:multi_margin_loss", validation_loss = "cross-entropy"}
"""


def _plain(model: Any, train: Any) -> list[Stage]:
    return [
        Stage(
            name="head", trains=["4"], epochs=1, optimizer="sgd", hyperparameters={"lr": 0.1},
            schedule="constant", strategies=[],
        ),
        Stage(
            name="all", data=fewer(train, 60, 0), steps=7, batch_size=20, carries=True, result="best",
            groups={"depth_factor": 0.5}, loss=torch.nn.functional.multi_margin_loss,
            validation_loss="cross-entropy",
        ),
    ]  # fmt: skip


def _greedy(model: Any, train: Any) -> list[Stage]:
    made = greedy(model, train.batch(torch.arange(8))[0], epochs=1, joint=2)
    return [Stage(name="first", epochs=1), *made]


def _curriculum(model: Any, train: Any) -> list[Stage]:
    hard = torch.arange(float(len(train)))
    pace = Ramp(start=0.3, end=1.0, until=0.5)
    return [
        *curriculum(hard, "deterministic", pace=pace, name="easy"),
        *curriculum(hard, "frequency", control="reverse", name="hard"),
    ]


@pytest.mark.parametrize(
    ("tables", "stages"),
    [
        (PLAIN, _plain),
        (
            '[[stage]]\nname = "first"\nepochs = 1\n[[stage]]\nmethod = "greedy"\nepochs = 1\njoint = 2\n',
            _greedy,
        ),
        (
            '[[stage]]\nmethod = "curriculum"\nname = "easy"\nkind = "deterministic"\n'
            'difficulty = "hard.npy"\n'
            "pace = {start = 0.3, end = 1.0, until = 0.5}\n"
            '[[stage]]\nmethod = "curriculum"\nname = "hard"\nkind = "frequency"\ncontrol = "reverse"\n'
            'difficulty = "hard.npy"\n',
            _curriculum,
        ),
    ],
    ids=["plain", "greedy", "curriculum"],
)  # fmt: skip
def test_a_recipe_trains_what_fit_trains(
    tables: str, stages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("hard.npy", np.arange(90.0))
    results = thalweg.train(written(tmp_path, tables), out=tmp_path / "run")
    model = by_hand(stages)
    assert same(weights(tmp_path / "run"), model.state_dict())
    # the result is judged on the model itself, by the recipe's own objective
    prepared = data.prepare(data.load("iris"), seed=0, replicate=0)
    inputs, targets = prepared.test.batch(torch.arange(len(prepared.test)))
    with torch.no_grad():
        outputs = model(inputs)
    assert results.result["test"] == pytest.approx(float((outputs.argmax(1) == targets).double().mean()))
    found = results.result["test_loss"]
    assert found == pytest.approx(float(torch.nn.functional.cross_entropy(outputs, targets)), rel=1e-5)


def test_weights_are_begun_once_before_the_first_stage(tmp_path: Path) -> None:
    """A start that each stage makes anew would throw away what the one before has learnt."""
    begin = '[strategies.initialization]\nscheme = "he"\n'
    stages = '[[stage]]\nname = "a"\ntrains = ["0"]\nepochs = 1\n[[stage]]\nname = "b"\ntrains = ["4"]\n'
    main = MAIN.replace("strategies = {clipping = {norm = 1.0}}\n", "")
    thalweg.train(written(tmp_path, begin + stages, main), out=tmp_path / "run")

    def of(model: torch.nn.Module, train: Any) -> list[Stage]:
        Initialization(scheme="he").apply(model, seed=3)
        return [Stage(name="a", trains=["0"], epochs=1), Stage(name="b", trains=["4"])]

    assert same(weights(tmp_path / "run"), by_hand(of, strategies=[]).state_dict())
    # and so it is in fit
    model = by_hand(lambda model, train: of(model, train)[:], strategies=[Initialization(scheme="he")])
    assert same(weights(tmp_path / "run"), model.state_dict())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    thalweg.train(written(folder, "", MAIN.replace("mlp:8,8", "mlp:16")), out=folder / "teacher")
    return folder / "teacher"


OWN = """
from thalweg.stages import Stage

def thawing(parts: list[str], epochs: int, model=None):
    assert model is not None
    return [Stage(name=f"thaw {n}", trains=parts[-n:], epochs=epochs) for n in range(1, len(parts) + 1)]

def longest(inputs, targets):
    return inputs.square().sum(-1)
"""

ALL = {
    "greedy": "epochs = 1",
    "unsupervised": 'noise = 0.1\nepochs = 1\n[[stage]]\nname = "labels"',
    "grow": 'shallow = "{teacher}"\nmapping = {{"0" = "0"}}',
    "hints": 'teacher = "{teacher}"\nhint = "1"\nguided = "3"\nhint_epochs = 1\n'
    "softened = {{start = 2, end = 1}}",
    "auxiliary-heads": 'layers = {{"2" = {{start = 0.3, end = 0.0}}}}',
    "curriculum": 'kind = "weight"\ndifficulty = {{by = "margin", model = "{teacher}"}}',
    "continuation": "sigmas = [{{start = 0.1, end = 0.05}}, 0]\nepochs = [1, 2]\nsamples = 2",
    "diffusion": "sigmas = [{{start = 1.0, end = 0.2}}, 0]",
    "homotopy": 'first = "mae"\nsecond = "mse"',
    "from-linear": "epochs = 2",
    "{own}:thawing": 'parts = ["2", "4"]\nepochs = 1',
}  # fmt: skip


def test_every_method_has_a_trial() -> None:
    assert set(methods.names()) <= set(ALL) | {"transfer"}


@pytest.mark.parametrize("method", ALL)
def test_methods(method: str, teacher: Path, tmp_path: Path) -> None:
    if method == "diffusion":
        _recurrent(teacher, tmp_path)
        return
    own = tmp_path / "mine.py"
    own.write_text(OWN)
    main = MAIN.replace("mlp:8,8", "mlp:16,16") if method == "grow" else MAIN
    if method == "homotopy":
        main = main.replace('"iris"', '"diabetes"')
    arguments = ALL[method].format(teacher=teacher)
    tables = f'[[stage]]\nmethod = "{method.format(own=own)}"\n{arguments}\n'
    results = thalweg.train(written(tmp_path, tables, main), out=tmp_path / "run")
    assert results.stages
    assert sum(each.updates for each in results.stages) == results.updates
    assert not results.failed
    # the saved model is the plain one, and predicts
    state = weights(tmp_path / "run")
    shape, outputs = ((10,), 1) if method == "homotopy" else ((4,), 3)
    model = models.factory("mlp:16,16" if method == "grow" else "mlp:8,8")(shape, outputs)
    model.load_state_dict(state)
    assert recipe.loads(recipe.dumps(recipe.read(tmp_path / "recipe.toml"))) == recipe.read(
        tmp_path / "run" / "recipe.toml"
    )


def _recurrent(teacher: Path, folder: Path) -> None:
    """A method for recurrent nets, which have no name."""
    (folder / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, input_shape, outputs):\n"
        "        super().__init__()\n"
        "        self.rnn, self.head = nn.RNN(1, 6, batch_first=True), nn.Linear(6, outputs)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.rnn(x.unsqueeze(-1))[0][:, -1])\n"
    )
    main = MAIN.replace("mlp:8,8", f"{folder / 'net.py'}:Net")
    tables = f'[[stage]]\nmethod = "diffusion"\n{ALL["diffusion"].format(teacher=teacher)}\n'
    results = thalweg.train(written(folder, tables, main), out=folder / "run")
    assert [each.name for each in results.stages] == ["diffusion 1", "diffusion 2"]
    assert set(weights(folder / "run")) == {
        "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0",
        "head.weight", "head.bias",
    }  # fmt: skip


def test_a_teacher_and_a_difficulty_are_those_of_the_directory(teacher: Path, tmp_path: Path) -> None:
    tables = (
        f'[[stage]]\nmethod = "hints"\nteacher = "{teacher}"\nsoftened = 1.0\n'
        f'[[stage]]\nmethod = "curriculum"\ndifficulty = {{by = "loss", model = "{teacher}"}}\n'
    )
    thalweg.train(written(tmp_path, tables), out=tmp_path / "run")
    net = models.factory("mlp:16")((4,), 3)
    net.load_state_dict(weights(teacher))
    net.eval()

    def of(model: Any, train: Any) -> list[Stage]:
        example = train.batch(torch.arange(8))[0]
        return [
            *hints(model, net, example, loss="cross-entropy", softened=1.0),
            *curriculum(difficulty_of(net, train)),
        ]

    assert same(weights(tmp_path / "run"), by_hand(of).state_dict())


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
@pytest.mark.parametrize(
    ("place", "count"),
    [("event", 1), ("event", 5), ("state", 2), ("state", 4), ("term", 9), ("results.json", 1)],
)  # fmt: skip
def test_killed_in_any_stage_it_ends_as_if_left_alone(place: str, count: int, tmp_path: Path) -> None:
    tables = '[[stage]]\nmethod = "greedy"\nepochs = 1\n[[stage]]\nname = "end"\ncarries = true\n'
    path = written(tmp_path, tables)
    out = tmp_path / "run"
    code = trainings.run(out, path, [], place=place, count=count)
    assert code not in (0, 2), "nothing was killed"
    assert trainings.run(out, path, [], resume=out.exists()) == 0
    assert trainings.run(tmp_path / "alone", path, []) == 0
    assert trainings.comparable(out) == trainings.comparable(tmp_path / "alone")
    for name in ("weights", "best"):
        assert same(weights(out, name), weights(tmp_path / "alone", name))


def test_an_ensemble_whose_members_are_trained_in_stages(tmp_path: Path) -> None:
    tables = 'ensemble = {members = 2}\n[[stage]]\nmethod = "greedy"\nepochs = 1\n'
    results = thalweg.train(written(tmp_path, tables), out=tmp_path / "run")
    assert results.ensemble is not None
    assert len(results.ensemble.members) == 2
    alone = MAIN.replace("seed = 3", f"seed = {results.ensemble.members[1].seed}")
    thalweg.train(written(tmp_path, tables.split("\n", 1)[1], alone, "one.toml"), out=tmp_path / "one")
    assert same(weights(tmp_path / "run", "member-2"), weights(tmp_path / "one"))


def test_raw_input_is_a_part_of_the_model(tmp_path: Path) -> None:
    main = MAIN.replace('"mlp:8,8"', '"mlp:8,8", raw_input = true')
    results = thalweg.train(written(tmp_path, '[[stage]]\nmethod = "greedy"\n', main), out=tmp_path / "run")
    assert [each.name for each in results.stages] == ["greedy 1", "greedy 2", "greedy joint"]
    assert "2.extra.1.weight" in weights(tmp_path / "run")
    new = np.array([[5.1, 3.5, 1.4, 0.2]] * 2, dtype=np.float32)
    predictions = thalweg.predict(tmp_path / "run", new)
    assert len(predictions.values) == 2


def test_the_report_shows_all_stages_on_one_axis(tmp_path: Path) -> None:
    thalweg.train(written(tmp_path, PLAIN), out=tmp_path / "run")
    page = read_page(tmp_path / "run")
    assert [(stage.name, stage.began, stage.finished) for stage in page.stages] == [
        ("head", 0, True),
        ("all", 5, True),
    ]
    steps = [point["step"] for point in page.curve]
    assert steps == sorted(steps)
    assert steps[-1] == 12
    results = TrainResults.read(tmp_path / "run" / "results.json")
    assert [point.step for point in results.curve] == steps
    card = (tmp_path / "run" / "README.md").read_text()
    assert "in stages (head, all) of batches of 16" in card


# What is said of tables that can't be carried out --------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (
            '[[stage]]\nepochs = 1\n',
            "line 8, column 3: stage.0.name is missing; a stage without a method needs one",
        ),
        (
            '[[stage]]\nname = "a"\nepoch = 1\n',
            "line 10, column 1: stage.0 has no 'epoch'; did you mean 'epochs'?",
        ),
        (
            '[[stage]]\nmethod = "gredy"\n',
            "line 9, column 1: there is no method 'gredy'; did you mean 'greedy'?",
        ),
        (
            '[[stage]]\nname = "a"\nepochs = 1\nsteps = 1\n',
            "line 11, column 1: stage.0.epochs and stage.0.steps",
        ),
        (
            '[[stage]]\nname = "a"\noptimizer = {name = "adagard"}\n',
            "there is no optimizer 'adagard'; did you mean 'adagrad'",
        ),
        ('[[stage]]\nname = "a"\noptimizer = {name = "adam", lr = -1}\n', "stage.0.optimizer.lr"),
        ('[[stage]]\nname = "a"\nschedule = {name = "cosin"}\n', "there is no schedule 'cosin'"),
        ('[[stage]]\nname = "a"\nobjective = {loss = "mes"}\n', "there is no loss 'mes'"),
        ('[[stage]]\nname = "a"\nstrategies = {averagin = {}}\n', "averagin"),
        ('[[stage]]\nname = "a"\n[[stage]]\nname = "a"\n', "line 11, column 1: two stages are called 'a'"),
        ('[[stage]]\nname = "a"\nepochs = [1, 2]\n', "stage.0.epochs is a list, which methods take"),
        ('[[stage]]\nname = "a"\nexamples = 0\n', "stage.0.examples is 0"),
        ("[stage]\nname = 1\n", "stage"),
    ],
)  # fmt: skip
def test_what_a_file_says_wrong_is_said_with_its_place(tables: str, said: str) -> None:
    with pytest.raises(RecipeError) as found:
        recipe.loads(MAIN + tables)
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (
            '[[stage]]\nmethod = "greedy"\nraw_inptu = true\n',
            "the method 'greedy' has no 'raw_inptu'; did you mean 'raw_input'?",
        ),
        ('[[stage]]\nmethod = "greedy"\nraw_input = "yes"\n', "raw_input is 'yes'"),
        ('[[stage]]\nmethod = "hints"\nsoftened = 1.0\n', "the method 'hints' needs 'teacher'"),
        ('[[stage]]\nmethod = "hints"\nteacher = "nowhere"\n', "there is no run directory nowhere"),
        (
            '[[stage]]\nmethod = "curriculum"\ndifficulty = "no.npy"\n',
            "difficulty is 'no.npy', which can't be read",
        ),
        ('[[stage]]\nmethod = "curriculum"\ndifficulty = {by = "loss"}\n', "difficulty is {'by': 'loss'}"),
        ('[[stage]]\nmethod = "mine.py:f"\n', "there is no file 'mine.py'"),
        ('[[stage]]\nmethod = "math:sqrt"\n', "sqrt"),
        ('[[stage]]\nname = "a"\nexamples = 1000\n', "1,000 training examples are wanted, but there are 90"),
        ('[[stage]]\nname = "a"\nexamples = 2\n', "there are 3 classes"),
        ('[[stage]]\nname = "a"\ntrains = ["bodi.*"]\n', "trains of the stage 'a'"),
        ('[[stage]]\nname = "b"\n[[stage]]\nmethod = "greedy"\nblocks = ["9"]\n', "in stage.1: "),
    ],
)  # fmt: skip
def test_what_only_data_and_model_show_is_said_before_anything_is_written(
    tables: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as found:
        thalweg.train(written(tmp_path, tables), out=tmp_path / "run")
    assert said in str(found.value)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_a_key_of_a_stage_is_changed_by_name_or_by_number() -> None:
    for key in ("head", "0"):
        read = recipe.loads(MAIN + PLAIN, changes=[f"stage.{key}.epochs=5", "stage.all.optimizer.name=sgd"])
        assert read.stage[0].epochs == 5
        assert read.stage[1].optimizer is not None
    with pytest.raises(RecipeError, match="stage has 2 tables, of which none is '2'"):
        recipe.loads(MAIN + PLAIN, changes=["stage.2.epochs=5"])
    with pytest.raises(RecipeError, match=r"--set|changes"):
        recipe.loads(MAIN + PLAIN, changes=["stage.head.epochs=0"])


def test_a_resume_with_other_stages_is_refused(tmp_path: Path) -> None:
    thalweg.train(written(tmp_path, PLAIN), out=tmp_path / "run")
    for change, said in (
        (PLAIN.replace("steps = 7", "steps = 8"), "another stage.1.steps"),
        (PLAIN + '[[stage]]\nname = "c"\n', "another number of [[stage]] tables"),
        (PLAIN.replace("lr = 0.1", "lr = 0.2"), "another stage.0.optimizer"),
    ):
        with pytest.raises(OptionError) as found:
            thalweg.train(written(tmp_path, change), out=tmp_path / "run", resume=True)
        assert said in str(found.value)


@pytest.mark.parametrize("count", [3, 10, 47, 90])
def test_fewer_examples_have_the_classes_in_their_shares_and_are_nested(count: int) -> None:
    labels = torch.tensor([0] * 60 + [1] * 27 + [2] * 3).numpy()
    places = some_of(90, count, labels, seed=5)
    assert len(set(places.tolist())) == count
    for number, whole in enumerate((60, 27, 3)):
        taken = int((labels[places] == number).sum())
        assert taken >= 1
        assert abs(taken - count * whole / 90) <= 1.5
    assert set(places.tolist()) <= set(some_of(90, min(90, count + 5), labels, seed=5).tolist())
    assert set(some_of(90, 20, labels, seed=5).tolist()) != set(some_of(90, 20, labels, seed=6).tolist())


def test_statistics_come_from_the_examples_that_are_learnt_from() -> None:
    source = data.load("diabetes")
    prepared = data.prepare(source, seed=0, replicate=0, examples=20)
    assert len(prepared.train) == 20
    inputs, targets = prepared.train.batch(torch.arange(20))
    assert inputs.mean(0).abs().max() < 1e-5
    assert abs(float(targets.mean())) < 1e-5
    whole = data.prepare(source, seed=0, replicate=0)
    assert list(prepared.indices["validation"]) == list(whole.indices["validation"])


# What a person's own function does, and what is read from disk ------------------------------------------

ODD = """
import random

import torch
from thalweg.stages import Stage

def nothing(): return None
def five(): return 5
def none_at_all(): return []
def breaks():
    yield Stage(name="a")
    raise RuntimeError("boom")
def leaves(): raise SystemExit(3)
class Odd: pass
def changes(model):
    model.add_module("more", torch.nn.Linear(3, 3))
    return [Stage(name="a")]
def wants(optimizer): return [Stage(name="a")]
def alone(): return Stage(name="a")
def later(): return [Stage(name="a"), Stage(name="b", build=lambda model: 1 / 0)]
def number(): return [Stage(name="a", trains=[3])]
def says(): return [Stage(name="a", optimizer="sgd", metric=None, strategies=())]
def takes(seed, batch_size): return [Stage(name=f"a{seed}+{batch_size}", epochs=1)]
def draws(): return [Stage(name="a", hyperparameters={"lr": 0.01 * random.random() + float(torch.rand(1))})]
def raises(inputs, targets): raise ValueError("no")
def none(inputs, targets): return None
def size(inputs, targets): return inputs.square().sum(-1)
def drawn(inputs, targets): return torch.rand(len(targets))
"""


def built(tables: str, folder: Path, main: str = MAIN) -> list[Stage]:
    """The stages of a recipe, as they would be trained."""
    (folder / "odd.py").write_text(ODD)
    made = build(recipe.loads(main + tables), "cpu", 1)
    assert made.staged is not None
    return list(made.staged.stages)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('method = "odd.py:nothing"', "odd.py:nothing gives nothing; let it return"),
        ('method = "odd.py:five"', "odd.py:five gives int; let it return"),
        ('method = "odd.py:Odd"', "odd.py:Odd gives Odd; let it return"),
        ('method = "odd.py:none_at_all"', "odd.py:none_at_all gives no stage at all"),
        ('method = "odd.py:breaks"', r"odd.py:breaks\(\) raises RuntimeError: boom"),
        ('method = "odd.py:leaves"', r"odd.py:leaves\(\) raises SystemExit: 3"),
        ('method = "builtins:dict"', "builtins:dict doesn't say which arguments it has"),
        ('method = "odd.py:changes"', "changes what the model consists of"),
        ('method = "greedy"\nraw_input = true', "set model.raw_input = true instead"),
        ('method = "odd.py:wants"\noptimizer = {name = "sgd"}', "needs 'optimizer'; .* call the argument"),
        ('method = "odd.py:alone"\nname = "mine"', "has no 'name': it names its stages itself"),
        ('method = "odd.py:later"', "in the stage 'b': its code raises ZeroDivisionError"),
        ('method = "odd.py:number"', "trains of the stage 'a' has 3"),
        ('name = "a"\nobjective = {loss = "odd.py:five"}', "in the stage 'a': its code raises TypeError"),
        ('method = "curriculum"\ndifficulty = "odd.py:raises"', "'odd.py:raises' raises ValueError: no"),
        ('method = "curriculum"\ndifficulty = "odd.py:none"', "'odd.py:none' raises TypeError"),
        ('method = "curriculum"\ndifficulty = "zip.npy"', "'zip.npy', which can't be read as an array"),
        ('method = "curriculum"\ndifficulty = "complex.npy"', "holds complex128"),
        ('method = "curriculum"\ndifficulty = "one.npy"', r"holds float64 of shape \[\]"),
        ('method = "auxiliary-heads"\nlayers = 3', "layers is 3, but must be a list"),
        ('method = "continuation"\nsigmas = "x"', "sigmas is 'x', but must be a list"),
    ],
)  # fmt: skip
def test_whatever_a_table_leads_to_is_said_in_a_sentence(
    table: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("zip.npy").write_bytes(b"PK\x03\x04")
    np.save("complex.npy", np.arange(90) + 1j)
    np.save("one.npy", np.array(1.0))
    with pytest.raises(UserError, match=said):
        built(f"[[stage]]\n{table}\n", tmp_path)


def test_what_a_function_says_of_its_stages_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [stage] = built(
        '[[stage]]\nmethod = "odd.py:says"\noptimizer = {name = "adam", beta1 = 0.5}\n'
        'objective = {metric = "accuracy"}\nstrategies = {clipping = {norm = 1}}\n',
        tmp_path,
    )
    assert (stage.optimizer, stage.metric, stage.strategies) == ("sgd", None, ())
    assert stage.hyperparameters is GIVEN
    # keys of a table that a function has arguments for are given to it
    [stage] = built('[[stage]]\nmethod = "odd.py:takes"\nseed = 7\nbatch_size = 8\n', tmp_path)
    assert (stage.name, stage.seed, stage.batch_size) == ("a7+8", 7, 8)


def test_what_functions_draw_is_the_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tables = '[[stage]]\nmethod = "odd.py:draws"\n'

    def drawn(main: str = MAIN, tables: str = tables) -> Any:
        torch.rand(1)
        return built(tables, tmp_path, main)[0]

    assert drawn().hyperparameters == drawn().hyperparameters
    assert drawn().hyperparameters != drawn(MAIN.replace("seed = 3", "seed = 4")).hyperparameters
    random = '[[stage]]\nmethod = "curriculum"\ndifficulty = "odd.py:drawn"\n'
    assert drawn(tables=random).about == drawn(tables=random).about


def test_what_functions_of_a_sweep_draw_is_the_runs() -> None:
    def drawing(model: torch.nn.Module, example: Any) -> list[Stage]:
        return [Stage(name="a", hyperparameters={"lr": 0.1 * float(torch.rand(()))})]

    def swept(seeds: list[int]) -> list[float]:
        found = thalweg.sweep("linear", "iris", "sgd", seeds=seeds, epochs=1, evaluations=1, stages=drawing)
        return found.table.filter(found.table["seed"] == 1)["validation_loss"].to_list()

    assert swept([0, 1]) == swept([1])


def test_a_difficulty_goes_with_fewer_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train = data.prepare(data.load("iris"), seed=0, replicate=0).train
    sizes = train.batch(torch.arange(90))[0].square().sum(-1).double()
    np.save("sizes.npy", sizes.numpy())
    few = fewer(train, 60, 0).batch(torch.arange(60))[0].square().sum(-1).double()
    [expected] = curriculum(few)
    for given in ("odd.py:size", "sizes.npy"):
        table = f'[[stage]]\nmethod = "curriculum"\nexamples = 60\ndifficulty = "{given}"\n'
        [stage] = built(table, tmp_path)
        assert stage.about["difficulty"] == expected.about["difficulty"]
    # of resamples the places are others, so that numbers by place would be of other examples
    main = MAIN + "ensemble = {members = 2, resample = true}\n"
    with pytest.raises(OptionError, match=r"ensemble.resample gives each member examples of its own"):
        built('[[stage]]\nmethod = "curriculum"\ndifficulty = "sizes.npy"\n', tmp_path, main)


@pytest.mark.parametrize(
    ("main", "stage", "expected"),
    [
        ("plateau", "", ["plateau"]),
        ("plateau", 'schedule = {name = "cosine"}', []),
        ("plateau", 'schedule = {name = "plateau"}', ["plateau"]),
        ("plateau", "strategies = {}", ["plateau"]),
        ("cosine", 'schedule = {name = "plateau"}', ["plateau"]),
        ("cosine", "", []),
    ],
)
def test_a_plateau_goes_where_its_schedule_goes(
    main: str, stage: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("hard.npy", np.arange(90.0))
    text = MAIN.replace('{name = "cosine", warmup = 0.2}', f'{{name = "{main}"}}')
    for table in ('name = "a"', 'method = "curriculum"\nkind = "weight"\ndifficulty = "hard.npy"'):
        made = build(recipe.loads(f"{text}[[stage]]\n{table}\n{stage}\n"), "cpu", 1).staged
        assert made is not None
        found = [each.name for each in made.specs[0].strategies]
        assert [name for name in found if name == "plateau"] == expected


def test_snapshots_of_stages_are_refused() -> None:
    for tables in (
        "[strategies.snapshots]\ncycles = 2\n[[stage]]\nname = 'a'\n",
        "[[stage]]\nname = 'a'\nstrategies = {snapshots = {cycles = 2}}\n",
    ):
        main = MAIN.replace("strategies = {clipping = {norm = 1.0}}\n", "")
        with pytest.raises(RecipeError, match="a training in stages leaves one model"):
            recipe.loads(main + tables)


def test_a_stage_that_diverges_is_the_last_and_everything_is_written(tmp_path: Path) -> None:
    tables = (
        '[[stage]]\nname = "wild"\nsteps = 9\nstrategies = {}\noptimizer = {name = "sgd", lr = 1e30}\n'
        '[[stage]]\nname = "after"\n'
    )
    with pytest.raises(ThalwegError, match="in the stage 'wild': the loss was no longer finite") as found:
        thalweg.train(written(tmp_path, tables), out=tmp_path / "run")
    # of a stage in the middle there is no best model
    assert "best.safetensors" not in str(found.value)
    results = TrainResults.read(tmp_path / "run" / "results.json")
    assert results.failed
    assert [each.name for each in results.stages] == ["wild"]
    made = thalweg.predict(tmp_path / "run", np.zeros((2, 4), np.float32))
    assert any("diverged" in note for note in made.notes)


def test_the_curves_of_members_have_all_stages(tmp_path: Path) -> None:
    tables = 'ensemble = {members = 2}\n[[stage]]\nname = "a"\nsteps = 3\n[[stage]]\nname = "b"\nsteps = 4\n'
    results = thalweg.train(written(tmp_path, tables), out=tmp_path / "run")
    assert results.ensemble is not None
    for member in results.ensemble.members:
        steps = [point.step for point in member.curve]
        assert (steps[0], steps[-1]) == (0, 7)
        assert 3 in steps


def test_a_resume_with_another_teacher_or_difficulty_is_refused(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(teacher, tmp_path / "teacher")
    np.save("hard.npy", np.arange(90.0))
    tables = (
        '[[stage]]\nmethod = "hints"\nteacher = "teacher"\nsoftened = 1.0\n'
        '[[stage]]\nmethod = "curriculum"\ndifficulty = "hard.npy"\n'
    )
    path = written(tmp_path, tables)
    thalweg.train(path, out="run")
    thalweg.train(path, out="run", resume=True)
    np.save("hard.npy", np.arange(90.0)[::-1])
    with pytest.raises(OptionError, match="a teacher, a difficulty or a function"):
        thalweg.train(path, out="run", resume=True)
    np.save("hard.npy", np.arange(90.0))
    state = load_file(tmp_path / "teacher" / "weights.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, "teacher/weights.safetensors")
    with pytest.raises(OptionError, match="a teacher, a difficulty or a function"):
        thalweg.train(path, out="run", resume=True)


@pytest.mark.parametrize(
    ("tables", "change", "said"),
    [
        ('[[stage]]\nname = "a"\ntrains = ["4"]\n', "stage.0.trains.0.x=3", "is '4', which has no keys such"),
        ("", "stage.0.epochs=3", r"must be an array of tables, \[\[stage\]\]"),
        ('[[stage]]\nname = "a"\n', 'stage.0.trains="4"', "is '4' but must be a list of text"),
        ('[[stage]]\nname = "a"\n', 'stage.0.epochs="4"', "stage.0.epochs is '4' but must be a whole number"),
    ],
)  # fmt: skip
def test_changes_that_fit_nowhere(tables: str, change: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe.loads(MAIN + tables, changes=[change])


# Controls of a curriculum --------------------------------------------------------------------------------

CURRICULUM = """
[[stage]]
name = "first"
epochs = 1

[[stage]]
method = "curriculum"
kind = "deterministic"
difficulty = "{own}:longest"
control_seed = 3
{more}
"""


def _curriculum(folder: Path, more: str, main: str = MAIN) -> Path:
    (folder / "mine.py").write_text(OWN)
    return written(folder, CURRICULUM.format(own=folder / "mine.py", more=more), main)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curriculum with its controls."""
    folder = tmp_path_factory.mktemp("beside")
    thalweg.train(_curriculum(folder, "controls = true"), out=folder / "run")
    return folder


def test_controls_are_trained_beside_a_curriculum_as_recipes_of_their_own(beside: Path) -> None:
    results = TrainResults.read(beside / "run" / "results.json")
    assert sorted(results.controls) == ["plain", "random", "reverse"]
    alone = thalweg.train(_curriculum(beside, ""), out=beside / "alone")
    assert not alone.controls
    assert same(weights(beside / "run"), weights(beside / "alone"))
    for name, control in results.controls.items():
        one = thalweg.train(_curriculum(beside, f'control = "{name}"'), out=beside / name)
        assert same(weights(beside / name), weights(beside / "run" / "controls" / name))
        assert one.result == control.result
        assert not same(weights(beside / name), weights(beside / "run"))


def test_the_report_shows_the_controls_beside_the_curriculum(beside: Path) -> None:
    page = read_page(beside / "run")
    results = TrainResults.read(beside / "run" / "results.json")
    assert [row[0] for row in page.control_rows] == ["this training", "reverse", "random", "plain"]
    for row in page.control_rows[1:]:
        theirs = results.controls[row[0]].result["test"]
        assert results.result["test"] is not None
        assert theirs is not None
        assert float(row[3]) == pytest.approx(theirs, rel=1e-3)
        assert float(row[4]) == pytest.approx(results.result["test"] - theirs, abs=1e-3)
        assert row[5] == "yes"
    assert not page.lacks_controls
    drawn = pictures(page)["metric"]
    assert {item.label["value"] for item in drawn.legend[0].items} >= {"control: reverse", "control: plain"}
    html = write_page(beside / "run").read_text()
    assert "The curriculum beside its controls" in html
    # one of them alone has none, and doesn't ask for any
    assert not read_page(beside / "run" / "controls" / "random").lacks_controls


def test_the_report_of_a_curriculum_without_controls_says_so(tmp_path: Path) -> None:
    thalweg.train(_curriculum(tmp_path, ""), out=tmp_path / "run")
    assert read_page(tmp_path / "run").lacks_controls
    assert "can't say whether the order of examples" in write_page(tmp_path / "run").read_text()
    thalweg.train(_curriculum(tmp_path, 'control = "reverse"'), out=tmp_path / "reverse")
    assert not read_page(tmp_path / "reverse").lacks_controls
    # asked for afterwards, they are trained beside what is finished
    wanted = _curriculum(tmp_path, 'controls = ["plain"]')
    results = thalweg.train(wanted, out=tmp_path / "run", resume=True)
    assert list(results.controls) == ["plain"]
    assert not read_page(tmp_path / "run").lacks_controls


def test_the_report_of_fit_shows_controls_too(tmp_path: Path) -> None:
    prepared = data.prepare(data.load("iris"), seed=0, replicate=0)
    hard = list(range(len(prepared.train)))

    def fit(stages: list[Stage], out: Path) -> None:
        model = initial_module(models.factory("mlp:8"), prepared.input_shape, prepared.outputs, 3)
        thalweg.fit(
            model, prepared.train, "cross-entropy", "adam", stages=stages, epochs=1, out=out,
            validation=prepared.validation, metric="accuracy",
        )  # fmt: skip

    fit(curriculum(hard, "deterministic"), tmp_path / "run")
    assert read_page(tmp_path / "run").lacks_controls
    for name, stages in curriculum_controls(hard, "deterministic").items():
        fit(stages, tmp_path / "run" / "controls" / name)
        assert not read_page(tmp_path / "run" / "controls" / name).lacks_controls
    page = read_page(tmp_path / "run")
    assert [(row[0], row[-1]) for row in page.control_rows[1:]] == [
        ("reverse", "yes"), ("random", "yes"), ("plain", "yes"),
    ]  # fmt: skip
    assert all(row[2] and row[4] for row in page.control_rows[1:])


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
@pytest.mark.parametrize(("place", "count"), [("event", 20), ("results.json", 2)])
def test_killed_in_a_control_it_ends_as_if_left_alone(
    place: str, count: int, beside: Path, tmp_path: Path
) -> None:
    wanted, out = _curriculum(beside, "controls = true"), tmp_path / "run"
    code = trainings.run(out, wanted, [], place=place, count=count)
    assert code not in (0, 2), "nothing was killed"
    assert (out / "results.json").exists()
    assert not (out / "controls" / "plain" / "results.json").exists()
    # with the recipe, or by what the directory says itself
    assert trainings.run(out, wanted, [], resume=True) == 0
    for folder in ("", "controls/reverse", "controls/random", "controls/plain"):
        assert trainings.comparable(out / folder) == trainings.comparable(beside / "run" / folder)
        assert same(weights(out / folder), weights(beside / "run" / folder))
    for row in read_page(out).control_rows[1:]:
        assert row[-1] == "yes"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('controls = "reverse"', "controls is 'reverse'; give true, or a list of reverse, random, plain"),
        ("controls = []", "controls is []; give true, or"),
        ('controls = ["revers"]', "controls has 'revers'; did you mean 'reverse'?"),
        ('controls = true\ncontrol = "plain"', "control and controls are both given"),
        ("control_ = true", "the method 'curriculum' has no 'control_'; did you mean 'control"),
    ],
)
def test_controls_that_cant_be_are_refused(more: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as found:
        thalweg.train(_curriculum(tmp_path, more), out=tmp_path / "run")
    assert said in str(found.value)
    assert not (tmp_path / "run").exists()
