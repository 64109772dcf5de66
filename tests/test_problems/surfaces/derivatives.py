"""Second derivatives for the tests."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.func import grad, jacrev


def hessian(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Reverse over reverse: forward mode makes torch warn of its own deprecated parts on first use."""
    derivative: Callable[[Tensor], Tensor] = jacrev(grad(f))
    return derivative
