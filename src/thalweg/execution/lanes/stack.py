"""K replicas of a module as one: parameters and buffers ``[K, ...]``, and who can't be stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from thalweg.errors import ModelError
from thalweg.run.spec import Run

__all__ = ["Stack", "refusal"]


class Stack:
    """Parameters and buffers of K replicas.

    Args:
        template: a module of the kind; its structure is used, its values are not.
        tensors: every parameter (tied ones once) and buffer by name, ``[K, ...]``.

    Attributes:
        trainable: names of the parameters that get gradients.
        tensors: name to ``[K, ...]``; trainable ones require gradients.
    """

    def __init__(self, template: nn.Module, tensors: dict[str, Tensor]) -> None:
        self.template = template
        self.trainable = [name for name, p in template.named_parameters() if p.requires_grad]
        self.tensors = tensors
        for name in self.trainable:
            tensors[name].requires_grad_()

    def __len__(self) -> int:
        return len(self.tensors[self.trainable[0]])

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable parameters ``[K, ...]``, in the template's order."""
        return [self.tensors[name] for name in self.trainable]

    @classmethod
    def build(
        cls,
        model: Callable[[Run], nn.Module],
        runs: Sequence[Run],
    ) -> Stack:
        """Build the replicas of these runs; of those that begin alike one is built.

        Args:
            model: makes a run's module, as :meth:`thalweg.run.problem.Problem.model`.
            runs: one for each replica.

        Raises:
            ModelError: the module can't be stacked, or the modules differ in shape.
        """
        begins = [(run.seed, tuple(run.setting.initialization.items())) for run in runs]
        distinct = list(dict.fromkeys(begins))
        modules = [model(runs[begins.index(begin)]) for begin in distinct]
        template = modules[0]
        reason = refusal(template)
        if reason is not None:
            raise ModelError(reason)
        values = [_named(module) for module in modules]
        shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in values]
        if any(other != shapes[0] for other in shapes):
            raise ModelError(
                f"{type(template).__name__} has other parameters or shapes under another random seed; "
                f"build the same structure every time"
            )
        device = next(iter(values[0].values())).device
        slot = torch.tensor([distinct.index(each) for each in begins], device=device)
        tensors = {
            name: torch.stack([each[name] for each in values]).index_select(0, slot) for name in values[0]
        }
        return cls(template, tensors)

    def keep(self, rows: Tensor) -> None:
        """Keep these rows ``[K']`` (int64), in this order."""
        for name, tensor in self.tensors.items():
            kept = tensor.detach().index_select(0, rows)
            self.tensors[name] = kept.requires_grad_(tensor.requires_grad)


def _named(module: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return {
            **{name: p.detach().contiguous() for name, p in module.named_parameters()},
            **{name: b.detach().contiguous() for name, b in module.named_buffers()},
        }


def refusal(module: nn.Module) -> str | None:
    """Say why a module can't be a lane, in one sentence; ``None`` where it can.

    >>> refusal(nn.Linear(2, 1)) is None, refusal(nn.ReLU())
    (True, 'ReLU has no trainable parameters, so there is nothing to train')
    """
    name = type(module).__name__
    for part, check in _REFUSALS:
        if any(check(child) for child in module.modules()):
            return f"{name} {part}"
    if not any(p.requires_grad for p in module.parameters()):
        return f"{name} has no trainable parameters, so there is nothing to train"
    dtypes = {p.dtype for p in module.parameters() if p.requires_grad}
    if len(dtypes) > 1:
        return f"{name} has parameters of several types ({', '.join(sorted(map(str, dtypes)))})"
    if not next(iter(dtypes)).is_floating_point:
        return f"{name} has parameters of {next(iter(dtypes))}, which can't be stacked"
    return None


def _uninitialized(module: nn.Module) -> bool:
    tensors = [*module._parameters.values(), *module._buffers.values()]
    return any(tensor is not None and nn.parameter.is_lazy(tensor) for tensor in tensors)


def _scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


_REFUSALS: list[tuple[str, Callable[[nn.Module], bool]]] = [
    ("has lazy layers, whose shapes are known only after the first batch", _uninitialized),
    ("is a compiled script, which can't be traced over lanes", _scripted),
    ("has recurrent layers, for which torch has no batched form", lambda m: isinstance(m, nn.RNNBase)),
    ("has sparse gradients", lambda m: bool(getattr(m, "sparse", False)) and isinstance(m, nn.Embedding)),
]
