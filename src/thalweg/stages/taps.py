"""Taps: the outputs of named inner modules of any model, beside what the model itself returns."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from thalweg.errors import ModelError, OptionError, nearest
from thalweg.layers.interface import Output, part_of
from thalweg.objectives.nests import entries_of
from thalweg.stages.freezing import plain_name

__all__ = [
    "Closing",
    "Stopped",
    "Tapped",
    "Taps",
    "inner_module",
    "inner_modules",
    "is_compiled",
    "put_off",
    "runs_to_its_end",
]


def inner_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules within a model by plain name: without what ``torch.compile`` or DDP put into it.

    Of a part that was compiled, it is the compiled one, so that its hooks are called.

    >>> list(inner_modules(nn.Sequential(nn.Linear(2, 2), nn.ReLU())))
    ['0', '1']
    """
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        plain = plain_name(f"{name}.").removesuffix(".")
        if plain:
            found.setdefault(plain, module)
    return found


def inner_module(model: nn.Module, name: str, what: str) -> nn.Module:
    """Return the module of a name.

    Raises:
        OptionError: there is none; the nearest is shown.

    >>> inner_module(nn.Sequential(nn.Linear(2, 2)), "layer", "blocks")
    Traceback (most recent call last):
    thalweg.errors.OptionError: there is no part 'layer' in the model, which blocks names; known: 0
    """
    known = inner_modules(model)
    if not isinstance(name, str) or plain_name(name) not in known:
        raise OptionError(
            f"there is no part {name!r} in the model, which {what} names; {nearest(name, known)}"
        )
    return known[plain_name(name)]


class Stopped(Exception):
    """Ends a forward pass where all that is asked for is there.

    Attributes:
        by: what asked; another around it lets this pass.
    """

    def __init__(self, by: object) -> None:
        super().__init__()
        self.by = by


def runs_to_its_end(model: nn.Module, paths: Iterable[str]) -> bool:
    """Say whether a forward pass of a model may not be ended within modules.

    DDP, and FSDP2 of a model that is sharded part by part, wait for the end of what they wrap.

    Args:
        model: any.
        paths: of the modules, as ``model.named_modules()`` has them.
    """
    for path in paths:
        # what holds the module, the whole model first, and the module itself
        names = path.split(".")
        for end in range(len(names) + 1):
            part = model.get_submodule(".".join(names[:end]))
            if hasattr(part, "set_requires_gradient_sync") or isinstance(
                part, nn.parallel.DistributedDataParallel
            ):
                return True
    return False


class _Seen:
    """What hooks have noted: plain, so that a copy of the module that has the hooks has a copy of this."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.calls: dict[str, int] = {}
        # of which names an output ends the pass once all have one; ``None``: it goes on to its end
        self.left: set[str] | None = None
        # whether what surrounds the model has gradients; ``None`` where nobody knows
        self.needed: bool | None = None


class _Note:
    """A forward hook that keeps what a module gives."""

    def __init__(self, seen: _Seen, name: str, module: str) -> None:
        self.seen, self.name, self.module = seen, name, module

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            # a checkpoint runs the module again while gradients are computed; that isn't another call
            if torch._C._current_graph_task_id() != -1:
                return
            if self.seen.needed and not torch.is_grad_enabled() and _in_reentrant_checkpoint():
                raise ModelError(
                    f"the output of {self.module!r} has no gradient, since it is computed within a reentrant "
                    "checkpoint; call torch.utils.checkpoint.checkpoint with use_reentrant=False"
                )
        # a copy, since what comes after may overwrite it in place, as ReLU(inplace=True) does
        self.seen.values[self.name] = trees.tree_map_only(Tensor, Tensor.clone, output)
        if torch.compiler.is_compiling():
            return
        self.seen.calls[self.name] = self.seen.calls.get(self.name, 0) + 1
        if self.seen.left is not None:
            self.seen.left.discard(self.name)
            if not self.seen.left:
                raise Stopped(self.seen)


class _Begin:
    """A forward hook of the whole model: what was noted in the call before counts no longer."""

    def __init__(self, seen: _Seen) -> None:
        self.seen = seen

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.seen.values.clear()
        self.seen.needed = torch.is_grad_enabled()


def _in_reentrant_checkpoint() -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is torch.utils.checkpoint.CheckpointFunction.forward.__code__:
            return True
        frame = frame.f_back
    return False


def put_off(module: nn.Module, mine: Any) -> None:
    """Remove those forward hooks and pre-hooks of all parts of a module of which ``mine(hook)`` is true.

    By looking at the hooks themselves: a handle would belong to the original where this is a copy.
    """
    for part in module.modules():
        for hooks, marks in (
            (part._forward_pre_hooks, (part._forward_pre_hooks_with_kwargs,)),
            (part._forward_hooks, (part._forward_hooks_with_kwargs, part._forward_hooks_always_called)),
        ):
            for number in [number for number, each in hooks.items() if mine(each)]:
                del hooks[number]
                for mark in marks:
                    mark.pop(number, None)


def _names(names: Mapping[str, str] | Sequence[str] | str) -> dict[str, str]:
    if isinstance(names, str):
        names = [names]
    found = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
    if not found:
        raise OptionError("no inner module is named whose output is to be read; name at least one")
    for name in found:
        if not isinstance(name, str) or not name:
            raise OptionError(f"an output of an inner module is called {name!r}; give it a name of letters")
    return {name: plain_name(module) if isinstance(module, str) else module for name, module in found.items()}


def _put_on(model: nn.Module, names: Mapping[str, str], seen: _Seen) -> None:
    found = {name: inner_module(model, module, f"the tap {name!r}") for name, module in names.items()}
    for name, module in found.items():
        module.register_forward_hook(_Note(seen, name, names[name]))


def is_compiled(model: nn.Module) -> bool:
    """Say whether a model or a part of it is one of ``torch.compile``."""
    return any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in model.modules()
    )


def _uncalled(name: str, module: str, model: nn.Module) -> ModelError:
    why = "this forward pass hasn't called it; name a module that forward calls"
    if is_compiled(model):
        why += (
            ", or, where the model was compiled and called before the tap was put on, call "
            "torch.compiler.reset()"
        )
    return ModelError(f"there is no output of {module!r} to read as {name!r}: {why}")


class Taps(Mapping[str, Any]):
    """The outputs of inner modules, in a loop of one's own.

    Within the context, each forward pass of the model leaves in it what the named modules gave, with
    their gradients::

        with Taps(model, {"hint": "layer2"}) as taps:
            for x, y in batches:
                logits = model(x)
                loss = cross_entropy(logits, y) + 0.1 * (taps["hint"] - teacher(x)).square().mean()
                ...

    What is read is a copy, which later operations in place don't change; gradients flow through it. Of a
    module that is called several times in a forward pass it is the output of the last call. A model under
    ``torch.compile`` needs its taps before its first call, or ``torch.compiler.reset()`` after they are put
    on. Values stay after the context, until the next forward pass within one.

    Args:
        model: any; one of ``torch.compile``, DDP or FSDP2 too, whose modules are named as in the plain model.
        names: of the modules, as ``["layer2"]``, or by the names to read them by, as ``{"hint": "layer2"}``.

    Raises:
        OptionError: a name that matches nothing, when the context begins, with the nearest; another name is
            read.
        ModelError: a module is read that the forward pass hasn't called.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    >>> with Taps(model, {"hint": "0"}) as taps:
    ...     _ = model(torch.ones(5, 4))
    >>> taps["hint"].shape, taps["hint"].requires_grad
    (torch.Size([5, 3]), True)

    Source: P6, D4 (N, U).
    """

    def __init__(self, model: nn.Module, names: Mapping[str, str] | Sequence[str] | str) -> None:
        self._model, self._names, self._seen = model, _names(names), _Seen()

    def __enter__(self) -> Taps:
        self._model.register_forward_pre_hook(_Begin(self._seen))
        try:
            _put_on(self._model, self._names, self._seen)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks away."""
        put_off(self._model, lambda hook: isinstance(hook, (_Note, _Begin)) and hook.seen is self._seen)

    def __getitem__(self, name: str) -> Any:
        """Return the output of a module in the last forward pass."""
        if name not in self._names:
            raise OptionError(f"there is no tap {name!r}; {nearest(name, self._names)}")
        if name not in self._seen.values:
            raise _uncalled(name, self._names[name], self._model)
        return self._seen.values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Closing(nn.Module):
    """A module that may hold others that put hooks into a model: :meth:`close` takes them all out."""

    def close(self) -> None:
        """Take the hooks of this module, and of all such within it, out of the model."""
        for part in list(self.modules()):
            if isinstance(part, Closing):
                part._take_out()

    def _take_out(self) -> None:
        """Take out one's own hooks."""


class Tapped(Closing):
    """A model that returns outputs of its inner modules too, by name.

    ``forward`` takes what the model takes and returns ``{"logits": what the model returns, NAME: output of a
    module, ...}``. Where the model returns a dictionary or an object with named parts, these are there too,
    and ``"logits"`` is the part that is compared with targets. So a metric by name reads the
    logits, and a loss of one's own is given everything.

    It holds the model itself, not a copy, and puts hooks into it: call :meth:`close` in the end. A
    copy, as FSDP2 trains one, has hooks of its own. What is read is a copy of the output, which later
    operations in place don't change; of a module that is called several times, the last call's. Under
    ``torch.utils.checkpoint``, take ``use_reentrant=False``. Of a compiled model, what has been compiled is
    compiled again.

    Args:
        model: any.
        names: as of :class:`Taps`.
        output: which part of what the model returns is ``"logits"``, where that isn't clear, as for ``fit``.
        stops: end the forward pass once each of the modules has been called, so that nothing that comes
            after them is computed; what the model returns isn't there then. For modules that are called once
            in a pass. A compiled model, and one that FSDP2 shards part by part, is run to its end all
            the same.

    Raises:
        OptionError: a name that matches nothing, with the nearest, or that is taken.
        ModelError: a named module that a forward pass doesn't call.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> tapped = Tapped(model, {"hint": "1"})
    >>> {name: list(value.shape) for name, value in tapped(torch.ones(5, 4)).items()}
    {'logits': [5, 2], 'hint': [5, 3]}
    >>> tapped.close()

    Source: P6, D4 (N, U).
    """

    def __init__(
        self,
        model: nn.Module,
        names: Mapping[str, str] | Sequence[str] | str,
        *,
        output: Output = None,
        stops: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.output, self.stops = model, output, stops
        self.names, self._seen = _names(names), _Seen()
        if "logits" in self.names:
            raise OptionError(
                "a tap is called 'logits', as what the model itself returns is; call it otherwise"
            )
        _put_on(model, self.names, self._seen)
        if is_compiled(model):
            # what was compiled without the hooks would go on without them
            torch.compiler.reset()
            self._paths: list[str] | None = None
        else:
            asked = {id(inner_module(model, each, "a tap")) for each in self.names.values()}
            self._paths = [path for path, module in model.named_modules() if id(module) in asked]

    @property
    def called_once(self) -> bool:
        """Whether the last forward pass called each of the modules once."""
        return all(self._seen.calls.get(name) == 1 for name in self.names)

    @property
    def called_as(self) -> nn.Module:
        """The module that inputs are handed on to."""
        return self.model

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the model's outputs and those of the named modules."""
        seen = self._seen
        seen.values, seen.calls = {}, {}
        seen.needed = torch.is_grad_enabled()
        seen.left = set(self.names) if self.stops and self._may_stop() else None
        found: dict[str, Any] = {}
        try:
            outputs = self.model(*args, **kwargs)
        except Stopped as stopped:
            # of another one around this one
            if stopped.by is not seen:
                raise
        else:
            found = {} if self.stops else self._parts(outputs)
        finally:
            # nothing of a batch is held on to
            values, seen.values, seen.needed, seen.left = seen.values, {}, None, None
        for name, module in self.names.items():
            if name not in values:
                raise _uncalled(name, module, self.model)
            if name in found:
                raise OptionError(
                    f"a tap is called {name!r}, as a part of what the model returns is; call it otherwise"
                )
            found[name] = values[name]
        return found

    def _may_stop(self) -> bool:
        if self._paths is None or torch.compiler.is_compiling():
            return False
        return not runs_to_its_end(self.model, self._paths)

    def _parts(self, outputs: Any) -> dict[str, Any]:
        """What the model returns, by name."""
        entries = {} if isinstance(outputs, (Tensor, tuple, list)) else entries_of(outputs) or {}
        found = {name: value for name, value in entries.items() if isinstance(name, str)}
        if "logits" not in found:
            found["logits"] = part_of(outputs, self.output)
        return found

    def _take_out(self) -> None:
        put_off(self.model, lambda hook: isinstance(hook, _Note) and hook.seen is self._seen)
