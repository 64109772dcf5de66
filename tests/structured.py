"""Models that return more than a tensor, and data whose items are dictionaries, beside plain twins."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees
from torch.utils.data import Dataset

G = torch.Generator().manual_seed(4)
A, B = torch.randn(96, 4, generator=G), torch.randn(96, 3, generator=G)
LABELS = (A.sum(1) + B[:, 0] > 0).long()

Pair = namedtuple("Pair", ["loss", "logits"])


class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """As transformers' outputs: ordered, with attributes, and only what isn't ``None``."""

    def __init__(self, **parts: Any) -> None:
        super().__init__((name, part) for name, part in parts.items() if part is not None)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Registered(ModelOutput):
    """The same, known to torch's trees, as transformers registers its own."""


trees.register_pytree_node(
    Registered,
    lambda value: (list(value.values()), list(value)),
    lambda parts, names: Registered(**dict(zip(names, parts, strict=True))),
)


@dataclass(frozen=True)
class Outcome:
    logits: Tensor
    hidden: Tensor
    loss: Tensor | None = None


class Attributes:
    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


WRAPS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda logits, hidden: (logits, hidden),
    "list": lambda logits, hidden: [logits, (hidden, hidden)],
    "None first": lambda logits, hidden: (None, logits),
    "NamedTuple": lambda logits, hidden: Pair(None, logits),
    "dict": lambda logits, hidden: {"hidden": hidden, "logits": logits},
    "one tensor of fractions": lambda logits, hidden: {"found": logits, "label": logits.argmax(-1)},
    "nested": lambda logits, hidden: {"out": {"prediction": logits}, "hidden": [hidden]},
    "ModelOutput": lambda logits, hidden: ModelOutput(loss=None, logits=logits, hidden_states=(hidden,)),
    "registered": lambda logits, hidden: Registered(hidden_states=(hidden,), logits=logits),
    "dataclass": lambda logits, hidden: Outcome(logits, hidden),
    "attributes": lambda logits, hidden: Attributes(hidden=hidden, logits=logits),
}  # fmt: skip


class Net(nn.Module):
    """Takes two inputs by name; returns whatever ``wrap`` makes of logits and hidden values."""

    def __init__(
        self, wrap: str | None = None, *, norm: bool = False, drop: float = 0.0, outputs: int = 2, a: int = 4
    ) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.below = nn.Linear(a, 8)
        self.beside = nn.Linear(3, 8, bias=False)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.drop = nn.Dropout(drop)
        self.above = nn.Linear(8, outputs)
        self.wrap = wrap

    def forward(self, a: Tensor, b: Tensor | None = None) -> Any:
        return self.answer(a, b)

    def answer(self, a: Tensor, b: Tensor | None) -> Any:
        hidden = self.below(a) if b is None else self.below(a) + self.beside(b)
        hidden = self.drop(torch.tanh(self.norm(hidden)))
        logits = self.above(hidden)
        return logits if self.wrap is None else WRAPS[self.wrap](logits, hidden)


class Joined(Net):
    """The plain twin: one tensor in, with both inputs beside each other."""

    def forward(self, x: Tensor) -> Any:
        return self.answer(x[:, :4], x[:, 4:])


class OfOne(Net):
    """Takes the one dictionary."""

    def forward(self, batch: dict[str, Tensor]) -> Any:
        return self.answer(batch["a"], batch["b"])


class Items(Dataset[Any]):
    """Items made by a function of their number."""

    def __init__(self, make: Callable[[int], Any], count: int = len(A)) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, n: int) -> Any:
        return self.make(n)


X = torch.cat([A, B], 1)


def named(n: int) -> dict[str, Any]:
    """An item as Hugging Face's datasets have them."""
    return {"a": A[n], "b": B[n], "labels": int(LABELS[n])}
