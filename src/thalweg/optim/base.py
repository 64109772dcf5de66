"""A rule as a torch optimizer: groups, state, checkpoints; the arithmetic is the rule's alone."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeAlias, TypeVar, overload

import torch
from torch import Tensor

from thalweg import runtimes
from thalweg.errors import OptionError
from thalweg.optim import differentiable
from thalweg.optim.ledger import Ledger, identical, picked
from thalweg.optim.views import is_sharded, own, placed, real
from thalweg.rules import MatrixRule, Rule
from thalweg.runtimes.optimizer_state import Optimizer, copied, load_between, uncompiled
from thalweg.runtimes.plans import PLAIN
from thalweg.settings.bounds import Bounds, OptionBounds, PairBounds

__all__ = [
    "Params",
    "RuleOptimizer",
    "Settings",
    "check_bounds",
    "check_number",
]

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Settings: TypeAlias = tuple[Rule, dict[str, Any], dict[str, bool | str]]

_T = TypeVar("_T")

_layout = operator.attrgetter("layout")
_PAIRS = {"betas": (0.9, 0.999), "adamw_betas": (0.9, 0.999), "etas": (0.5, 1.2), "step_sizes": (1e-6, 50)}


def check_number(owner: str, name: str, value: object) -> float:
    """Return a number, or a tensor with one element, as a float; refuse anything else.

    >>> check_number("SGD", "dampening", "much")
    Traceback (most recent call last):
    thalweg.errors.OptionError: SGD: dampening is 'much'; give a number
    """
    if isinstance(value, Tensor) and value.numel() != 1:
        raise OptionError(
            f"{owner}: {name} is a tensor of shape {tuple(value.shape)}; "
            f"give a number or a tensor with one element"
        )
    try:
        return differentiable.plain(value)
    except (TypeError, ValueError):
        raise OptionError(f"{owner}: {name} is {value!r}; give a number") from None


def _pair(owner: str, name: str, value: object) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise OptionError(
            f"{owner}: {name} is {value!r}; give two numbers such as {_PAIRS.get(name, (0.5, 1))}"
        )
    return value[0], value[1]


def check_bounds(owner: str, name: str, value: object, bounds: Bounds | PairBounds) -> None:
    """Refuse a number, or a pair of numbers, out of its bounds; numbers may be tensors with one element.

    >>> from thalweg.settings.bounds import BETAS, FROM_ZERO
    >>> check_bounds("SGD", "lr", -1.0, FROM_ZERO)
    Traceback (most recent call last):
    thalweg.errors.OptionError: SGD: lr is -1.0; give a finite number of at least 0
    >>> check_bounds("Adam", "betas", (0.9, 1.5), BETAS)
    Traceback (most recent call last):
    thalweg.errors.OptionError: Adam: betas[1] is 1.5; give a number of at least 0 and below 1
    >>> check_bounds("Muon", "ns_steps", 0, Bounds(least=1, most=99, whole=True))
    Traceback (most recent call last):
    thalweg.errors.OptionError: Muon: ns_steps is 0; give a whole number from 1 to 99
    """
    if value is None and bounds.optional:
        return
    if isinstance(bounds, Bounds):
        number = check_number(owner, name, value)
        if not bounds.hold(number) or (bounds.whole and number != round(number)):
            raise OptionError(f"{owner}: {name} is {value}; give {bounds.asked(number)}")
        return
    pair = _pair(owner, name, value)
    if not bounds.asked:
        for i, (one, ends) in enumerate(zip(pair, (bounds.first, bounds.second), strict=True)):
            check_bounds(owner, f"{name}[{i}]", one, ends)
        return
    first, second = (check_number(owner, name, one) for one in pair)
    held = bounds.first.hold(first) and bounds.second.hold(second)
    if not held or (bounds.rising and not first <= second):
        raise OptionError(f"{owner}: {name} is {value}; give {bounds.asked}")


class RuleOptimizer(Optimizer):
    """A rule as a ``torch.optim.Optimizer``: what every optimizer of this package is made of.

    All of torch's contract holds: parameter groups with options of their own, groups added later,
    gradients that are None, closures, hooks, ``maximize``, tensor learning rates, ``state_dict`` in
    torch's form and names, schedulers, gradient scalers, copying and pickling. One step is one call of
    :func:`thalweg.runtimes.apply` a group, as long as its parameters have taken equally many steps.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        defaults: the options that a group may set.

    Errors are raised by :meth:`step` for a sparse gradient, and by the constructor, ``add_param_group``
    and ``load_state_dict`` for a value out of range.

    Notes:
        - ``step`` of each parameter is a 0-dim tensor on the CPU, as torch keeps it. The counts of a
          group lie side by side in one tensor, so that counting is one addition. A state that is one number
          (``mu_product`` of NAdam) is kept likewise, in float64.
        - float16 and bfloat16 parameters have float32 state, and the arithmetic is float32; torch keeps
          both in the parameter's own type, in which a second moment stops following its average. Such
          a state loads from and into torch's.
        - With ``differentiable=True`` the rule's function runs on the tensors themselves with autograd
          on: parameters are overwritten in place, states are replaced, gradients flow to the gradient,
          to the parameter before the step and to hyperparameters that are tensors, those that are 0 or that
          a state begins with included.
        - A tensor learning rate is read once a step; on an accelerator that waits for the device.
        - Of parameters sharded over processes (DTensor, FSDP2) an elementwise rule steps what each process
          has, by the same kernels; a rule over whole matrices refuses them.
        - A CUDA graph can't hold the step, since scalars are computed on the host: capturing is refused.
        - Loading a state copies it; torch's classes go on sharing tensors with what was loaded.
    """

    # what is legal of each option that is a number, or a pair of them; the catalogue has it from here
    bounds: ClassVar[OptionBounds] = {}
    # torch.optim.SGD keeps no count; all its rule asks of t is whether a velocity begins.
    counts_steps = True

    def __init__(self, params: Params, defaults: Mapping[str, Any]) -> None:
        self._begin_here()
        self._check(defaults)
        super().__init__(params, {"maximize": False, "differentiable": False, **defaults})

    def _begin_here(self) -> None:
        """Set what neither checkpoints nor copies hold."""
        self._ledgers: dict[int, Ledger] = {}
        self._noted: tuple[list[Tensor], list[dict[str, Any]]] = [], []

    def _check(self, group: Mapping[str, Any]) -> None:
        """Raise OptionError for an option out of range."""
        for name, bounds in self.bounds.items():
            check_bounds(type(self).__name__, name, group[name], bounds)
        self._check_more(group)

    @abstractmethod
    def _settings(self, group: Mapping[str, Any]) -> Settings:
        """Return the rule of a group, its hyperparameters and its options."""

    def _check_more(self, group: Mapping[str, Any]) -> None:
        """Raise OptionError for what bounds can't say of an option; a hook."""

    def _evaluating(self) -> AbstractContextManager[None]:
        """Return what a closure is called within; a hook for optimizers that evaluate elsewhere."""
        return nullcontext()

    def _admit(self, group: Mapping[str, Any]) -> None:
        """Raise OptionError if a group's gradients can't be used as they are; a hook."""

    def _before_loading(self, given: Mapping[str, Any]) -> None:
        """Raise OptionError if a state can't be loaded; a hook."""

    def _stepped(self) -> None:
        """Be told that the gradients were used; a hook."""

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], Any]) -> Any: ...
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step for every parameter that has a gradient.

        Args:
            closure: computes the loss and its gradients anew; called once, before the step.

        Returns:
            What the closure returned, or None.

        Raises:
            OptionError: a gradient is sparse, or the step is being captured into a CUDA graph.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad(), self._evaluating():
                loss = closure()
        self._step_groups()
        return loss

    # so that a compiled training step may hold ours
    @uncompiled
    def _step_groups(self) -> None:
        if not self._is_as_noted():
            for ledger in self._ledgers.values():
                ledger.params = []
        with torch.set_grad_enabled(bool(self.defaults["differentiable"])):
            for number, group in enumerate(self.param_groups):
                self._step_group(number, group)
        self._noted = list(self.state), list(self.state.values())
        self._stepped()

    def _is_as_noted(self) -> bool:
        # A person may replace any state. Comparing all by identity is faster than one look-up for each
        # parameter, whose hash is a Python function.
        params, entries = self._noted
        same = len(params) == len(self.state)
        return same and identical(params, self.state) and identical(entries, self.state.values())

    def _step_group(self, number: int, group: dict[str, Any]) -> None:
        everyone = group["params"]
        grads = [p.grad for p in everyone]
        active = [i for i, g in enumerate(grads) if g is not None]
        if not active:
            return
        params, grads = picked(everyone, active), picked(grads, active)
        self._refuse(group, active, grads)
        self._admit(group)
        ledger = self._ledger(number)
        rule, hyper, options = self._settings(group)
        if isinstance(rule, MatrixRule):
            self._refuse_matrix(params)
        numbers = self._numbers(hyper)
        live = ledger.live(rule, numbers, options)
        entries, counts = self._entries(everyone, active, ledger, live, (rule, numbers, options), hyper)
        columns = {name: [entry[name] for entry in entries] for name in live}
        if self.defaults["differentiable"]:
            scalars = runtimes.live_scalars(rule, numbers, options)
            for j, (p, t) in enumerate(zip(params, counts, strict=True)):
                row = entries[j] if entries else {}
                maximize = bool(group["maximize"])
                differentiable.step(p, row, live, scalars, (rule, hyper, options), t, maximize=maximize)
            if self.counts_steps:
                ledger.steps.add_one(active)
            return
        times = counts if rule.uses_step else counts[:1] * len(counts)
        held = self._scalars(everyone, active, ledger, (rule, numbers, options))
        for slot, ((t, *values), chosen) in enumerate(_batches(times, held)):
            batch, slopes = picked(params, chosen), picked(grads, chosen)
            states = {name: picked(column, chosen) for name, column in columns.items()}
            if not PLAIN.issuperset(map(type, batch)):
                slopes = own([placed(g, p) for p, g in zip(batch, slopes, strict=True)])
                states = {name: own(values) for name, values in states.items()}
                batch = own(batch)
            if any(map(torch.is_complex, batch)):
                batch, slopes = real(batch), real(slopes)
                states = {name: real(values) for name, values in states.items()}
            states |= {
                name: [torch.tensor(value, dtype=torch.float64)]
                for name, value in zip(held, values, strict=True)
            }
            cache = ledger.caches.setdefault(slot, {})
            runtimes.apply(
                rule, batch, slopes, states, numbers, options, t, maximize=group["maximize"], cache=cache
            )
            for name in held:
                ledger.scalars[name].write(picked(active, chosen), states[name][0].item())
        if self.counts_steps:
            ledger.steps.add_one(active)

    def _ledger(self, number: int) -> Ledger:
        ledger = self._ledgers.get(number)
        if ledger is None:
            ledger = self._ledgers[number] = Ledger()
        return ledger

    def _refuse(self, group: Mapping[str, Any], active: list[int], grads: list[Tensor]) -> None:
        layouts = list(map(_layout, grads))
        if layouts.count(torch.strided) < len(layouts):
            i = active[next(j for j, layout in enumerate(layouts) if layout is not torch.strided)]
            raise OptionError(
                f"{type(self).__name__}: the gradient of {_parameter(group, i)} is sparse, and its rule "
                f"needs every element; build the layer with sparse=False, or give this parameter to "
                f"torch.optim.SparseAdam"
            )
        if grads[0].is_cuda and torch.cuda.is_current_stream_capturing():
            raise OptionError(
                f"{type(self).__name__}: the step can't be captured into a CUDA graph, since its scalars are "
                f"computed on the host; leave it out of the graph, or use the class of torch.optim"
            )

    def _refuse_matrix(self, params: list[Tensor]) -> None:
        refused = "complex parameters" if any(map(torch.is_complex, params)) else ""
        refused = "parameters sharded over processes" if any(map(is_sharded, params)) else refused
        refused = "differentiable=True" if self.defaults["differentiable"] else refused
        if refused:
            raise OptionError(
                f"{type(self).__name__} is a rule over whole matrices, which can't do with {refused}; "
                f"choose an elementwise optimizer such as Adam"
            )

    def _begin(self) -> None:
        """Make the state of every parameter now, rather than when its first gradient comes."""
        for number, group in enumerate(self.param_groups):
            ledger = self._ledger(number)
            rule, hyper, options = self._settings(group)
            settings = rule, self._numbers(hyper), options
            live = runtimes.live_states(*settings)
            self._entries(group["params"], list(range(len(group["params"]))), ledger, live, settings, hyper)

    def _numbers(self, hyper: Mapping[str, Any]) -> dict[str, float]:
        if self.defaults["differentiable"]:
            return differentiable.never_zero(hyper)
        return {name: differentiable.plain(value) for name, value in hyper.items()}

    def _entries(
        self,
        params: list[Tensor],
        active: list[int],
        ledger: Ledger,
        live: tuple[str, ...],
        settings: Settings,
        hyper: Mapping[str, Any],
    ) -> tuple[list[dict[str, Any]], list[int]]:
        """Return state and step count of every active parameter; what is missing of the state is made."""
        if not live and not self.counts_steps:
            return [], [1] * len(active)
        chosen = picked(params, active)
        if len(ledger.params) != len(chosen) or not identical(ledger.params, chosen):
            ledger.params, ledger.entries = chosen, [self.state[p] for p in chosen]
        entries = ledger.entries
        if self.counts_steps and not ledger.steps.holds(active, entries):
            ledger.steps.adopt([self.state.get(p) for p in params], active)
        fresh = {j for name in live for j, entry in enumerate(entries) if name not in entry}
        for j in fresh:
            _allocate(chosen[j], entries[j], live, settings, hyper if self.defaults["differentiable"] else {})
        if not self.counts_steps:
            return entries, [1 if j in fresh else 2 for j in range(len(entries))] if fresh else [2] * len(
                active
            )
        return entries, [int(count) + 1 for count in ledger.steps.read(active)]

    def _scalars(
        self, params: list[Tensor], active: list[int], ledger: Ledger, settings: Settings
    ) -> dict[str, list[float]]:
        """Return each live scalar state by name, for every active parameter."""
        rule, numbers, _ = settings
        if not rule.scalars:
            return {}
        held = {}
        for name in runtimes.live_scalars(*settings):
            initial = rule.initial.get(name, 0.0)
            column = ledger.scalar(name, numbers[initial] if isinstance(initial, str) else initial)
            if not column.holds(active, ledger.entries):
                column.adopt([self.state.get(p) for p in params], active)
            held[name] = column.read(active)
        return held

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options that it leaves out have the optimizer's defaults.

        Raises:
            OptionError: an option is out of range, or a weight decay that the rule doesn't have, which
                torch's Rprop would leave unheeded.
        """
        if isinstance(param_group, dict):
            self._check({**self.defaults, **param_group})
            decay = param_group.get("weight_decay")
            if decay and "weight_decay" not in self.defaults:
                raise OptionError(
                    f"{type(self).__name__}: a group sets weight_decay to {decay}, but the rule has none; "
                    f"leave it out, or add the penalty to the loss"
                )
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class, or of torch's class of the same name; the tensors are copied.

        Raises:
            ValueError: groups or parameters differ in number (torch's own check).
            OptionError: an option of a group is out of range.
        """
        # torch casts a state to the parameter's type; the float32 of low-precision ones has to come from what
        # was given
        load_between(self, super().load_state_dict, state_dict, before=self._before_loading, after=self._take)

    def _take(self, given: Mapping[str, Any]) -> None:
        for group, saved in zip(self.param_groups, given["param_groups"], strict=True):
            self._check(group)
            rule = self._settings(group)[0]
            states = rule.states
            for p, key in zip(group["params"], saved["params"], strict=True):
                entry = self.state.get(p, {})
                # Older versions of torch write None where there is no momentum buffer yet.
                for name in [name for name, value in entry.items() if value is None]:
                    del entry[name]
                for name, value in entry.items():
                    original = given["state"][key][name]
                    if name in rule.scalars:
                        entry[name] = torch.tensor(float(original), dtype=torch.float64)
                        continue
                    if name not in states and name != "step":
                        # what others keep there isn't cast; torch makes generators of strings
                        entry[name] = copied(original, p.device)
                        continue
                    if not isinstance(value, Tensor):
                        continue
                    entry[name] = value.clone()
                    if name in states and p.dtype in differentiable.LOW_PRECISION:
                        entry[name] = original.to(device=p.device, dtype=torch.float32, copy=True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin_here()
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)


def _batches(
    counts: list[int], held: Mapping[str, list[float]]
) -> Iterable[tuple[tuple[Any, ...], Sequence[int]]]:
    """Split positions into sets of equal step count and scalar states; the usual case is one."""
    keys = list(zip(counts, *held.values(), strict=True))
    if keys.count(keys[0]) == len(keys):
        return [(keys[0], range(len(keys)))]
    batches: dict[tuple[Any, ...], list[int]] = {}
    for j, key in enumerate(keys):
        batches.setdefault(key, []).append(j)
    return batches.items()


def _allocate(
    param: Tensor,
    entry: dict[str, Any],
    live: tuple[str, ...],
    settings: Settings,
    tracked: Mapping[str, Any],
) -> None:
    rule, numbers, options = settings
    fresh = runtimes.initial_states(rule, real([param]), numbers, options)
    for name in live:
        if name in entry:
            continue
        value = differentiable.begin(rule, name, fresh[name][0], tracked)
        entry[name] = torch.view_as_complex(value) if param.is_complex() else value


def _parameter(group: Mapping[str, Any], i: int) -> str:
    names = group.get("param_names")
    return (
        repr(names[i]) if names else f"parameter {i} of its group, of shape {tuple(group['params'][i].shape)}"
    )
