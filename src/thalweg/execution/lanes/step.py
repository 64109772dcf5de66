"""One training step of K lanes: forward, a loss a lane, one backward pass, and each rule on its slice."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg import runtimes
from thalweg.catalogue import Entry
from thalweg.errors import ModelError, RuleError
from thalweg.execution.lanes.forward import Forward, lane_losses, measured_losses
from thalweg.execution.lanes.stack import Stack
from thalweg.objectives import Loss
from thalweg.randomness.generators import noticed_draws
from thalweg.randomness.keyed import LaneDraws
from thalweg.rules import MatrixRule
from thalweg.rules import Program as Ahead
from thalweg.run.spec import Run

__all__ = ["LaneGroup", "LaneProgram", "group_key"]

Floats = npt.NDArray[np.float64]

_HOISTED = 64  # steps


def group_key(run: Run, entry: Entry) -> tuple[Any, ...]:
    """Return what lanes must have in common to be updated by one call: rule, options, which values are 0.

    Raises:
        RuleError: the optimizer is a class without a rule, which lanes can't run.
    """
    if entry.rule is None:
        raise RuleError(
            f"{entry.name} is a torch class without a rule of ours, so it can't run in lanes; "
            f"use the loop engine for it"
        )
    hyper = entry.rule_hyperparameters(run.setting.hyperparameters)
    zero = tuple(sorted(name for name, value in hyper.items() if value == 0))
    return entry.name, tuple(sorted(entry.options.items())), zero


class LaneGroup:
    """The lanes of one rule: a contiguous slice of the stack, with states and hyperparameters of their own.

    Args:
        entry: of the catalogue.
        runs: of the slice, in order.
        begin: row of the first.
    """

    def __init__(self, entry: Entry, runs: Sequence[Run], begin: int) -> None:
        assert entry.rule is not None
        self._rule, self._options = entry.rule, dict(entry.options)
        each = [entry.rule_hyperparameters(run.setting.hyperparameters) for run in runs]
        self._hyper = {name: np.array([hyper[name] for hyper in each]) for name in each[0]}
        self._program: Ahead | None = None  # of a matrix rule there is none
        if not isinstance(self._rule, MatrixRule):
            self._program, _ = runtimes.specialise(self._rule, self._hyper, self._options)
        # The rule itself asks whether the rate is zero, or a step's scalars follow from the step before.
        program = self._program
        self._stepwise = program is None or "lr" in program.decisions or bool(program.scalar_states)
        self.rows = slice(begin, begin + len(runs))
        self.states: dict[str, list[Tensor]] = {}
        self._parameters: list[Tensor] = []
        self._cache: dict[Any, Any] = {}
        self._table: Floats | None = None
        self._hoisted = range(0)  # the steps whose scalars are in
        self._scalars: Floats = np.empty((0, 0, 0))

    def begin(self, parameters: Sequence[Tensor], factors: Floats) -> None:
        """Bind with new states, which may depend on the first rates: the base times ``factors`` ``[K]``."""
        own = [p.detach()[self.rows] for p in parameters]
        hyper = self._rated(factors)
        self.bind(parameters, runtimes.initial_states(self._rule, own, hyper, self._options, lanes=True))

    def bind(self, parameters: Sequence[Tensor], states: dict[str, list[Tensor]]) -> None:
        """Point at the group's rows of these parameters, and at these states of theirs."""
        self._parameters = [p.detach()[self.rows] for p in parameters]
        # it holds addresses of the tensors before
        self._cache = {}
        # Numbers are the host's, wherever a checkpoint has put them.
        numbers = () if self._program is None else self._program.scalar_states
        self.states = states | {name: [number.cpu() for number in states[name]] for name in numbers}

    @property
    def shows_itself(self) -> bool:
        """Whether the parameters themselves are what is evaluated."""
        return self._rule.shown is None

    def show(self, parameters: Sequence[Tensor]) -> None:
        """Put what is to be evaluated into the group's rows of copies of the parameters."""
        if self.shows_itself:
            return
        means = runtimes.shown(self._rule, self._parameters, self.states, self._hyper, lanes=True)
        for p, mean in zip(parameters, means, strict=True):
            p[self.rows] = mean

    def holds(self, row: int) -> bool:
        """Return whether a row of the stack is one of the group's."""
        return self.rows.start <= row < self.rows.stop

    def _rated(self, factors: Floats) -> dict[str, Floats]:
        """Return the hyperparameters with ``factors`` ``[K]`` of the stack on the rates."""
        if "lr" not in self._hyper:
            return self._hyper
        return {**self._hyper, "lr": self._hyper["lr"] * factors[self.rows]}

    def update(self, grads: Sequence[Tensor], t: int, factors: Floats) -> None:
        """Apply the rule to the slice, as step ``t`` (from 1), with ``factors[t - 1]`` on its rates."""
        if self._stepwise:
            given = [g[self.rows] for g in grads]
            runtimes.apply(
                self._rule,
                self._parameters,
                given,
                self.states,
                self._rated(factors[t - 1]),
                self._options,
                t,
                lanes=True,
                cache=self._cache,
            )
            return
        assert self._program is not None
        if t not in self._hoisted or factors is not self._table:
            self._hoist(t, factors)
        runtimes.launch(
            self._program,
            self._parameters,
            [g[self.rows] for g in grads],
            self.states,
            self._scalars[t - self._hoisted.start],
            cache=self._cache,
        )

    def _hoist(self, t: int, factors: Floats) -> None:
        """Compute what depends on scalars alone for many steps at once: ``[steps, S, K]`` from step t on."""
        assert self._program is not None
        self._table, self._hoisted = factors, range(t, min(t + _HOISTED, len(factors) + 1))
        steps, lanes = len(self._hoisted), self.rows.stop - self.rows.start
        hyper = {name: np.tile(values, steps) for name, values in self._hyper.items()}
        if "lr" in hyper:
            hyper["lr"] *= factors[t - 1 : t - 1 + steps, self.rows].reshape(-1)
        scalars = self._program.scalars(hyper, np.repeat(np.array(self._hoisted), lanes))
        # a step hands one block on, which has to be contiguous
        self._scalars = scalars.reshape(len(scalars), steps, lanes).transpose(1, 0, 2).copy()


class LaneProgram:
    """What K lanes do in a step.

    Args:
        stack: the replicas, whose rows are in the order of ``runs``.
        forward: of the module.
        loss: of one run.
        runs: one a row, those with the same :func:`group_key` side by side.
        entries: the catalogue's entry of each optimizer's name.
        judged: the loss that is evaluated, where that is another.
    """

    def __init__(
        self,
        stack: Stack,
        forward: Forward,
        loss: Loss,
        runs: Sequence[Run],
        entries: Mapping[str, Entry],
        judged: Loss | None = None,
    ) -> None:
        self.stack, self.forward, self._entries = stack, forward, entries
        self._losses = lane_losses(loss)
        self._judged = self._losses if judged is None else lane_losses(judged)
        self._measured = measured_losses(loss if judged is None else judged)
        self.device = stack.parameters[0].device
        self._used: list[int] | None = None
        self._arrange(runs)

    def _arrange(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        self.draws = LaneDraws([run.seed for run in runs], self.device)
        keys = [group_key(run, self._entries[run.setting.optimizer]) for run in runs]
        self.groups: list[LaneGroup] = []
        for _, rows in itertools.groupby(range(len(runs)), keys.__getitem__):
            members = [runs[row] for row in rows]
            begin = self.groups[-1].rows.stop if self.groups else 0
            self.groups.append(LaneGroup(self._entries[members[0].setting.optimizer], members, begin))

    def step(self, inputs: Tensor, targets: Tensor, t: int, factors: Floats) -> Tensor:
        """Train every lane by one step.

        Args:
            inputs: ``[K, B, ...]``.
            targets: ``[K, B, ...]``.
            t: number of the step, from 1.
            factors: ``[steps, K]``, what the schedules multiply the learning rates by; read in blocks, so
                give another array when they change.

        Returns:
            The losses ``[K]`` before the step.
        """
        self.draws.step = t - 1
        outputs = self._outputs(inputs)
        losses = self._losses(outputs, targets)
        # lanes share no parameter: the gradient of the sum is that of each lane's own loss
        grads = torch.autograd.grad(losses.sum(), self.stack.parameters, allow_unused=True)
        if self._used is None:
            self._begin([index for index, g in enumerate(grads) if g is not None], factors[t - 1])
        # kernels read plain memory, laid out as the parameters are
        given = [g.contiguous() for g in grads if g is not None]
        for group in self.groups:
            group.update(given, t, factors)
        return losses.detach()

    def _outputs(self, inputs: Any) -> Any:
        """Run the training pass; the first one is watched for draws that would be the same in all lanes."""
        watched: AbstractContextManager[list[str]] = (
            noticed_draws() if self._used is None else nullcontext([])
        )
        with watched as whose:
            outputs = self.forward(self.stack.tensors, inputs, draw=self.draws, training=True)
        if whose:
            raise ModelError(
                f"the model draws from {' and '.join(whose)} generator, which has no numbers of its own for "
                "each lane; use the loop engine, or draw by torch.rand and the like"
            )
        return outputs

    def _begin(self, used: list[int], factors: Floats) -> None:
        # A parameter that takes no part in the loss is left alone, as torch's optimizers leave it.
        if not used:
            raise ModelError(
                "the loss doesn't depend on any trainable parameter of the model; there is nothing to train"
            )
        self._used = used
        for group in self.groups:
            group.begin(self._updated, factors)

    @property
    def _updated(self) -> list[Tensor]:
        assert self._used is not None
        return [self.stack.parameters[index] for index in self._used]

    @torch.no_grad()
    def predict(self, inputs: Any, step: int) -> Any:
        """Return the outputs ``[K, B, ...]`` in evaluation mode for inputs ``[K, B, ...]``."""
        self.draws.step = step
        return self.forward(self.shown(), inputs, draw=self.draws, training=False)

    def shown(self) -> dict[str, Tensor]:
        """Return parameters and buffers ``[K, ...]`` by name, as they are to be evaluated."""
        if self._used is None or all(group.shows_itself for group in self.groups):
            return self.stack.tensors
        names = [self.stack.trainable[index] for index in self._used]
        copies = {name: self.stack.tensors[name].clone() for name in names}
        for group in self.groups:
            group.show(list(copies.values()))
        return self.stack.tensors | copies

    @torch.no_grad()
    def losses(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the losses ``[K]`` that are evaluated."""
        return self._judged(outputs, targets)

    @torch.no_grad()
    def measured_losses(self, outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the losses ``[K]`` of a block and what they divide by; see :func:`measured_losses`."""
        return self._measured(outputs, targets)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in ascending order; a row may be kept twice."""
        before = self.groups
        self.stack.keep(torch.tensor(rows, device=self.device))
        self._arrange([self.runs[row] for row in rows])
        if self._used is None:
            return
        kept = [group for group in before if any(group.holds(row) for row in rows)]
        # rows ascend, so the groups that are left stand in the order in which they stood
        for old, new in zip(kept, self.groups, strict=True):
            own = [row - old.rows.start for row in rows if old.holds(row)]
            index = torch.tensor(own, device=self.device)
            states = {
                name: [t.index_select(0, index.to(t.device)) for t in tensors]
                for name, tensors in old.states.items()
            }
            new.bind(self._updated, states)

    def state(self) -> dict[str, Any]:
        """Return everything that a step changes: tensors by name, without copies."""
        return {
            "tensors": {name: tensor.detach() for name, tensor in self.stack.tensors.items()},
            "used": self._used,
            "states": [group.states for group in self.groups],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` returned for the same runs."""
        for name, tensor in state["tensors"].items():
            self.stack.tensors[name].data.copy_(tensor)
        if state["used"] is None:
            return
        self._used = list(state["used"])
        for group, states in zip(self.groups, state["states"], strict=True):
            group.bind(
                self._updated,
                # copies: whoever keeps the state may hand it out again
                {name: [t.to(self.device).clone() for t in tensors] for name, tensors in states.items()},
            )
