"""What a race can be asked for: each option is declared here, once.

From these fields come the signature and the docstring of ``thalweg.race``, the options of the command, the
table in the README, the checks of numbers, and what a run's directory keeps. Nothing heavy is imported, since
the command's help is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from thalweg.racing.watch import RaceWatcher
from thalweg.settings.choices import ColumnType, EngineChoice, Missing, TaskKind
from thalweg.settings.declared import DEVICE, TRUST_CODE, Declared

__all__ = ["DEFAULT_SCHEDULES", "DEFAULT_TRIALS", "Options"]

DEFAULT_SCHEDULES = ("constant", "cosine", "linear")
DEFAULT_TRIALS = 16

_PROBLEM = "The problem"
_FIELD = "Who races"
_EFFORT = "How much compute"
_VERDICT = "The verdict"
_RUNNING = "How it runs"

_OBJECTS = (
    "model", "data", "loss", "metric", "validation_loss", "output", "collate", "watcher", "executor",
)  # fmt: skip
_NAMES = ("optimizers", "schedules", "initializations")


@dataclass(frozen=True)
class Options:
    """What a race was asked for, as given; ``None`` means that the race decides."""

    # fmt: off
    model: Annotated[Any, Declared(
        "linear, mlp:128,64, cnn:16,32, file.py:factory or package.module:factory.", _PROBLEM,
        python="also a factory, a module class or a module",
        shown="mlp:64, or mlp:128,64 beyond 256 inputs",
    )] = None
    data: Annotated[Any, Declared(
        "A built-in name, a file (CSV, Parquet, JSON lines, NPZ), idx:DIR, images:DIR, file.py:function or "
        "package.module:function.", _PROBLEM,
        python="also tensors, arrays, a Dataset, a pair of Datasets or a data frame, inputs by name too",
    )] = None
    _: KW_ONLY
    target: Annotated[str | None, Declared("The column or entry to predict.", _PROBLEM)] = None
    task: Annotated[TaskKind | None, Declared(
        "What the target is, where its values don't settle it.", _PROBLEM,
    )] = None
    missing: Annotated[Missing | None, Declared(
        "Missing values: drop their rows, or put the training split's median in their place; without it they "
        "are refused.", _PROBLEM,
    )] = None
    types: Annotated[Mapping[str, ColumnType] | None, Declared(
        "Read a column as this type, or leave it out; may be repeated.", _PROBLEM,
        python='a mapping, such as {"zip": "category"}', metavar="COLUMN=category|number|ignore",
    )] = None
    loss: Annotated[str | Callable[..., Any] | None, Declared(
        "By name, or file.py:function.", _PROBLEM, python="also a function", shown="the task's usual one",
    )] = None
    metric: Annotated[str | Callable[..., Any] | None, Declared(
        "What validation chooses by and the verdict is about: by name, or file.py:function.", _PROBLEM,
        python="also a function", shown="the task's usual one",
    )] = None
    validation_loss: Annotated[str | Callable[..., Any] | None, Declared(
        "What validation and test are scored by in place of the loss, likewise; where the data settle no "
        "metric, validation chooses by it.", _PROBLEM, python="also a function", shown="the loss",
    )] = None
    output: Annotated[Any, Declared(
        "The part of what the model returns that is compared with targets, where that isn't clear by itself: "
        "a name, or several with dots between them.", _PROBLEM,
        python="also a position, or a function of what it returns", shown="logits, or what else is clear",
    )] = None
    optimizers: Annotated[Sequence[Any] | None, Declared(
        "Names, all, file.py:my_rule, file.py:Class or torch.optim:Class.", _FIELD,
        python="a list of these, and of rules and classes",
        shown="the seven basic first-order ones",
    )] = None
    spaces: Annotated[Mapping[str, tuple[float, float]] | None, Declared(
        "Search this range, for example adam.lr=1e-4:1e-1; may be repeated.", _FIELD,
        python='a mapping, such as {"adam.lr": (1e-4, 1e-1), "sparse.k": (5, 30)}',
        metavar="NAME.HYPER=LOW:HIGH",
    )] = None
    schedules: Annotated[Sequence[str] | None, Declared(
        "The learning-rate schedules that every optimizer may draw.", _FIELD,
        shown=",".join(DEFAULT_SCHEDULES),
    )] = None
    initializations: Annotated[Sequence[str] | None, Declared(
        "How weights may begin, scale and sparsity searched: default,sparse,normalized,...", _FIELD,
        shown="default, as the model makes them",
    )] = None
    trials: Annotated[int | None, Declared(
        "Settings an optimizer tries in each split.", _EFFORT, shown=str(DEFAULT_TRIALS), least=1,
    )] = None
    splits: Annotated[int, Declared("Splits of the data, each with its own tuning.", _EFFORT, least=2)] = 5
    confirm: Annotated[int, Declared(
        "Fresh seeds that confirm the winner of a split.", _EFFORT, least=1,
    )] = 2
    epochs: Annotated[int | None, Declared(
        "Passes over the training split.", _EFFORT, shown="about 700 steps", least=1,
    )] = None
    batch_size: Annotated[int | None, Declared(
        "Examples a step.", _EFFORT, shown="a power of two, by the data", least=1,
    )] = None
    minutes: Annotated[float | None, Declared(
        "A budget of time: the plan is made to fit it by an estimate, and cut by the clock, but never to "
        "fewer than two splits.", _EFFORT, above=0,
    )] = None
    eliminate: Annotated[bool, Declared(
        "Stop hopeless settings early, at a quarter and at half of the run, within an optimizer's own pool, "
        "and audit what was stopped.", _EFFORT,
    )] = False
    goal: Annotated[float | None, Declared(
        "The validation metric to reach: steps, passes and seconds to it are reported.", _VERDICT,
        shown="what the best untuned optimizer reaches",
    )] = None
    margin: Annotated[float | None, Declared(
        "Differences of the metric below this are of no interest.", _VERDICT,
        shown="the metric's usual one", above=0,
    )] = None
    seed: Annotated[int, Declared("Decides every draw.", _RUNNING, least=0)] = 0
    device: Annotated[str, DEVICE.within(_RUNNING)] = "cpu"
    engine: Annotated[EngineChoice, Declared(
        "All runs as one program, one after another, or what a measurement says is faster.", _RUNNING,
    )] = "auto"
    collate: Annotated[Callable[..., Any] | None, Declared(
        "Turns a list of a Dataset's items into a batch.",
    )] = None
    out: Annotated[str | Path | None, Declared(
        "The run directory.", _RUNNING, shown="runs/race-DATA-TIME", metavar="DIR", stored=False,
    )] = None
    resume: Annotated[bool, Declared(
        "Go on with the race that stands in the run directory.", _RUNNING, stored=False,
    )] = False
    trust_code: Annotated[bool, TRUST_CODE.within(_RUNNING)] = False
    watcher: Annotated[RaceWatcher | None, Declared("Told what happens.", stored=False)] = None
    executor: Annotated[Any, Declared(
        "Carries the runs out elsewhere; by default they are, here or in processes of this machine.",
        stored=False,
    )] = None
    command: Annotated[str | None, Declared(
        "How to make this race again, for the report.", stored=False,
    )] = None
    # fmt: on

    def __post_init__(self) -> None:
        """Take NumPy's numbers for what they are: what is written down and compared is plain."""
        # which imports NumPy
        from thalweg.settings.tables import plain_numbers

        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _NAMES and hasattr(value, "tolist"):
                value = value.tolist()
            if field.name not in _OBJECTS:
                object.__setattr__(self, field.name, plain_numbers(value))
