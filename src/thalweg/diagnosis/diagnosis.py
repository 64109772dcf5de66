"""``thalweg.diagnose``: why a training is slow, stuck or blowing up, and what to change."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.diagnosis.diagnosing import examine
from thalweg.diagnosis.facts import Facts, gather
from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.signals import Signal, signal_of
from thalweg.diagnosis.trial import TrialRun
from thalweg.diagnosis.trying import Patient
from thalweg.errors import OptionError
from thalweg.layers.untouched import untouched
from thalweg.randomness.generators import undisturbed
from thalweg.settings import trust
from thalweg.settings.tables import MOST, whole_number

__all__ = ["Diagnosis", "diagnose", "diagnose_setup", "usual_budget"]

# A whole diagnosis costs about as many operations as a core minute has, and no more gradients than any
# finding needs; a call costs as much as so many operations, however small.
_OPERATIONS, _OF_CALL = 8e11, 1e6
_FEWEST, _MOST = 600, 16_000


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found.

    Attributes:
        findings: worst first; empty where nothing is wrong.
        setup: that was diagnosed.
        skill: of the training as it is, but for what is certainly wrong, which is mended first; 0 for a
            constant prediction and 1 for a perfect one; NaN where it wasn't trained.
        reached: skill of the best that was tried.
        gradients: what it cost, in gradients of a batch of the set-up's size.
        seconds: that it took.
        notes: what else the person should know.
        base: the training as it is, for a short while; ``None`` where it wasn't trained.
        signal: what each layer let through on the first batch; ``None`` where it couldn't be computed.
        by_loss: whether skill is the share of the first loss that is gone, for want of a better measure.
    """

    findings: list[Finding]
    setup: Setup = field(repr=False)
    skill: float
    reached: float
    gradients: float
    seconds: float
    notes: tuple[str, ...] = ()
    base: TrialRun | None = field(default=None, repr=False)
    signal: Signal | None = field(default=None, repr=False)
    by_loss: bool = False

    @property
    def scale(self) -> str:
        """What 0 and 1 of its skills mean, in words."""
        return "the share of the first loss that is gone" if self.by_loss else "0 is a constant prediction"

    @property
    def healthy(self) -> bool:
        """Whether there is neither an error nor a risk."""
        return all(finding.severity == "advice" for finding in self.findings)

    def repaired(self) -> Setup:
        """Return the set-up with the first remedy that code can carry out, of the worst finding that has one.

        Raises:
            OptionError: there is none.
        """
        for finding in self.findings:
            remedy = finding.remedy
            if finding.severity != "advice" and remedy is not None and remedy.change is not None:
                return remedy.apply(self.setup)
        raise OptionError("no finding has a remedy that can be applied by itself; see their texts")

    def __str__(self) -> str:
        cost = f"{self.gradients:,.0f} gradient evaluations, {self.seconds:.1f} s"
        worst = [finding for finding in self.findings if finding.severity != "advice"]
        lines = []
        if not worst:
            fine = not self.skill < 0.1
            what = "Nothing is wrong" if fine else "Nothing was found that mends it"
            lines.append(f"{what}: skill {self.skill:.2f} of 1 ({self.scale}).")
        lines += [f"{number}. {finding}" for number, finding in enumerate(self.findings, 1)]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, f"This took {cost}."])

    def __repr__(self) -> str:
        codes = ", ".join(f.code for f in self.findings) or "nothing"
        return f"Diagnosis({codes}; skill {self.skill:.2f}, {self.gradients:,.0f} gradient evaluations)"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


@trust.runs_own_code
def diagnose(
    model: nn.Module | Callable[[], nn.Module],
    data: Any,
    loss: str | Callable[[Any, Any], Any],
    optimizer: torch.optim.Optimizer | str | Callable[..., torch.optim.Optimizer],
    *,
    batch_size: int | None = None,
    epochs: int = 10,
    metric: Any = None,
    validation: Any = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> Diagnosis:
    """Say why a training is slow, stuck or blowing up, and what to change; or that nothing is wrong.

    What follows from model, data and loss alone is certain. Everything else is tried: short trainings with a
    single change each, at equal gradient evaluations, judged by skill
    (:mod:`thalweg.diagnosis.skill`), which doesn't depend on the loss. Model, data, optimizer and generators
    are left as they were: copies are trained.

    Args:
        model: any module, as it is before the first step; or a function without arguments that makes one.
        data: ``(inputs, targets)``, a Dataset or a DataLoader, whose order and size of batches then count.
        loss: a name, or a function of outputs and targets, called as a plain loop calls it.
        optimizer: over the model's parameters; or a function of parameters; or a name.
        batch_size: of data that don't come in batches; by default 32.
        epochs: how long the training is meant to be.
        metric: what you call good, such as ``"accuracy"``; it settles whether numbers are classes.
        validation: as ``data``; without, a fifth of the training data is held out.
        budget: gradient evaluations of one batch that may be computed; by default 600 to 16,000, by what
            one costs.
        seed: of everything random.
        progress: called with what is being done, and the share of the budget that is spent.

    Raises:
        UserError: something given can't be used, in one sentence.

    >>> import thalweg
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(400, 4)
    >>> y = (x[:, 0] > x[:, 1]).float()
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softmax(dim=1))
    >>> found = thalweg.diagnose(
    ...     model, (x, y[:, None]), nn.BCELoss(), torch.optim.Adam(model.parameters(), lr=0.01)
    ... )
    >>> found.findings[0].code, found.findings[0].title
    ('output-activation', 'softmax over a single output is always 1')

    Source: INDEX X1-X9, R7, R8.
    """
    begun = time.monotonic()
    seed = whole_number("seed", seed, least=0, most=MOST["seed"])
    if budget is not None:
        budget = whole_number("budget", budget, least=1)
    with undisturbed(data, validation):
        setup = Setup.of(
            model,
            data,
            loss,
            optimizer,
            batch_size=batch_size,
            epochs=epochs,
            metric=metric,
            validation=validation,
        )
        given = [model] if isinstance(model, nn.Module) else []
        with untouched(given[0]) if given else undisturbed():
            return diagnose_setup(setup, budget=budget, seed=seed, progress=progress, begun=begun)


def diagnose_setup(
    setup: Setup,
    *,
    budget: int | None = None,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
    begun: float | None = None,
) -> Diagnosis:
    """Diagnose a set-up; arguments as for :func:`thalweg.diagnose`.

    Args:
        begun: when this began, by ``time.monotonic``; by default now.
    """
    begun = time.monotonic() if begun is None else begun
    with undisturbed():
        facts = gather(setup, seed=seed)
        patient = Patient(
            facts=facts,
            budget=float(usual_budget(facts) if budget is None else budget),
            seed=seed,
            say=progress or (lambda what, share: None),
            unit=setup.batch_size,
        )
        examine(patient)
    if facts.evaluating:
        patient.notes.append(
            "the model was given in evaluation mode, in which dropout and batch norm stand still; here it "
            "was trained in training mode: call model.train() before your loop"
        )
    return Diagnosis(
        findings=patient.findings,
        setup=setup,
        skill=patient.score,
        reached=patient.reached,
        gradients=patient.spent,
        seconds=time.monotonic() - begun,
        notes=tuple(patient.notes),
        base=patient.base,
        signal=signal_of(facts),
        by_loss=patient.facts.judge.kind == "other",
    )


def usual_budget(facts: Facts) -> int:
    """Return how many gradients a diagnosis may compute, by the operations that one takes.

    A weight is multiplied and added once at each position of its output, and twice as often on the way back;
    beside that every call costs time, and in a recurrent layer every step.
    """
    traced = facts.traced
    if traced is None:
        return _MOST
    whole = 0.0
    for op in traced.model:
        matrices = [p for p in op.parameters if p.ndim > 1]
        examples = max(1, op.shape[0]) if op.shape else 1
        if op.kind == "recurrent":
            steps = op.shape[1] if len(op.shape) > 2 else 1
            whole += 2 * sum(p.numel() for p in matrices) * examples * steps + _OF_CALL * steps
        elif matrices and op.kind in ("weights", "attention"):
            features = matrices[0].shape[0] or 1
            whole += 2 * sum(p.numel() for p in matrices) * max(1, math.prod(op.shape) // features)
        whole += _OF_CALL
    scale = facts.setup.batch_size / max(1, len(facts.outputs) if isinstance(facts.outputs, Tensor) else 1)
    return int(min(_MOST, max(_FEWEST, _OPERATIONS / max(1.0, 3 * whole * max(1.0, scale)))))
