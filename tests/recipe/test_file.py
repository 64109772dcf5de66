"""Recipes: read back equal, and every mistake said with its place and the nearest right word."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import recipe
from thalweg.errors import RecipeError

GOOD = """version = 1

[data]
spec = "houses.csv"
target = "price"
missing = "median"
types = { zip = "category", "no. of rooms" = "number" }
seed = 3
replicate = 1

[model]
spec = "mlp:128,64"

[objective]
loss = "mse"
metric = "rmse"

[optimizer]
name = "adam"
lr = 0.003
beta1 = 0.95

[schedule]
name = "cosine"
final = 0.1
warmup = 0.05

[training]
batch_size = 64
epochs = 30
seed = 12345
"""


def test_what_a_race_writes():
    read = recipe.loads(GOOD)
    assert read.data.types == {"zip": "category", "no. of rooms": "number"}
    assert read.optimizer.name == "adam"
    assert read.optimizer.hyperparameters == {"lr": 0.003, "beta1": 0.95}
    assert read.schedule.options == {"final": 0.1, "warmup": 0.05}
    assert read.training.evaluations == 20
    assert recipe.loads(recipe.dumps(read)) == read


def test_files(tmp_path):
    read = recipe.loads(GOOD)
    recipe.write(read, tmp_path / "winner.toml")
    assert recipe.read(tmp_path / "winner.toml") == read
    assert recipe.read(str(tmp_path / "winner.toml")) == read


def test_the_least():
    text = """
    data.spec = "digits"
    model.spec = "linear"
    optimizer.name = "torch.optim:RAdam"
    training = { batch_size = 1, epochs = 1 }
    """
    read = recipe.loads(text)
    assert read.schedule.name == "constant"
    assert read.objective.loss is None
    assert recipe.loads(recipe.dumps(read)) == read
    assert "objective" not in recipe.dumps(read)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", "version = 2", "line 1, column 1: version is 2, but this thalweg reads version 1"),
        (
            "version = 1",
            "versoin = 1",
            "line 1, column 1: a recipe has no 'versoin'; did you mean 'version'?",
        ),
        ("[model]", "[modle]", "line 11, column 2: a recipe has no 'modle'; did you mean 'model'?"),
        (
            'target = "price"',
            'taget = "price"',
            "line 5, column 1: [data] has no 'taget'; did you mean 'target'",
        ),
        ('spec = "houses.csv"', "", "line 3, column 2: data.spec is missing from [data]; a recipe needs it"),
        ('spec = "houses.csv"', "spec = 3", "line 4, column 1: data.spec is 3 but must be text in quotes"),
        (
            'spec = "houses.csv"',
            'spec = "digts"',
            "line 4, column 1: there is no data 'digts'; did you mean 'digits'",
        ),
        ('"median"', '"medain"', "line 6, column 1: data.missing is 'medain'; did you mean 'median'?"),
        (
            '"category"',
            '"categry"',
            "line 7, column 11: data.types.zip is 'categry'; did you mean 'category'?",
        ),
        ("seed = 3", "seed = -1", "line 8, column 1: data.seed is -1 but must be greater than or equal to 0"),
        ('"mlp:128,64"', '"mpl:128,64"', "line 12, column 1: there is no model 'mpl:128,64'"),
        ('"mlp:128,64"', '"mlp:wide"', "line 12, column 1: the model 'mlp:wide' needs whole numbers"),
        ('"mse"', '"msee"', "line 15, column 1: there is no loss 'msee'; did you mean 'mse'"),
        ('"rmse"', '"rmsse"', "line 16, column 1: there is no metric 'rmsse'; did you mean 'rmse'"),
        ('"adam"', '"adma"', "line 19, column 1: there is no optimizer 'adma'; did you mean 'adam'"),
        ("beta1", "beta", "line 21, column 1: the optimizer 'adam' has no 'beta'; did you mean"),
        ("lr = 0.003", 'lr = "high"', "line 20, column 1: optimizer.lr is 'high' but must be a number"),
        ("lr = 0.003", "lr = inf", "line 20, column 1: optimizer.lr is inf but must be a finite number"),
        (
            "lr = 0.003",
            "lr = -1",
            "line 20, column 1: optimizer.lr is -1, but must be at least 0; give one such as 0.001",
        ),
        ("lr = 0.003", "lr = [1]", "line 20, column 1: optimizer.lr is [1] but must be"),
        (
            '"cosine"',
            '"cosinus"',
            "line 24, column 1: there is no schedule 'cosinus'; did you mean 'cosine'?",
        ),
        ('"cosine"', '"plateau"', "line 25, column 1: the schedule 'plateau' has no options here"),
        (
            "final = 0.1",
            "finl = 0.1",
            "line 25, column 1: the schedule 'cosine' has no option 'finl'; did you mean",
        ),
        ("final = 0.1", "final = -1", "line 25, column 1: final of a schedule is -1 but must be at least 0"),
        ("final = 0.1", 'final = "low"', "line 25, column 1: schedule.final is 'low' but must be"),
        (
            "batch_size = 64",
            "batch_size = 6.4",
            "line 29, column 1: training.batch_size is 6.4 but must be a whole number",
        ),
        (
            "batch_size = 64",
            "batch_size = true",
            "line 29, column 1: training.batch_size is True but must be a whole",
        ),
        (
            "batch_size = 64",
            "batch_size = 0",
            "line 29, column 1: training.batch_size is 0 but must be greater",
        ),
        (
            "epochs = 30",
            "epochs = 30\nepohcs = 3",
            "line 31, column 1: [training] has no 'epohcs'; did you mean 'epochs'",
        ),
        ("epochs = 30", "epochs == 30", "recipe is not TOML: invalid value (at line 30, column 9)"),
        ('[model]\nspec = "mlp:128,64"', "", "line 1, column 1: model is missing; a recipe needs it"),
    ],
)
def test_mistakes(old, new, words):
    assert GOOD.count(old) == 1
    with pytest.raises(RecipeError) as caught:
        recipe.loads(GOOD.replace(old, new))
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith("recipe")


def test_parts_of_the_model():
    text = GOOD.replace(
        'spec = "mlp:128,64"', 'spec = "mlp:128,64"\nbatch_norm = true\ndropout = 0.3\nmaxout = 2'
    )
    read = recipe.loads(text)
    assert str(read.model) == "mlp:128,64 with batch_norm, dropout 0.3, maxout 2"
    assert recipe.loads(recipe.dumps(read)) == read
    off = ["model.batch_norm=false", "model.dropout=0", "model.maxout=1"]
    assert recipe.loads(text, changes=off) == recipe.loads(GOOD)
    assert "dropout" not in recipe.dumps(recipe.loads(GOOD))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dropout = 1", "column 1: model.dropout is 1 but must be less than 1"),
        ('dropout = "high"', "column 1: model.dropout is 'high' but must be a number"),
        ("batch_norm = 3", "column 1: model.batch_norm is 3 but must be"),
        ("maxout = 0", "column 1: model.maxout is 0 but must be greater than or equal to 1"),
        ("drop_out = 0.5", "column 1: [model] has no 'drop_out'; did you mean 'dropout'?"),
        ("skip = 1", "column 1: model.skip is 1 but must be"),
        ("stochastic_depth = 1", "column 1: model.stochastic_depth is 1 but must be less than 1"),
        ("stochastic_depth = -0.1", "column 1: model.stochastic_depth is -0.1 but must be greater than or"),
        ("stochastic_depth = true", "column 1: model.stochastic_depth is True but must be"),
        ("dropout = true", "column 1: model.dropout is True but must be"),
        (
            "stochastic_depth = 0.2",
            "column 1: the model 'mlp:128,64' has no residual blocks that stochastic_depth could leave out; "
            "set model.skip = true, or leave stochastic_depth out",
        ),
    ],
)
def test_mistakes_in_parts_of_the_model(line, words):
    with pytest.raises(RecipeError) as caught:
        recipe.loads(GOOD.replace('spec = "mlp:128,64"', f'spec = "mlp:128,64"\n{line}'))
    assert str(caught.value).startswith(f"recipe, line 13, {words}")


def test_parts_without_a_place_are_refused_before_anything_is_loaded():
    linear = GOOD.replace('spec = "mlp:128,64"', 'spec = "linear"\ndropout = 0.3')
    with pytest.raises(
        RecipeError, match="line 13, column 1: the model 'linear' has no hidden units for dropout"
    ):
        recipe.loads(linear)
    normed = GOOD.replace('spec = "mlp:128,64"', 'spec = "mlp:128,64"\nbatch_norm = true')
    for change in ("training.batch_size=1", "training.accumulate=40"):
        with pytest.raises(RecipeError, match="line 13, column 1: batch_norm takes statistics over a batch"):
            recipe.loads(normed, changes=[change])


def test_skips_and_stochastic_depth():
    text = GOOD.replace('spec = "mlp:128,64"', 'spec = "mlp:64,64"\nskip = true\nstochastic_depth = 0.2')
    read = recipe.loads(text)
    assert str(read.model) == "mlp:64,64 with skip, stochastic_depth 0.2"
    assert recipe.loads(recipe.dumps(read)) == read
    # a person's own model may have blocks of its own, which only its code tells
    own = GOOD.replace('spec = "mlp:128,64"', 'spec = "net.py:make"\nstochastic_depth = 0.2')
    assert recipe.loads(own).model.stochastic_depth == 0.2
    with pytest.raises(RecipeError, match="line 14, column 1: the model 'mlp:64,64' has no residual"):
        recipe.loads(text, changes=["model.skip=false"])
    linear = GOOD.replace('spec = "mlp:128,64"', 'spec = "linear"\nskip = true')
    with pytest.raises(RecipeError, match=r"line 13, column 1: .* has no hidden units for skip to"):
        recipe.loads(linear)


def test_strategies_are_switched_by_true_and_false():
    text = GOOD + "\n[strategies.averaging]\ndecay = 0.9\n"
    assert recipe.loads(text, changes=["strategies.averaging=false"]) == recipe.loads(GOOD)
    both = recipe.loads(text, changes=["strategies.guard=true", "strategies.early-stopping=true"])
    assert list(both.strategies.given()) == ["guard", "averaging", "early-stopping"]
    assert both.strategies.guard == recipe.loads(GOOD + "\n[strategies.guard]").strategies.guard
    with pytest.raises(RecipeError, match=r"\[strategies\] has no 'gard'; did you mean 'guard'"):
        recipe.loads(text, changes=["strategies.gard=false"])


def test_a_table_that_is_none():
    with pytest.raises(RecipeError, match=r"line 1, column 1: data is 3 but must be a table, \[data\]"):
        recipe.loads('data = 3\nmodel.spec = "linear"')


def test_unreadable(tmp_path):
    with pytest.raises(RecipeError, match=r"the recipe .*nowhere.toml can't be read \(no such file"):
        recipe.read(tmp_path / "nowhere.toml")
    with pytest.raises(RecipeError, match="can't be read"):
        recipe.read(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not text in UTF-8"):
        recipe.read(tmp_path / "binary.toml")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_other_error_ever(data):
    lines = GOOD.split("\n")
    for _ in range(data.draw(st.integers(1, 3))):
        line = data.draw(st.integers(0, len(lines) - 1))
        change = data.draw(st.sampled_from(["drop", "repeat", "cut", "type", "text"]))
        if change == "drop":
            lines[line] = ""
        elif change == "repeat":
            lines.insert(line, lines[line])
        elif change == "cut":
            lines[line] = lines[line][: len(lines[line]) // 2]
        elif change == "type":
            words = ["-1", "[]", "{}", "true", "nan", "1e400", '""', "[[1]]", "2020-01-01", str(2**70)]
            lines[line] = lines[line].partition("=")[0] + "= " + data.draw(st.sampled_from(words))
        else:
            lines[line] = data.draw(st.text(max_size=10))
    try:
        read = recipe.loads("\n".join(lines))
    except RecipeError as problem:
        sentence = str(problem)
    else:
        sentence = "none"
        assert recipe.loads(recipe.dumps(read)) == read
    assert len(sentence.splitlines()) == 1
