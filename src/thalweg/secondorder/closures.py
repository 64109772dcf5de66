"""What torch optimizers with closures share: groups, state, and the closure as a function to minimize."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import OptionError
from thalweg.runtimes.optimizer_state import Optimizer, copied, load_between
from thalweg.secondorder.arguments import BOUNDS, check_option
from thalweg.secondorder.closure_objective import Closure, dense, write
from thalweg.secondorder.descent_loop import DescentMemory, DescentResult
from thalweg.secondorder.directions import Direction
from thalweg.secondorder.objective_function import ObjectiveFunction, check_tensors
from thalweg.secondorder.searches import Search
from thalweg.secondorder.solution import Status, Tally
from thalweg.secondorder.solver import descend
from thalweg.secondorder.termination import DescentLimits
from thalweg.secondorder.torch_state import as_torchs, from_torchs
from thalweg.settings.bounds import Bounds

__all__ = [
    "ClosureOptimizer",
    "ClosureStep",
    "Params",
    "limits_of",
]

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

_POOR = (Status.SEARCH_FAILED, Status.NOT_DESCENT, Status.NO_DIRECTION, Status.NOT_FINITE, Status.UNBOUNDED)


@dataclass(frozen=True)
class ClosureStep:
    """What one step works with.

    Attributes:
        settings: of all groups.
        closure: computes the loss anew.
        params, x: what is trained, and where it stands.
        state: what is kept from step to step.
        tally: counts the work.
    """

    settings: dict[str, Any]
    closure: Closure
    params: list[Tensor]
    x: Vector
    state: dict[str, Any]
    tally: Tally


def limits_of(settings: Mapping[str, Any]) -> DescentLimits:
    """Return the limits of a step; without ``max_eval`` or ``tolerance_change`` there are no such."""
    return DescentLimits(
        tolerance=settings["tolerance_grad"],
        tolerance_change=settings.get("tolerance_change", 0.0),
        max_iterations=settings["max_iter"],
        max_evaluations=settings.get("max_eval"),
    )


class ClosureOptimizer(Optimizer):
    """What the optimizers of this module share: groups, closures, state, and what is refused.

    - ``step(closure)`` takes up to ``max_iter`` iterations on the function that the closure computes, which
      has to be the same throughout: the same batch within a step, dropout with the same masks. Gradients
      are cleared before each call.
    - Where a closure that calls ``backward`` communicates with other processes, as under DDP or FSDP, or
      where it averages gradients itself, the mean of the processes' losses is minimized; the closure may
      have taken it already. Where a closure doesn't call ``backward``, DDP averages nothing: every process
      has to compute the whole batch, and losses that differ are refused.
    - All groups have the same options, since one step size goes with one direction over all parameters.
    - Frozen parameters are left out; those that the closure gives no gradient count as having a zero one.
    - ``status`` says how the last step ended. Where it found no step, the parameters are as they were before
      that iteration, and a warning says so.
    - ``evaluations`` and ``passes`` say what all steps so far have cost.
    - A search tries points far away, and with batch norm each forward pass there moves running statistics:
      ``track(net)`` keeps buffers as the first call in a step leaves them, at the point that it begins from.

    Raises:
        OptionError: an option out of range, groups whose options differ, parameters of another type than
            float32 and float64 or on several devices, a step without a closure where there are gradients,
            a closure that returns something else than its class asks for.
    """

    # what is legal of each option that is a number; the catalogue has it from here
    bounds: ClassVar[Mapping[str, Bounds]] = BOUNDS
    # Whether the closure calls backward and returns the loss; otherwise step returns the loss, as a number.
    calls_backward: ClassVar[bool] = True
    # Whether torch has a class of this name, whose states go both ways.
    torchs_state: ClassVar[bool] = False
    status: Status | None = None
    # Told so, torch's gradient scalers leave everything to step, which can then say that it can't.
    _step_supports_amp_scaling: ClassVar[bool] = True
    _tracked: torch.nn.Module | None = None
    # the largest magnitude in the last gradient
    _slope: float = math.nan

    @abstractmethod
    def _check(self, settings: dict[str, Any]) -> None:
        """Refuse options out of range."""

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _settings(self) -> dict[str, Any]:
        """Return the options that all groups share."""
        first, *others = ({k: v for k, v in g.items() if k in self.defaults} for g in self.param_groups)
        for other in others:
            for key, value in other.items():
                if value != first[key]:
                    raise OptionError(
                        f"{self._name}: groups differ in {key} ({first[key]} and {value}), but one step size "
                        f"goes with one direction over all parameters; give all groups the same, or an "
                        f"optimizer each"
                    )
        for name, value in first.items():
            check_option(self._name, name, value, self.bounds)
        return first

    def track(self, module: torch.nn.Module | None) -> None:
        """Let the buffers of a module, batch norm's running statistics, move once a step as in SGD.

        After each step they are as the first call of the closure left them. None: leave buffers alone again.

        >>> import torch
        >>> from thalweg.optim import LBFGS
        >>> net, x = torch.nn.BatchNorm1d(2), torch.randn(8, 2)
        >>> optimizer = LBFGS(net.parameters(), max_iter=5)
        >>> optimizer.track(net)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (net(x) - 1).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> _ = optimizer.step(closure)
        >>> int(net.num_batches_tracked)
        1
        """
        self._tracked = module

    @property
    def evaluations(self) -> int:
        """How often all steps so far have called the closure for a value; 0 before the first."""
        return int(self._kept().get("func_evals", 0))

    @property
    def passes(self) -> float:
        """Forward passes that all steps so far cost (:class:`thalweg.secondorder.Counts`); 0 before them."""
        return float(self._kept().get("passes", 0.0))

    def _kept(self) -> dict[str, Any]:
        """Return what is kept from step to step, which lies with the first parameter, frozen or not."""
        entry: dict[str, Any] = next((self.state.get(p, {}) for p in self._everything()), {})
        return entry if _is_ours(entry) else {}

    def _begun(self, params: list[Tensor], maximize: bool) -> dict[str, Any]:
        """Return the state, to be changed; what was learned is lost where the function is another now.

        Other entries, of hooks or by hand, are left alone.
        """
        state: dict[str, Any] = self.state[self._everything()[0]]
        if not _is_ours(state):
            state |= {"n_iter": 0, "func_evals": 0, "passes": 0.0, "memory": None}
        trained = [i for i, p in enumerate(self._everything()) if p.requires_grad]
        now = {"trained": trained, "shapes": [tuple(p.shape) for p in params], "maximize": maximize}
        # what saved the state may not have known of these
        before = {"trained": trained, "maximize": False, **state}
        if any(before.get(name) != value for name, value in now.items()):
            state["memory"] = None
        state |= now
        return state

    def _is_without_slope(self) -> bool:
        """Say whether gradients are missing or zero, with which torch's checkpoints try a step."""
        given = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        filled = [dense(grad) for grad in given if grad.numel()]
        return not filled or float(Space().norm_max(filled)) == 0.0

    def _params(self) -> list[Tensor]:
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        if params:
            check_tensors(params, self._name)
        return params

    def step(self, closure: Closure | None = None) -> Any:
        """Take a step.

        Args:
            closure: computes anew what the class says; it is called several times.

        Returns:
            What the closure returned first; None where there is neither closure nor gradient.

        Raises:
            OptionError: there are gradients but no closure, the closure returns something else, or a
                ``GradScaler`` calls.
        """
        if hasattr(self, "found_inf"):
            for name in ("grad_scale", "found_inf"):
                delattr(self, name)
            raise OptionError(
                f"{self._name}: a GradScaler unscales one gradient, but a step computes several and compares "
                f"losses; call step(closure) without it, and use bfloat16 autocast, which needs no scaling"
            )
        if closure is None:
            if self._is_without_slope():
                return None
            raise OptionError(f"{self._name}: step needs a closure that recomputes the loss; give it one")
        params = self._params()
        if not params:
            with torch.enable_grad():
                return self._returned(closure())
        settings = self._settings()
        state = self._begun(params, bool(settings.get("maximize")))
        first: list[Any] = []
        buffers = [] if self._tracked is None else list(self._tracked.buffers())
        settled: list[Tensor] = []

        def remembering() -> Any:
            with torch.enable_grad():
                found = closure()
            if not first:
                settled.extend(buffer.detach().clone() for buffer in buffers)
            first.append(found)
            return found

        tally = Tally()
        before = [p.detach().clone() for p in params]
        try:
            # what a step differentiates has to have a graph, whatever surrounds the call
            with torch.inference_mode(False), torch.enable_grad():
                x, loss = self._advance(ClosureStep(settings, remembering, params, before, state, tally))
        except BaseException:
            write(params, before)
            raise
        finally:
            if first:
                write(buffers, settled)
        write(params, x)
        state["n_iter"] += tally.iterations
        state["func_evals"] += tally.evaluations
        state["passes"] += tally.passes
        if self.status in _POOR:
            warnings.warn(f"{self._name}: {self.status}", stacklevel=2)
        if self.calls_backward:
            return first[0]
        return -loss if settings.get("maximize") else loss

    def _returned(self, found: Any) -> Any:
        """Return what a step without anything to train returns, from what the closure returned."""
        return found if self.calls_backward or not isinstance(found, Tensor) else found.detach()

    @abstractmethod
    def _advance(self, asked: ClosureStep) -> tuple[Vector, Any]:
        """Return where the parameters go, and the loss before; set ``status`` and the memory in ``state``."""

    def _descend(
        self,
        problem: ObjectiveFunction,
        asked: ClosureStep,
        direction: Direction,
        search: Search,
        limits: DescentLimits,
    ) -> tuple[Vector, Any]:
        return self._remembering(
            lambda memory: descend(problem, asked.x, direction, search, limits=limits, memory=memory), asked
        )

    def _remembering(
        self, run: Callable[[DescentMemory | None], DescentResult], asked: ClosureStep
    ) -> tuple[Vector, Any]:
        """Hand a run what the last one left, and keep what it leaves."""
        state, first = asked.state, asked.x[0]
        kept = state["memory"]
        found = run(None if kept is None else DescentMemory(kept["direction"], kept["expected"]))
        state["memory"] = {"direction": found.memory.state, "expected": found.memory.expected}
        self.status, self._slope = found.statuses[0], found.gradient_norms[0]
        return found.point.x, torch.tensor(found.traces[0][0].value, dtype=first.dtype, device=first.device)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with the same options; what was learned about curvature is lost."""
        if isinstance(param_group, dict):
            self._refuse_unheeded(param_group)
        super().add_param_group(param_group)
        try:
            self._params()
            self._check(self._settings())
        except OptionError:
            del self.param_groups[-1]
            raise

    def _refuse_unheeded(self, group: dict[str, Any]) -> None:
        """Refuse what a group asks for in vain."""
        remedies = {
            "maximize": "sums of squares and convex losses grow without end; take LBFGS or Newton for others",
            "weight_decay": "add the penalty to what the closure computes",
        }
        for name, remedy in remedies.items():
            if group.get(name) and name not in self.defaults:
                raise OptionError(
                    f"{self._name}: a group sets {name} to {group[name]}, which it doesn't have; {remedy}"
                )

    def state_dict(self) -> dict[str, Any]:
        """Return the state; where torch has the class, as torch keeps it."""
        if not self.torchs_state:
            return super().state_dict()
        # before the hooks of others, who look for torch's names
        converted = self.register_state_dict_post_hook(lambda _, found: self._as_torchs(found), prepend=True)
        try:
            return super().state_dict()
        finally:
            converted.remove()

    def _as_torchs(self, found: dict[str, Any]) -> dict[str, Any]:
        if not self._kept():
            return found
        key = next(key for group in found["param_groups"] for key in group["params"])
        everyone = self._everything()
        return {**found, "state": {**found["state"], key: as_torchs(found["state"][key], everyone)}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class, or of torch's; the tensors are copied, their types kept."""

        def withheld(given: dict[str, Any]) -> dict[str, Any]:
            # torch would cast a state to the type of its parameter, where a scalar of mixed ones loses bits
            keys = {key for group in given["param_groups"] for key in group["params"]}
            return {**given, "state": {k: v for k, v in given["state"].items() if k not in keys}}

        load_between(self, super().load_state_dict, state_dict, before=withheld, after=self._take)

    def _take(self, given: dict[str, Any]) -> None:
        everyone = self._everything()
        keys = [key for group in given["param_groups"] for key in group["params"]]
        for p, key in zip(everyone, keys, strict=True):
            if key in given["state"]:
                self.state[p] = copied(given["state"][key], p.device)
        for p in everyone:
            entry = self.state.get(p, {})
            if _is_ours(entry):
                if "old_dirs" in entry:
                    entry = from_torchs(entry, everyone)
                # an earlier version kept it with the first that is trained
                del self.state[p]
                self.state[everyone[0]] = {**self.state.get(everyone[0], {}), **entry}
                break

    def _everything(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "status": self.status, "_tracked": self._tracked}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # torch's states, and those of earlier versions, lack some options; torch gives copies another
        for group in self.param_groups:
            for name in self.defaults.keys() - {"differentiable"}:
                group.setdefault(name, self.defaults[name])


def _is_ours(entry: Mapping[str, Any]) -> bool:
    return "func_evals" in entry
