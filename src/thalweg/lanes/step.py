"""One training step of K lanes: forward, a loss a lane, one backward pass, and each rule on its slice."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg import runtimes
from thalweg.catalogue import Entry
from thalweg.entries import Run
from thalweg.errors import ModelError, RuleError
from thalweg.lanes.forward import Forward, lane_losses
from thalweg.lanes.randomness import LaneDraws
from thalweg.lanes.stack import Stack
from thalweg.objectives import Loss

__all__ = ["Group", "Program", "group_key"]

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


class Group:
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
        self._program, _ = runtimes.specialise(self._rule, self._hyper, self._options)
        self.rows = slice(begin, begin + len(runs))
        self.states: dict[str, list[Tensor]] = {}
        self._parameters: list[Tensor] = []
        self._cache: dict[Any, Any] = {}
        self._table: Floats | None = None
        self._hoisted = range(0)  # the steps whose scalars are in
        self._scalars: Floats = np.empty((0, 0, 0))

    def bind(self, parameters: Sequence[Tensor], states: dict[str, list[Tensor]] | None = None) -> None:
        """Point at the group's rows of these parameters; the states start anew unless given."""
        self._parameters = [p.detach()[self.rows] for p in parameters]
        self._cache = {}
        if states is None:
            states = runtimes.initial_states(
                self._rule, self._parameters, self._hyper, self._options, lanes=True
            )
        self.states = states

    def holds(self, row: int) -> bool:
        """Return whether a row of the stack is one of the group's."""
        return self.rows.start <= row < self.rows.stop

    def update(self, grads: Sequence[Tensor], t: int, factors: Floats) -> None:
        """Apply the rule to the slice, as step ``t`` (from 1), with ``factors[t - 1]`` on its rates."""
        if "lr" in self._program.decisions:  # the rule itself asks whether the rate is zero
            hyper = {**self._hyper, "lr": self._hyper["lr"] * factors[t - 1, self.rows]}
            given = [g[self.rows] for g in grads]
            runtimes.apply(
                self._rule, self._parameters, given, self.states, hyper, self._options, t, lanes=True
            )
            return
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
        self._table, self._hoisted = factors, range(t, min(t + _HOISTED, len(factors) + 1))
        steps, lanes = len(self._hoisted), self.rows.stop - self.rows.start
        hyper = {name: np.tile(values, steps) for name, values in self._hyper.items()}
        if "lr" in hyper:
            hyper["lr"] *= factors[t - 1 : t - 1 + steps, self.rows].reshape(-1)
        scalars = self._program.scalars(hyper, np.repeat(np.array(self._hoisted), lanes))
        self._scalars = scalars.reshape(len(scalars), steps, lanes).transpose(1, 0, 2).copy()


class Program:
    """What K lanes do in a step.

    Args:
        stack: the replicas, whose rows are in the order of ``runs``.
        forward: of the module.
        loss: of one run.
        runs: one a row, those with the same :func:`group_key` side by side.
        entries: the catalogue's entry of each optimizer's name.
    """

    def __init__(
        self,
        stack: Stack,
        forward: Forward,
        loss: Loss,
        runs: Sequence[Run],
        entries: Mapping[str, Entry],
    ) -> None:
        self.stack, self.forward, self._entries = stack, forward, entries
        self._losses = lane_losses(loss)
        self.device = stack.parameters[0].device
        self._used: list[int] | None = None
        self._arrange(runs)

    def _arrange(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        self.draws = LaneDraws([run.seed for run in runs], self.device)
        keys = [group_key(run, self._entries[run.setting.optimizer]) for run in runs]
        self.groups: list[Group] = []
        for _, rows in itertools.groupby(range(len(runs)), keys.__getitem__):
            members = [runs[row] for row in rows]
            begin = self.groups[-1].rows.stop if self.groups else 0
            self.groups.append(Group(self._entries[members[0].setting.optimizer], members, begin))

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
        outputs = self.forward(self.stack.tensors, inputs, draw=self.draws, training=True)
        losses = self._losses(outputs, targets)
        grads = torch.autograd.grad(losses.sum(), self.stack.parameters, allow_unused=True)
        if self._used is None:
            self._bind([index for index, g in enumerate(grads) if g is not None])
        given = [g.contiguous() for g in grads if g is not None]
        for group in self.groups:
            group.update(given, t, factors)
        return losses.detach()

    def _bind(self, used: list[int]) -> None:
        # A parameter that takes no part in the loss is left alone, as torch's optimizers leave it.
        if not used:
            raise ModelError(
                "the loss doesn't depend on any trainable parameter of the model; there is nothing to train"
            )
        self._used = used
        for group in self.groups:
            group.bind(self._updated)

    @property
    def _updated(self) -> list[Tensor]:
        assert self._used is not None
        return [self.stack.parameters[index] for index in self._used]

    @torch.no_grad()
    def predict(self, inputs: Tensor, step: int) -> Tensor:
        """Return the outputs ``[K, B, ...]`` in evaluation mode for inputs ``[K, B, ...]``."""
        self.draws.step = step
        return self.forward(self.stack.tensors, inputs, draw=self.draws, training=False)

    @torch.no_grad()
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses ``[K]``."""
        return self._losses(outputs, targets)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in ascending order; a row may be kept twice."""
        before = self.groups
        self.stack.keep(torch.tensor(rows, device=self.device))
        self._arrange([self.runs[row] for row in rows])
        if self._used is None:
            return
        kept = [group for group in before if any(group.holds(row) for row in rows)]
        for old, new in zip(kept, self.groups, strict=True):
            own = [row - old.rows.start for row in rows if old.holds(row)]
            index = torch.tensor(own, device=self.device)
            states = {
                name: [t.index_select(0, index) for t in tensors] for name, tensors in old.states.items()
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
                {name: [t.to(self.device).clone() for t in tensors] for name, tensors in states.items()},
            )
