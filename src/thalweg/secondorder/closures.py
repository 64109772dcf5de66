"""What torch optimizers with closures share: groups, state, and the closure as a function to minimize."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal, TypeAlias, overload

import torch
from torch import Tensor

from thalweg.errors import OptionError, nearest
from thalweg.secondorder.directions import Direction
from thalweg.secondorder.ending import Limits
from thalweg.secondorder.exchange import as_torchs, from_torchs
from thalweg.secondorder.problem import HessianKind, Point, Problem, check_tensors
from thalweg.secondorder.searches import Backtracking, Fixed, Search
from thalweg.secondorder.solution import BACKWARD, FORWARD, Status, Tally
from thalweg.secondorder.solver import Found, Memory, descend
from thalweg.secondorder.vectors import Space, Vector
from thalweg.secondorder.wolfe import HagerZhang, StrongWolfe

__all__ = [
    "BackwardProblem",
    "ClosureOptimizer",
    "checked_rate",
    "explaining",
    "graph_forward",
    "line_search",
    "scalar",
    "whole",
]

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Closure: TypeAlias = Callable[[], Any]
LineSearch: TypeAlias = Literal["strong_wolfe", "hager_zhang", "backtracking"] | None

_POOR = (Status.SEARCH_FAILED, Status.NOT_DESCENT, Status.NO_DIRECTION, Status.NOT_FINITE, Status.UNBOUNDED)


class ClosureOptimizer(torch.optim.Optimizer):
    """What the optimizers of this module share: groups, closures, state, and what is refused.

    - ``step(closure)`` takes up to ``max_iter`` iterations on the function that the closure computes, which
      has to be the same throughout: the same batch within a step, dropout with the same masks. Under DDP it
      returns the loss reduced over the ranks, or they drift apart; where it doesn't call backward, DDP
      averages nothing, and every rank has to compute the whole batch, on the module itself.
    - All groups have the same options, since one step size goes with one direction over all parameters.
    - Frozen parameters are left out; those that the closure gives no gradient count as having a zero one.
    - ``status`` says how the last step ended. Where it found no step, the parameters are as they were before
      that iteration, and a warning says so.
    - ``evaluations`` and ``passes`` say what all steps so far have cost.
    - A search tries points far away, and with batch norm each forward pass there moves running statistics:
      ``track(net)`` keeps buffers as the first call in a step leaves them, at the point that it begins from.

    Raises:
        OptionError: an option out of range, groups whose options differ, parameters of another type than
            float32 and float64 or on several devices, a step without a closure where there are gradients.
    """

    # Whether the closure calls backward and returns the loss; otherwise step returns the loss, as a number.
    calls_backward: ClassVar[bool] = True
    # Whether torch has a class of this name, whose states go both ways.
    torchs_state: ClassVar[bool] = False
    status: Status | None = None
    # Told so, torch's gradient scalers leave everything to step, which can then say that it can't.
    _step_supports_amp_scaling: ClassVar[bool] = True
    _tracked: torch.nn.Module | None = None

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
        """Return the state, wherever it lies: what is frozen may have changed since the last step."""
        for group in self.param_groups:
            for p in group["params"]:
                if self.state.get(p):
                    return dict(self.state[p])
        return {}

    def _begun(self, params: list[Tensor]) -> dict[str, Any]:
        """Return the state, to be changed; what was learned is lost where the parameters are others now."""
        kept, shapes = self._kept(), [tuple(p.shape) for p in params]
        if params[0] not in self.state or kept.get("shapes") != shapes:
            counts = {"n_iter": 0, "func_evals": 0, "passes": 0.0}
            self.state.clear()
            self.state[params[0]] = {**counts, **kept, "shapes": shapes, "memory": None}
        state: dict[str, Any] = self.state[params[0]]
        return state

    def _is_without_slope(self) -> bool:
        """Say whether gradients are missing or zero, with which torch's checkpoints try a step."""
        given = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        filled = [_dense(grad) for grad in given if grad.numel()]
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
            raise OptionError(f"{self._name}: step needs a closure that computes the loss anew; give it one")
        params = self._params()
        if not params:
            return None
        settings = self._settings()
        state = self._begun(params)
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
                x, loss = self._advance(settings, remembering, params, before, state, tally)
        except BaseException:
            _write(params, before)
            raise
        finally:
            if first:
                _write(buffers, settled)
        _write(params, x)
        state["n_iter"] += tally.iterations
        state["func_evals"] += tally.evaluations
        state["passes"] += tally.passes
        if self.status in _POOR:
            warnings.warn(f"{self._name}: {self.status}", stacklevel=2)
        return first[0] if self.calls_backward else loss

    @abstractmethod
    def _advance(
        self,
        settings: dict[str, Any],
        closure: Closure,
        params: list[Tensor],
        x: Vector,
        state: dict[str, Any],
        tally: Tally,
    ) -> tuple[Vector, Any]:
        """Return where the parameters go, and the loss before; set ``status`` and the memory in ``state``."""

    def _descend(
        self,
        problem: Problem,
        x: Vector,
        state: dict[str, Any],
        direction: Direction,
        search: Search,
        limits: Limits,
    ) -> tuple[Vector, Any]:
        return self._remembering(
            lambda memory: descend(problem, x, direction, search, limits=limits, memory=memory), state, x
        )

    def _remembering(
        self, run: Callable[[Memory | None], Found], state: dict[str, Any], x: Vector
    ) -> tuple[Vector, Any]:
        """Hand a run what the last one left, and keep what it leaves."""
        kept = state["memory"]
        found = run(None if kept is None else Memory(kept["direction"], kept["expected"]))
        state["memory"] = {"direction": found.memory.state, "expected": found.memory.expected}
        self.status = found.statuses[0]
        return found.point.x, torch.tensor(found.traces[0][0].value, dtype=x[0].dtype, device=x[0].device)

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
            "maximize": "let the closure compute the negative of what should grow",
            "weight_decay": "add the penalty to what the closure computes",
        }
        for name, remedy in remedies.items():
            if group.get(name) and name not in self.defaults:
                raise OptionError(
                    f"{self._name}: a group sets {name} to {group[name]}, which it doesn't have; {remedy}"
                )

    def state_dict(self) -> dict[str, Any]:
        """Return the state; where torch has the class, as torch keeps it."""
        found = super().state_dict()
        if self.torchs_state and found["state"]:
            (entry,) = found["state"].values()
            found["state"] = {0: as_torchs(entry, self._everything())}
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class, or of torch's; the tensors are copied, their types kept."""
        super().load_state_dict(state_dict)
        # torch casts a state to the type of its parameter, which for a scalar of mixed ones loses bits
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for p, key in zip(group["params"], saved["params"], strict=True):
                entry = state_dict["state"].get(key)
                if entry is not None and "old_dirs" in entry:
                    # torch's first parameter may be a frozen one
                    self.state.clear()
                    of_torch = from_torchs(_copied(entry, p.device), self._everything())
                    self.state[self._params()[0]] = of_torch
                elif entry is not None:
                    self.state[p] = _copied(entry, p.device)

    def _everything(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "status": self.status, "_tracked": self._tracked}


def _copied(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {key: _copied(inner, device) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(inner, device) for inner in value)
    return copy.deepcopy(value)


@torch.no_grad()
def _write(params: list[Tensor], x: Vector) -> None:
    for p, value in zip(params, x, strict=True):
        p.copy_(value)


class BackwardProblem(Problem):
    """A closure that computes the loss and calls ``backward``."""

    def __init__(self, closure: Closure, params: list[Tensor], owner: str, tally: Tally) -> None:
        super().__init__(Space(), tally)
        self._closure, self._params, self._owner = closure, params, owner
        self._ahead: Point | None = None

    def ahead(self, x: Vector) -> Point:
        """Evaluate at ``x``, which is asked for again before long."""
        self._ahead = self.evaluate(x)
        return self._ahead

    def evaluate(self, x: Vector) -> Point:
        """Put ``x`` into the parameters and call the closure."""
        if self._ahead is not None and self._ahead.x is x:
            found, self._ahead = self._ahead, None
            return found
        self.tally.evaluations += 1
        self.tally.gradients += 1
        self.tally.passes += FORWARD + BACKWARD
        _write(self._params, x)
        value = scalar(self._closure(), x[0], self._owner)
        grads = [p.grad for p in self._params]
        if all(grad is None for grad in grads):
            raise OptionError(
                f"{self._owner}: the closure left no gradients; it has to call backward on the loss"
            )
        return Point(
            x,
            value,
            [
                torch.zeros_like(p) if grad is None else _dense(grad)
                for p, grad in zip(self._params, grads, strict=True)
            ],
        )

    def product(self, x: Vector, v: Vector) -> Vector:
        """Return a product with the Hessian, from differences of gradients."""
        return self.difference_product(x, v)

    def hessian(self, x: Vector, kind: HessianKind) -> list[Tensor]:
        """Return the Hessian from differences of gradients."""
        return self.differences(x, kind)


def _dense(grad: Tensor) -> Tensor:
    return grad.to_dense() if grad.is_sparse else grad.detach().clone()


def scalar(loss: Any, like: Tensor, owner: str) -> Tensor:
    """Return the loss that a closure returned as a 0-dim tensor without graph."""
    if isinstance(loss, (int, float)):
        return torch.tensor(float(loss), dtype=torch.float64, device=like.device)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise OptionError(f"{owner}: the closure returned {got}; it has to return the loss, one number")
    return loss.detach().reshape(())


def graph_forward(
    closure: Closure, params: list[Tensor], owner: str
) -> Callable[[Vector], tuple[Vector, Tensor]]:
    """Return what evaluates a closure that returns its result with the graph, without ``backward``."""

    def forward(x: Vector) -> tuple[Vector, Tensor]:
        _write(params, x)
        result = closure()
        if not isinstance(result, Tensor):
            raise OptionError(
                f"{owner}: the closure returned {type(result).__name__}; it has to return a tensor with its "
                f"graph, without calling backward"
            )
        return params, result

    return forward


def line_search(owner: str, name: str | None, lr: float, *, c2: float = 0.9) -> Search:
    """Return the search of that name; None: fixed steps, the first of them cautious."""
    if name is None:
        return Fixed(step=lr, cautious=True)
    made: dict[str, Callable[[], Search]] = {
        "strong_wolfe": lambda: StrongWolfe(first=lr, c2=c2),
        "hager_zhang": lambda: HagerZhang(first=lr),
        "backtracking": lambda: Backtracking(first=lr),
    }
    if name not in made:
        raise OptionError(f"{owner}: there is no line search {name!r}; {nearest(str(name), made)}, or None")
    return made[name]()


def checked_rate(owner: str, lr: Any) -> float:
    """Return a learning rate, or a tensor of one element, as a float above 0."""
    try:
        plain = float(lr)
    except (TypeError, ValueError):
        raise OptionError(f"{owner}: lr is {lr!r}; give a finite number above 0") from None
    if not 0 < plain < math.inf:
        raise OptionError(f"{owner}: lr is {plain}; give a finite number above 0")
    return plain


@overload
def whole(number: float) -> int: ...
@overload
def whole(number: None) -> None: ...
def whole(number: float | None) -> int | None:
    """Return the nearest whole number: a schedule makes any number of one that was whole."""
    return None if number is None else round(number)


@contextlib.contextmanager
def explaining(owner: str) -> Iterator[None]:
    """Put in words what autograd says of a graph that can't be differentiated (again)."""
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error) for words in ("double backward", "donated buffers")):
            raise OptionError(
                f"{owner}: a compiled model (torch.compile, its backends with aot_autograd) can't be "
                f"differentiated twice; call the model itself in the closure"
            ) from error
        if "second time" not in str(error):
            raise
        raise OptionError(
            f"{owner}: the closure has called backward, after which its graph is gone; return the result "
            f"without calling it"
        ) from error
