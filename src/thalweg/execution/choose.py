"""Lanes or loop: a short measurement decides, and says why."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.data.examples import in_tensors
from thalweg.errors import ModelError, OptionError
from thalweg.execution.journal import Journal
from thalweg.execution.lanes.forward import forward_of
from thalweg.execution.lanes.memory_estimate import available_bytes, lane_bytes, lanes_that_fit
from thalweg.execution.lanes.stack import Stack, refusal
from thalweg.execution.lanes.step import LaneProgram, group_key
from thalweg.execution.pool import not_portable
from thalweg.execution.timing import now, step_seconds
from thalweg.layers.modes import begin_training
from thalweg.objectives.nests import mapped
from thalweg.randomness.generators import undisturbed
from thalweg.randomness.keyed import Keyed, RunDraws
from thalweg.run.problem import Problem
from thalweg.run.spec import Run, Workload
from thalweg.run.threads import with_threads
from thalweg.run.workers import cores
from thalweg.settings.choices import EngineKind

__all__ = ["Choice", "choose", "choose_once"]

# seconds that several processes cost: to start, to read their data, and to wait for the last at each end
_STARTING = 1.5
# of what so many processes would do if each were alone
_SHARED = 0.85


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An engine, and why it was chosen.

    Attributes:
        kind: ``"lanes"`` or ``"loop"``.
        forward: form of the forward pass: ``"batched"``, ``"vmap"``, or ``"module"`` in the loop.
        reason: a sentence.
        chunk: runs that are one program; 1 in the loop.
        processes: runs at a time in processes of their own; in lanes, those that can't be one.
        threads: torch threads of lanes; of each process in the loop.
        loop_threads: torch threads of each process, in lanes too.
        lane_processes: programs of lanes at a time, in processes of their own where there are several.
        lane_seconds: a step of ``chunk`` lanes, divided by ``chunk`` and by the processes; ``None`` where it
            wasn't measured.
        loop_seconds: a step of a run alone, divided by ``processes``; likewise.
    """

    kind: EngineKind
    forward: str
    reason: str
    chunk: int
    processes: int
    threads: int
    loop_threads: int
    lane_processes: int = 1
    lane_seconds: float | None = None
    loop_seconds: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Choice:
        """Read a choice that was written down, perhaps among other things."""
        return cls(**{each.name: values[each.name] for each in fields(cls) if each.name in values})


@undisturbed()
def choose(
    runs: Sequence[Run],
    problem: Problem,
    workload: Workload,
    *,
    engine: str = "auto",
    processes: int | None = None,
    most: int = 256,
    seconds: float = 0.1,
    lane_steps: float = math.inf,
    loop_steps: float = math.inf,
    why_not: str | None = None,
) -> Choice:
    """Choose how to compute runs; the choice depends on the clock, so write it down and replay it.

    Args:
        runs: some that stand for all; those whose optimizer has no rule are left out of account.
        problem, workload: as for :func:`thalweg.execution.lanes.run`.
        engine: ``"lanes"``, ``"loop"``, or ``"auto"`` for whichever is faster.
        processes: at most so many for the loop; default: one a core, on a CPU.
        most: the most lanes of a program.
        seconds: length of each of about ten measurements of single steps, whose
            medians count.
        lane_steps, loop_steps: how many steps of runs there are to do: of those that can be lanes, and of
            the others. Several processes are chosen where they save more than they cost to start.
        why_not: why lanes can't be, where that is known beforehand.

    Returns:
        The choice.

    Raises:
        ModelError: lanes were asked for and the model can't be one.
        OptionError: lanes were asked for and no optimizer has a rule, or the batches aren't tensors.
    """
    several = processes or (cores() if problem.device == "cpu" else 1)
    if several > 1 and not_portable(problem) is not None:
        several = 1
    threads = torch.get_num_threads()
    suited = [] if why_not else [run for run in runs if problem.entry(run).rule is not None]

    times: dict[int, float] = {}
    lanes_measured = False

    def measured(count: int) -> float:
        if count not in times:
            setting = (suited or runs)[0].setting
            times[count] = step_seconds(
                setting, problem, workload, repeats=1, seconds=seconds, threads=count
            )[1]
        return times[count]

    def alone(steps: float) -> _Alone:
        if not runs or (math.isinf(steps) and not lanes_measured):
            return _Alone(several, 1 if several > 1 else torch.get_num_threads(), None)
        return _fastest_alone(measured, torch.get_num_threads(), several, steps)

    def loop(reason: str, lane: float | None = None) -> Choice:
        found = alone(lane_steps + loop_steps)
        return Choice(
            kind="loop",
            forward="module",
            reason=reason,
            chunk=1,
            processes=found.processes,
            threads=found.threads,
            loop_threads=found.threads,
            lane_seconds=lane,
            loop_seconds=found.seconds,
        )

    if engine == "loop":
        return loop(why_not or "the loop was asked for")
    error: type[ModelError] | type[OptionError] = OptionError
    if why_not is None:
        why_not, error = _unfit(suited, problem)
    if why_not is None:
        try:
            trial = _Trial(suited, problem, workload)
        except (ModelError, RuntimeError, NotImplementedError, TypeError, ValueError) as failure:
            said = " ".join(str(failure).split())[:200]
            why_not, error = f"the model can't be traced over lanes ({said})", ModelError
    if why_not is not None:
        if engine == "lanes":
            raise error(f"{why_not}; use the loop engine")
        return loop(why_not)

    chunk, lane, threads, beside = trial.fastest(
        min(most, max(2, len(suited))), seconds, threads, several, lane_steps
    )
    lanes_measured = True
    one_by_one = alone(lane_steps + loop_steps)
    assert one_by_one.seconds is not None
    all_alone = one_by_one.seconds + _starting(one_by_one.processes, lane_steps + loop_steps)
    spread = f" in each of {beside} processes" if beside > 1 else ""
    numbers = (
        f"a step of {chunk} lanes on {threads} {'thread' if threads == 1 else 'threads'}{spread} takes "
        f"{_time(lane * chunk * beside)}, {_time(lane)} a run, "
        f"against {_time(one_by_one.seconds)} a run in the loop"
    )
    numbers += f" of {one_by_one.processes} processes" if one_by_one.processes > 1 else ""
    if engine == "auto" and lane + _starting(beside, lane_steps) > all_alone:
        return loop(f"lanes don't pay here: {numbers}", lane)
    others = alone(loop_steps)
    return Choice(
        kind="lanes",
        forward=trial.form,
        reason=f"lanes {'were asked for' if engine == 'lanes' else 'pay'}: {numbers}",
        chunk=chunk,
        processes=others.processes,
        threads=threads,
        loop_threads=others.threads,
        lane_processes=beside,
        lane_seconds=lane,
        loop_seconds=others.seconds,
    )


def choose_once(
    journal: Journal, runs: Sequence[Run], problem: Problem, workload: Workload, **how: Any
) -> Choice:
    """Return the choice that the journal holds; else make one, as :func:`choose` does, and write it down.

    Raises:
        UserError: as :func:`choose` does; a run directory that was made for this is gone then.
    """
    directory = journal.directory
    with nullcontext() if directory is None else directory.withdrawn_unless(lambda: False):
        chosen = journal.once("choice", "choice", lambda: asdict(choose(runs, problem, workload, **how)))
    return Choice.of(chosen)


@dataclass(frozen=True)
class _Alone:
    """How runs are best carried out one by one, and a step's seconds that way, where they were measured."""

    processes: int
    threads: int
    seconds: float | None


def _shared(seconds: float, processes: int) -> float:
    """What a step takes a process by itself, as it is among so many of them."""
    return seconds if processes == 1 else seconds / (_SHARED * processes)


def _starting(processes: int, steps: float) -> float:
    """What starting processes adds to each of so many steps."""
    return _STARTING / max(steps, 1.0) if processes > 1 else 0.0


def _fastest_alone(measured: Callable[[int], float], threads: int, processes: int, steps: float) -> _Alone:
    """Processes with a thread each, or one with the better number of threads: whichever ends first."""
    single = measured(1)
    if processes > 1:
        beside = _shared(single, processes)
        if steps > 0 and beside + _starting(processes, steps) < single:
            return _Alone(processes, 1, beside)
    best = _Alone(1, 1, single)
    if threads > 1 and (found := measured(threads)) < 0.9 * single:
        best = _Alone(1, threads, found)
    return best


def _unfit(
    suited: Sequence[Run], problem: Problem
) -> tuple[str | None, type[ModelError] | type[OptionError]]:
    if not suited:
        return "no optimizer has a rule of ours, which lanes need", OptionError
    if not (in_tensors(problem.data.train) and in_tensors(problem.data.validation)):
        return "the batches come from a collate function, and lanes need whole tensors", OptionError
    return refusal(problem.model(suited[0])), ModelError


class _Trial:
    """A few lanes that have done a step, right: what measurements are made on."""

    def __init__(
        self,
        runs: Sequence[Run],
        problem: Problem,
        workload: Workload,
    ) -> None:
        self._runs, self._problem, self._workload = runs, problem, workload
        self._device, self._loss = torch.device(problem.device), problem.functions.trained
        program = self._program(2)
        self.form = program.forward.form
        inputs, targets = self._batch(2)
        first = float(program.step(inputs, targets, 1, np.ones((1, 2)))[0])
        alone = self._alone(program.runs[0], mapped(lambda leaf: leaf[0], inputs), targets[0])
        if abs(first - alone) > 1e-3 * max(1.0, abs(alone)):
            raise ModelError(f"its loss as a lane is {first:.6g}, but {alone:.6g} alone")
        block = max(workload.batch_size, 256)
        needed = lane_bytes(program, inputs, targets, evaluated=block)
        program.predict(inputs, 1)
        self.most = lanes_that_fit(needed, available_bytes(self._device))

    def fastest(
        self, most: int, seconds: float, threads: int, processes: int, steps: float
    ) -> tuple[int, float, int, int]:
        """The number of lanes, threads and processes with which so many steps end first, and a step's time.

        More lanes win a near draw, and so does a single thread: small products gain nothing from more,
        and lose much wherever something else wants the cores too. Processes with a thread each are
        counted with what they commonly lose to each other.
        """
        best: tuple[int, float, int, int] | None = None
        least = math.inf
        for count in sorted({1, threads}):
            limit = min(most, self.most)
            sizes = {max(2, limit // part) for part in (1, 2, 4, 8)}
            with with_threads(count):
                for lanes in sorted(sizes, reverse=True):
                    time_a_lane = self._seconds(lanes, seconds) / lanes
                    beside = processes if count == 1 and lanes <= max(2, self.most // processes) else 1
                    several = _shared(time_a_lane, beside)
                    if several + _starting(beside, steps) >= time_a_lane:
                        beside, several = 1, time_a_lane
                    whole = several + _starting(beside, steps)
                    if best is None or whole < 0.9 * least:
                        best, least = (lanes, several, count, beside), whole
        assert best is not None
        return best

    def _seconds(self, lanes: int, seconds: float) -> float:
        program, (inputs, targets) = self._program(lanes), self._batch(lanes)
        factors, step = np.broadcast_to(1.0, (10_000, lanes)), 0

        def advance() -> None:
            nonlocal step
            step += 1
            program.step(inputs, targets, step, factors)

        return _step_seconds(advance, seconds, self._device)

    def _program(self, lanes: int) -> LaneProgram:
        chosen = [self._runs[i * len(self._runs) // lanes] for i in range(lanes)]
        keys = [group_key(run, self._problem.entry(run)) for run in chosen]
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        order = sorted(range(lanes), key=lambda i: first[keys[i]])
        chosen = [chosen[i] for i in order]
        stack = Stack.build(self._problem.model, chosen)
        return LaneProgram(stack, forward_of(stack.template), self._loss, chosen, self._problem.optimizers)

    def _batch(self, lanes: int) -> tuple[Any, Tensor]:
        inputs, targets = self._problem.data.train.batch(torch.arange(self._workload.batch_size))
        expanded = mapped(lambda leaf: leaf.expand(lanes, *leaf.shape), inputs)
        return expanded, targets.expand(lanes, *targets.shape)

    def _alone(self, run: Run, inputs: Any, targets: Tensor) -> float:
        model = self._problem.model(run)
        begin_training(model)
        with torch.no_grad(), Keyed(RunDraws(run.seed, self._device)):
            return float(self._loss(model(inputs), targets))


def _step_seconds(step: Callable[[], object], seconds: float, device: torch.device) -> float:
    for _ in range(3):
        step()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 1000):
        began = now(device)
        step()
        times.append(now(device) - began)
    return statistics.median(times)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
