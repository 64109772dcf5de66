"""A person's own rule as a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from thalweg.errors import OptionError, nearest
from thalweg.optim.base import Params, RuleOptimizer, Settings, check_number
from thalweg.rules import Rule, as_rule
from thalweg.settings.plugins import load_object

__all__ = ["CustomOptimizer", "OptimizerFactory", "from_rule"]


class CustomOptimizer(RuleOptimizer):
    """The optimizer of any rule; groups hold the rule's hyperparameters and options under their own names.

    Args:
        params: parameters, named parameters, or dictionaries of groups.
        rule: the rule.
        maximize: climb instead of descend.
        differentiable: whether autograd goes through the step.
        settings: hyperparameters and options of the rule; those left out have the rule's default.

    State: ``step``, and the rule's states by name.

    Raises:
        OptionError: a name that the rule doesn't have, a hyperparameter that isn't a number, or an option
            of the wrong kind. Ranges are the rule's own affair.

    >>> import torch
    >>> from thalweg import rules
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> CustomOptimizer([x], rules.momentum, lr=0.25).param_groups[0]["momentum"]
    0.9
    """

    def __init__(
        self,
        params: Params,
        rule: Rule,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        **settings: Any,
    ) -> None:
        self.rule = rule
        _check_names(rule, settings)
        defaults = {**rule.hyperparameters, **rule.options, **settings}
        super().__init__(params, {**defaults, "maximize": maximize, "differentiable": differentiable})

    def _check_more(self, group: Mapping[str, Any]) -> None:
        for name in self.rule.hyperparameters:
            check_number(self.rule.name, name, group[name])
        self.rule.settle({}, {name: group[name] for name in self.rule.options})

    def _settings(self, group: Mapping[str, Any]) -> Settings:
        rule = self.rule
        hyper = {name: group[name] for name in rule.hyperparameters}
        return rule, hyper, {name: group[name] for name in rule.options}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule}

    def __repr__(self) -> str:
        return super().__repr__().replace(type(self).__name__, self.rule.name, 1)


@dataclass(frozen=True)
class OptimizerFactory:
    """What :func:`from_rule` returns: called with parameters it makes an optimizer.

    Attributes:
        rule: the rule.
        defaults: settings that differ from the rule's own defaults.
    """

    rule: Rule
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, params: Params, **settings: Any) -> CustomOptimizer:
        """Make the optimizer; ``settings`` go before the defaults."""
        return CustomOptimizer(params, self.rule, **{**self.defaults, **settings})


def from_rule(rule: Rule | Callable[..., Any] | str, **defaults: Any) -> OptimizerFactory:
    """Make a torch optimizer of a rule.

    Args:
        rule: a rule, a plain function of a rule's form, or ``"file.py:name"`` of either.
        defaults: hyperparameters and options of the rule, ``maximize``, ``differentiable``.

    Returns:
        A factory: ``from_rule(my_rule)(model.parameters(), lr=0.1)``.

    Raises:
        RuleError: not a rule, or the file can't be loaded.
        OptionError: a name that the rule doesn't have.

    >>> import torch
    >>> def halfway(p, g, *, lr=0.5):
    ...     return p - lr * g
    >>> x = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = from_rule(halfway)([x], lr=0.25)
    >>> _ = optimizer.zero_grad(), (x**2).sum().backward(), optimizer.step()
    >>> x.item()
    0.5
    """
    found: Any = load_object(rule, "rule") if isinstance(rule, str) else rule
    made = as_rule(found)
    _check_names(made, {k: v for k, v in defaults.items() if k not in ("maximize", "differentiable")})
    return OptimizerFactory(made, defaults)


def _check_names(rule: Rule, settings: Mapping[str, Any]) -> None:
    known = [*rule.hyperparameters, *rule.options]
    for name in ("params", "param_names", "maximize", "differentiable"):
        if name in known:
            raise OptionError(f"rule {rule.name} has a setting called {name}, which is torch's; rename it")
    for name in settings:
        if name not in known:
            raise OptionError(f"rule {rule.name} has no setting {name!r}; {nearest(name, known)}")
