"""The command as a whole: help, version, errors, signals, and what it imports when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import typer

import thalweg
import thalweg.commands
from thalweg.commands import app
from thalweg.commands.race import race
from thalweg.errors import DataError, Interrupted, ThalwegError

# pydantic isn't among them: typer itself imports it to read arguments
HEAVY = ("torch", "numpy", "bokeh", "polars", "sklearn", "scipy", "numba", "pandas", "rich.live")


@pytest.fixture
def fake_race(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a race in place of the real one that only notes how it was called, or raises."""

    class Fake:
        called: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        raises: BaseException | None = None

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            self.called = arguments, options
            if self.raises is not None:
                raise self.raises
            return types.SimpleNamespace(
                model_dump_json=lambda indent: json.dumps({"fake": 1}, indent=indent)
            )

    fake = Fake()
    module = types.ModuleType("thalweg.commands.verbs")
    module.race = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "thalweg.commands.verbs", module)
    monkeypatch.setattr(thalweg.commands, "verbs", module, raising=False)
    return fake


def imported_by(*arguments: str) -> set[str]:
    """Run the command in a process of its own and return the heavy modules that it had imported."""
    code = (
        "import sys; from thalweg.commands.app import run; code = run(sys.argv[1:]); "
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [(), ("--help",), ("--version",), ("race", "--help"), ("list", "--help"), ("report", "-h")],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert imported_by(*arguments) == set()


def test_list_of_schedules_needs_no_torch_to_say_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["list", "schedule"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "'schedule'" in said.err
    assert "schedules" in said.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--version"]) == 0
    assert capsys.readouterr().out == f"thalweg {thalweg.__version__}\n"


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "thalweg", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"thalweg {thalweg.__version__}\n", "")


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([]) == 0
    assert "race" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["raec"], "'race'"),
        (["race", "--optimisers", "adam"], "--optimizers"),
        (["race", "--engine", "lane"], "'lanes'"),
        (["race", "--missing", "mean"], "'median'"),
        (["race", "--task", "regresion"], "'regression'"),
        (["race", "--trials", "many"], "--trials"),
        (["race", "--space", "adam.lr"], "NAME.HYPER=LOW:HIGH"),
        (["race", "--space", "lr=1:2"], "NAME.HYPER=LOW:HIGH"),
        (["race", "--space", "adam.lr=a:b"], "NAME.HYPER=LOW:HIGH"),
        (["race", "--type", "zip"], "COLUMN=category"),
        (["race", "--type", "zip=categorical"], "'category'"),
        (["report"], "DIR"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_are_one_sentence_and_exit_2(
    arguments: list[str], said: str, fake_race: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert fake_race.called is None


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            DataError("houses.csv isn't there;\n  look again"),
            2,
            "error: houses.csv isn't there; look again\n",
        ),
        (ThalwegError("the disk is full"), 1, "error: the disk is full\n"),
        (Interrupted("interrupted; --resume goes on"), 130, "interrupted; --resume goes on\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
    ids=["user", "other", "interrupted", "ctrl-c"],
)
def test_errors_are_one_line_on_stderr(
    error: BaseException, code: int, line: str, fake_race: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_race.raises = error
    assert app.run(["race", "--data", "digits"]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line)


def test_our_own_mistakes_keep_their_traceback(fake_race: Any) -> None:
    fake_race.raises = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError, match="ours"):
        app.run(["race"])


@pytest.mark.parametrize("interrupt", [signal.default_int_handler, signal.SIG_IGN], ids=["heard", "ignored"])
def test_sigterm_is_ctrl_c(fake_race: Any, monkeypatch: pytest.MonkeyPatch, interrupt: Any) -> None:
    before, of_interrupt = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, interrupt)

    def race(*_arguments: Any, **_options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        # another thread of the process may be the one that hears it, and this one a moment later
        for _ in range(1000):
            time.sleep(0.01)
        raise AssertionError("the signal should have come")

    monkeypatch.setattr(sys.modules["thalweg.commands.verbs"], "race", race)
    try:
        assert app.run(["race"]) == 130
    finally:
        signal.signal(signal.SIGINT, of_interrupt)
    assert signal.getsignal(signal.SIGTERM) is before


def test_race_hands_every_option_on(fake_race: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *("race", "--data", "my houses.csv", "--target", "price", "--task", "regression"),
        *("--model", "mlp:8", "--loss", "huber", "--metric", "r2", "--missing", "median"),
        *("--output", "decoder.logits", "--validation-loss", "mae"),
        *("--type", "zip=category", "--type", "a=b=number"),
        *("--optimizers", "sgd, adam,mine.py:rule", "--schedules", "constant,cosine"),
        *("--space", "adam.lr=1e-4:1e-1", "--space", "mine.py:rule.lr=0.5:2"),
        *("--trials", "7", "--splits", "3", "--confirm", "4", "--epochs", "5", "--batch-size", "16"),
        *("--minutes", "1.5", "--goal", "0.95", "--margin", "0.01", "--seed", "11"),
        *("--device", "cuda:0", "--engine", "loop", "--eliminate", "--out", "here", "--resume", "--json"),
    ]
    assert app.run(arguments) == 0
    positional, options = fake_race.called
    assert positional == ()
    watcher = options.pop("watcher")
    assert hasattr(watcher, "understood")
    assert options == {
        "model": "mlp:8",
        "data": "my houses.csv",
        "target": "price",
        "task": "regression",
        "missing": "median",
        "types": {"zip": "category", "a=b": "number"},
        "loss": "huber",
        "metric": "r2",
        "output": "decoder.logits",
        "validation_loss": "mae",
        "optimizers": ["sgd", "adam", "mine.py:rule"],
        "spaces": {"adam.lr": (1e-4, 1e-1), "mine.py:rule.lr": (0.5, 2.0)},
        "schedules": ["constant", "cosine"],
        "initializations": None,
        "trials": 7,
        "splits": 3,
        "confirm": 4,
        "epochs": 5,
        "batch_size": 16,
        "minutes": 1.5,
        "goal": 0.95,
        "margin": 0.01,
        "seed": 11,
        "device": "cuda:0",
        "engine": "loop",
        "eliminate": True,
        "out": Path("here"),
        "resume": True,
        "trust_code": False,
        "command": "thalweg "
        + " ".join(arguments)
        .replace("my houses.csv", "'my houses.csv'")
        .replace("sgd, adam,mine.py:rule", "'sgd, adam,mine.py:rule'"),
    }
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"fake": 1}


def test_race_alone_hands_on_the_defaults(fake_race: Any) -> None:
    assert app.run(["race"]) == 0
    positional, options = fake_race.called
    assert positional == ()
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    del given["watcher"]
    assert given == {
        "splits": 5,
        "confirm": 2,
        "seed": 0,
        "device": "cpu",
        "engine": "auto",
        "command": "thalweg race",
    }


def test_the_defaults_that_the_help_names_are_those_of_a_race() -> None:
    from thalweg.layers import models
    from thalweg.racing import options as asked

    hints = typing.get_type_hints(race, include_extras=True)
    shown = {name: typing.get_args(hints[name])[1].show_default for name in ("model", "schedules", "trials")}
    assert shown == {
        "model": f"{models.default((256,))}, or {models.default((257,))} beyond 256 inputs",
        "schedules": ",".join(asked.DEFAULT_SCHEDULES),
        "trials": str(asked.DEFAULT_TRIALS),
    }


@pytest.mark.parametrize(
    ("machine", "before", "after"),
    [("x86_64", None, "AVX2"), ("AMD64", "COMPATIBLE", "COMPATIBLE"), ("aarch64", None, None)],
)
def test_mkl_is_told_to_be_repeatable_on_x86_unless_told_otherwise(
    machine: str, before: str | None, after: str | None, fake_race: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.delenv("MKL_CBWR", raising=False)
    if before is not None:
        monkeypatch.setenv("MKL_CBWR", before)
    else:
        # so that what the command sets is taken back after the test
        monkeypatch.setenv("MKL_CBWR", "")
        monkeypatch.delenv("MKL_CBWR")
    assert app.run(["race"]) == 0
    assert os.environ.get("MKL_CBWR") == after


def test_mkl_is_told_before_torch_is_imported() -> None:
    code = (
        "import os, sys\n"
        "class Look:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            print(os.environ.get('MKL_CBWR')); sys.stdout.flush(); os._exit(7)\n"
        "sys.meta_path.insert(0, Look())\n"
        "import platform; platform.machine = lambda: 'x86_64'\n"
        "from thalweg.commands.app import run; run(['race', '--data', 'digits'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (done.returncode, done.stdout) == (7, "AVX2\n"), done.stderr


def test_the_package_offers_its_parts_lazily() -> None:
    code = (
        "import sys, thalweg; assert set(thalweg.__all__) <= set(dir(thalweg)); "
        f"print(*[name for name in {HEAVY!r} if name in sys.modules]); "
        "thalweg.errors.UserError; thalweg.schedules.build('cosine', total=3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "\n"
    with pytest.raises(AttributeError, match="no attribute 'rase'"):
        _ = thalweg.rase  # type: ignore[attr-defined]


@pytest.mark.parametrize("flag", ["--trust-code", "--device", "--json"])
def test_an_option_of_several_verbs_is_declared_once(flag: str) -> None:
    """As written in help, and in the source: a second place would come to say something else."""
    commands = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]
    helps = {
        name: parameter.help
        for name, command in commands.items()
        for parameter in command.params
        # whose JSON isn't results.json
        if flag in parameter.opts and not (flag == "--json" and name in ("list", "diagnose"))
    }
    expected = {"race", "train", "transfer"} | (set() if flag == "--json" else {"predict", "diagnose"})
    assert set(helps) == expected
    assert len(set(helps.values())) == 1
    said = next(iter(helps.values()))
    assert said
    sources = [path.read_text(encoding="utf-8") for path in Path(thalweg.__file__).parent.rglob("*.py")]
    assert sum(source.count(f'"{said}"') for source in sources) == 1
