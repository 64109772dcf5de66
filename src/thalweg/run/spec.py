"""What one run is, and what came out of it.

A :class:`Run` is one optimizer setting with one seed; a :class:`Workload` is how long runs are; an
:class:`Outcome` is what a run left behind. None of them holds a tensor, a model, a function or a file, so
that each can be written down as JSON and read back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Outcome", "Run", "Setting", "Workload"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One choice of hyperparameters for one optimizer.

    Attributes:
        optimizer: name in the catalogue, or ``file.py:rule``, ``file.py:Class``, ``torch.optim:Class``.
        hyperparameters: name to value, in the spelling of the optimizer class's arguments
            (``lr``, ``momentum``, ``beta1``, ...); names left out have their default.
        schedule: name of the schedule that multiplies ``lr`` (``"constant"``, ``"cosine"``, ...).
        schedule_options: of the schedule, such as ``{"cycles": 3}``; those left out have their default.
        initialization: of the weights: a scheme and its options as :func:`thalweg.initial.initialize` takes
            them, such as ``{"scheme": "sparse", "k": 15}``; empty: as the model makes them.
    """

    optimizer: str
    hyperparameters: Mapping[str, float | bool] = field(default_factory=dict)
    schedule: str = "constant"
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    initialization: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One setting trained once.

    Attributes:
        identity: name that is unique within a race, such as ``"r2/adam/t07/s1"``; what a lane
            draws depends on it through ``seed`` alone, never on the lane's slot.
        setting: the hyperparameters.
        seed: decides initial weights, order of examples and every other draw of this run.
    """

    identity: str
    setting: Setting
    seed: int


@dataclass(frozen=True, kw_only=True)
class Workload:
    """How long runs are, and when they are evaluated.

    Attributes:
        epochs: passes over the training split.
        batch_size: examples a step; the last batch of an epoch is dropped when it is ragged
            (every step then costs the same, in lanes as alone).
        evaluations: how often, evenly over the run, the splits are evaluated; the last one is
            after the last step, and there is one before the first.
        loss_bound: a training loss over this multiple of the initial loss counts as divergence.
        score_test: whether the test split is evaluated (confirmation runs only).
    """

    epochs: int
    batch_size: int
    evaluations: int = 20
    loss_bound: float = 100.0
    score_test: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run left behind. Lists have one value an evaluation, at ``steps``.

    Attributes:
        identity: of the run.
        steps: steps done at each evaluation, ``0`` first, the last step last. A step is a forward and
            backward pass over one batch of the workload: of first-order methods one step of the optimizer,
            of others as much work.
        train_loss: mean training-mode loss over the steps since the evaluation before
            (the first: the loss of the first batch before any step).
        validation_loss: mean loss on the validation split in evaluation mode.
        validation: metric on the validation split.
        test: metric on the test split; empty unless the workload asked for it.
        diverged_at: the step at which the run diverged, or ``None``. After it the lists hold ``None``.
        test_predictions: for each test example the one number its metric needs
            (``Metric.reduce``) after the last step; empty unless asked for.
        updates: how many steps the optimizer took, where these aren't the steps counted above.
        unmoved: whether the run came to its end and no step had moved any weight.
        stopped: why it ended before its time, where that is known in words.
        notes: what was said while it was trained, for the person.
    """

    identity: str
    steps: list[int]
    train_loss: list[float | None]
    validation_loss: list[float | None]
    validation: list[float | None]
    test: list[float | None] = field(default_factory=list)
    diverged_at: int | None = None
    test_predictions: list[float] = field(default_factory=list)
    updates: int | None = None
    unmoved: bool = False
    stopped: str | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        """Read what :meth:`to_json` wrote."""
        return cls(**values)
