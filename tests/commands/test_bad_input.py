"""Bad input, one test each: one clear sentence, exit code 2, no traceback, and nothing left behind."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from thalweg.commands import app

Files = Mapping[str, str | bytes]

UNLIKE_ITSELF = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.body(x) * (2.0 if float(x.detach().sum()) > 0 else 1.0)


def net(input_shape, outputs):
    return Net()
"""

GOOD = "a,b,kind\n" + "".join(f"{i % 7},{i % 5},{'xy'[i % 2]}\n" for i in range(60))
IDX = struct.pack(">HBBIII", 0, 8, 3, 4, 2, 2) + bytes(16)
LABELS = struct.pack(">HBBI", 0, 8, 1, 4) + bytes([0, 1, 0, 1])


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a race in a folder with some files; return the one sentence that it says."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str, files: Files | None = None, out: str = "out") -> str:
        for name, content in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        before = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
        assert app.run(["race", *options, "--out", out]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1, "one sentence"
        assert "Traceback" not in said.err
        after = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
        assert after == before, "something was left behind"
        return said.err

    return run


Refused = Callable[..., str]


def test_no_data(refused: Refused) -> None:
    assert "--data" in refused()


def test_a_file_that_is_not_there(refused: Refused) -> None:
    assert "houses.csv" in refused("--data", "houses.csv", "--target", "price")


def test_a_built_in_that_is_not_there(refused: Refused) -> None:
    assert "'digits'" in refused("--data", "digit")


def test_an_empty_file(refused: Refused) -> None:
    assert "empty" in refused("--data", "t.csv", "--target", "kind", files={"t.csv": ""})


def test_a_table_without_rows(refused: Refused) -> None:
    assert "t.csv" in refused("--data", "t.csv", "--target", "kind", files={"t.csv": "a,b,kind\n"})


def test_a_truncated_gzip(refused: Refused) -> None:
    whole = gzip.compress(GOOD.encode() * 50)
    said = refused("--data", "t.csv.gz", "--target", "kind", files={"t.csv.gz": whole[: len(whole) // 2]})
    assert "t.csv.gz" in said


def test_a_truncated_idx(refused: Refused) -> None:
    files = {
        "d/train-images-idx3-ubyte.gz": gzip.compress(IDX)[:-9],
        "d/train-labels-idx1-ubyte.gz": gzip.compress(LABELS),
    }
    assert "train-images" in refused("--data", "idx:d", files=files)


@pytest.mark.parametrize("name", ["t.parquet", "t.npz", "t.csv.gz", "t.jsonl"])
def test_a_file_that_is_not_what_its_name_says(name: str, refused: Refused) -> None:
    content = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    assert name in refused("--data", name, "--target", "kind", files={name: content})


def test_an_unknown_column(refused: Refused) -> None:
    said = refused("--data", "t.csv", "--target", "kin", files={"t.csv": GOOD})
    assert "'kin'" in said
    assert "'kind'" in said


def test_a_type_for_an_unknown_column(refused: Refused) -> None:
    said = refused("--data", "t.csv", "--target", "kind", "--type", "aa=category", files={"t.csv": GOOD})
    assert "'aa'" in said


def test_no_target(refused: Refused) -> None:
    assert "--target" in refused("--data", "t.csv", files={"t.csv": GOOD})


def test_a_target_without_values(refused: Refused) -> None:
    empty = "a,b,kind\n" + "".join(f"{i % 7},{i},NA\n" for i in range(60))
    said = refused("--data", "t.csv", "--target", "kind", "--missing", "drop", files={"t.csv": empty})
    assert "the target 'kind' has no values in any of the 60 rows" in said
    assert "--missing" not in said


def test_a_target_that_two_columns_are_called(refused: Refused) -> None:
    twice = GOOD.replace("a,b,kind", "kind,b,kind")
    said = refused("--data", "t.csv", "--target", "kind", files={"t.csv": twice})
    assert "several columns called 'kind'" in said


def test_a_unit_in_some_cells(refused: Refused) -> None:
    rows = [f"{i} kg" if i in (5, 9) else str(i) for i in range(60)]
    text = "net weight,kind\n" + "".join(f"{row},{'xy'[i % 2]}\n" for i, row in enumerate(rows))
    said = refused("--data", "t.csv", "--target", "kind", files={"t.csv": text})
    assert "58 of 60 are numbers; not '5 kg' (row 6)" in said
    assert "--type 'net weight=category' or --type 'net weight=ignore'" in said


def test_a_type_that_there_is_not(refused: Refused) -> None:
    said = refused("--data", "t.csv", "--target", "kind", "--type", "a=ignored", files={"t.csv": GOOD})
    assert "did you mean 'ignore'?" in said


def test_one_class_only(refused: Refused) -> None:
    one = GOOD.replace("x\n", "y\n")
    assert "two classes" in refused("--data", "t.csv", "--target", "kind", files={"t.csv": one})


def test_fewer_rows_than_a_batch(refused: Refused) -> None:
    said = refused("--data", "t.csv", "--target", "kind", "--batch-size", "512", files={"t.csv": GOOD})
    assert "512" in said
    assert "--batch-size" in said


def test_missing_values(refused: Refused) -> None:
    holes = GOOD.replace("3,", ",")
    said = refused("--data", "t.csv", "--target", "kind", files={"t.csv": holes})
    assert "--missing" in said


def test_infinite_values(refused: Refused) -> None:
    endless = GOOD.replace("\n3,", "\ninf,", 1)
    assert "inf" in refused("--data", "t.csv", "--target", "kind", files={"t.csv": endless})


def test_labels_that_do_not_fit(refused: Refused) -> None:
    said = refused("--data", "t.csv", "--target", "kind", "--task", "regression", files={"t.csv": GOOD})
    assert "kind" in said


def test_labels_of_another_length(refused: Refused) -> None:
    code = "import torch\ndef load():\n    return torch.zeros(60, 3), torch.zeros(59, dtype=torch.long)\n"
    said = refused("--data", "own.py:load", files={"own.py": code})
    assert "60" in said
    assert "59" in said


def test_an_unknown_optimizer(refused: Refused) -> None:
    assert "'adam'" in refused("--data", "iris", "--optimizers", "sgd,adma")


def test_an_optimizer_twice(refused: Refused) -> None:
    assert "'sgd'" in refused("--data", "iris", "--optimizers", "sgd,sgd")


def test_a_rule_that_is_not_there(refused: Refused) -> None:
    said = refused("--data", "iris", "--optimizers", "own.py:rul", files={"own.py": "def rule(p, g): ...\n"})
    assert "'rule'" in said


def test_a_rule_that_can_not_be_traced(refused: Refused) -> None:
    code = "def mine(p, g, *, lr=0.1):\n    if g > 0:\n        return p - lr\n    return p + lr\n"
    said = refused("--data", "iris", "--optimizers", "own.py:mine", files={"own.py": code})
    assert "line 2" in said


def test_an_unknown_schedule(refused: Refused) -> None:
    assert "'cosine'" in refused("--data", "iris", "--schedules", "cosin")


def test_an_unknown_model(refused: Refused) -> None:
    assert "mlp" in refused("--data", "iris", "--model", "mpl:64")


@pytest.mark.parametrize("model", ["mlp:", "mlp:0", "mlp:a", "cnn:16"])
def test_a_model_that_can_not_be(model: str, refused: Refused) -> None:
    assert model in refused("--data", "iris", "--model", model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--device", "gpu"), "--device"),
        (("--metric", "acuracy"), "'accuracy'"),
        (("--loss", "cross-entrop"), "'cross-entropy'"),
        (("--space", "adam.learning_rate=1e-4:1"), "lr"),
        (("--space", "adam.lr=1:1e-4"), "adam.lr"),
        (("--space", "adan.lr=1e-4:1"), "adan"),
        (("--splits", "0"), "splits"),
        (("--trials", "0"), "trials"),
        (("--confirm", "0"), "confirm"),
        (("--epochs", "0"), "epochs"),
        (("--batch-size", "0"), "batch"),
        (("--minutes", "0"), "minutes"),
        (("--margin", "-1"), "margin"),
        (("--margin", "nan"), "margin"),
        (("--seed", "-1"), "seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_value_that_can_not_be(options: tuple[str, ...], said: str, refused: Refused) -> None:
    assert said in refused("--data", "iris", *options)


def test_a_model_file_that_raises(refused: Refused) -> None:
    said = refused(
        "--data", "iris", "--model", "own.py:net", files={"own.py": "x = 1\nraise KeyError('no')\n"}
    )
    assert "own.py" in said
    assert "line 2" in said


def test_a_factory_that_raises(refused: Refused) -> None:
    code = "def net(input_shape, outputs):\n    return 1 / 0\n"
    assert "own.py" in refused("--data", "iris", "--model", "own.py:net", files={"own.py": code})


def test_a_model_whose_output_does_not_fit(refused: Refused) -> None:
    code = "import torch\ndef net(input_shape, outputs):\n    return torch.nn.Linear(4, 7)\n"
    said = refused("--data", "iris", "--model", "own.py:net", files={"own.py": code})
    assert "7" in said


def test_an_output_directory_that_exists(refused: Refused) -> None:
    said = refused("--data", "iris", files={"out/results.json": "{}"})
    assert "the directory out exists already" in said
    assert "give another --out" in said


def test_an_output_directory_that_is_a_file(refused: Refused) -> None:
    assert "out" in refused("--data", "iris", files={"out": "a file"})


def test_an_output_directory_that_can_not_be_written(refused: Refused) -> None:
    # below a file there can't be a directory, whoever asks
    assert "file" in refused("--data", "iris", files={"file": "text"}, out="file/out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_directory_without_permission(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    assert "locked" in refused("--data", "iris", out="locked/out")


def test_resume_without_a_race(refused: Refused) -> None:
    assert "out" in refused("--data", "iris", "--resume")


@pytest.mark.parametrize("goal", ["1.5", "nan", "inf", "0", "-1"])
def test_a_goal_that_can_not_be_reached(goal: str, refused: Refused) -> None:
    said = refused("--data", "iris", f"--goal={goal}")
    assert f"--goal {goal} " in said or f"--goal is {goal}," in said
    assert "accuracy" in said


def test_a_goal_below_the_least_error(refused: Refused) -> None:
    said = refused("--data", "diabetes", "--goal=-3")
    assert "rmse is at least 0 by definition" in said


@pytest.mark.parametrize(
    "options",
    [
        ("--data", "nowhere.csv"),
        ("--data", "iris", "--epochs", "0"),
        ("--data", "iris", "--optimizers", ""),
        ("--data", "iris", "--schedules", ""),
        ("--data", "iris", "--goal", "2"),
        # these two show only when lanes are tried
        ("--data", "iris", "--optimizers", "torch.optim:RAdam", "--engine", "lanes"),
        ("--data", "iris", "--model", "own.py:net", "--engine", "lanes"),
    ],
    ids=" ".join,
)
def test_nothing_is_left_behind_where_no_directory_was_named(
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "own.py").write_text(UNLIKE_ITSELF)
    monkeypatch.chdir(tmp_path)
    assert app.run(["race", *options]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["own.py"]


def test_a_resume_without_a_directory(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["race", "--data", "iris", "--resume"]) == 2
    assert "--resume needs --out" in capsys.readouterr().err


def test_a_resume_of_what_is_no_race(refused: Refused) -> None:
    said = refused("--resume", files={"out/results.json": "{}"})
    assert "out is no run directory: it has no config.toml" in said


def test_a_resume_with_another_option(refused: Refused) -> None:
    config = 'kind = "race"\nversion = 1\ndata = "iris"\nbatch_size = 16\n'
    files = {"out/config.toml": config, "out/events.jsonl": "", "out/.lock": ""}
    said = refused("--batch-size", "32", "--resume", files=files)
    assert "--batch-size is 32, but the race in out was begun with 16" in said


def test_a_damaged_configuration(refused: Refused) -> None:
    files = {"out/config.toml": "kind = race", "out/events.jsonl": "", "out/.lock": ""}
    assert "config.toml can't be read" in refused("--resume", files=files)


def test_damaged_events(refused: Refused) -> None:
    files = {
        "out/config.toml": 'kind = "race"\nversion = 1\n',
        "out/events.jsonl": "{}\nno\n{}\n",
        "out/.lock": "",
    }
    assert "line 2 of out/events.jsonl is damaged" in refused("--resume", files=files)
