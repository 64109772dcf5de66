"""A starting point as a strategy: weights by a scheme, biases from what is known of the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.initial import (
    SCHEMES,
    from_saved,
    initialize,
    marginals,
    open_gates,
    positive_biases,
    set_output_bias,
)
from thalweg.initial.normed import normed
from thalweg.initial.schemes import options_of
from thalweg.initial.weights import role_of
from thalweg.settings.choices import Activation
from thalweg.settings.tables import takes
from thalweg.strategies.base import Settings, Strategy, Trainer

__all__ = ["Initialization", "InitializationSettings", "output_layer"]

if TYPE_CHECKING:
    Scheme: TypeAlias = str
else:
    # of the schemes that there are, for a check and a sentence like those of other choices
    Scheme = Literal[tuple(SCHEMES)]


class InitializationSettings(Settings):
    """``[strategies.initialization]``."""

    scheme: Scheme | None = None
    scale: float | None = Field(default=None, gt=0)
    gain: float | None = Field(default=None, gt=0)
    k: int | None = Field(default=None, ge=1)
    bias: float | None = 0.0
    positive_bias: float | None = Field(default=None, gt=0)
    output_bias: bool = False
    open_gates: bool = False
    saved: str | None = None

    def by_scheme_alone(self) -> dict[str, Any] | None:
        """Return the scheme and its numbers, as a race's settings have them; ``None`` if there is more to it.

        >>> InitializationSettings(scheme="sparse", k=9).by_scheme_alone()
        {'scheme': 'sparse', 'k': 9}
        """
        given = self.model_dump(exclude_defaults=True)
        return given if "scheme" in given and given.keys() <= {"scheme", *_OPTIONS} else None


class Initialization(Strategy):
    """Begin at a chosen point: draws the weights anew before the first step, from the run's seed.

    In this order: a scheme for the weights, biases above zero under ReLU, open forget and update gates, the
    output layer's bias at the marginal statistics of the training targets, and a saved model, of which
    everything is taken whose name and shape fit. Without ``fit``, call :meth:`apply`, or the functions of
    :mod:`thalweg.initial`.

    Args:
        scheme: one of :data:`thalweg.initial.SCHEMES`; ``None``: weights stay as the model was made.
        scale: of ``"uniform"``, ``"gaussian"`` and ``"sparse"``.
        gain: of ``"normalized"`` and ``"orthogonal"``.
        k: nonzero weights into each unit, of ``"sparse"``.
        bias: for all biases, where there is a scheme; ``None``: they stay.
        positive_bias: for the biases of units under ReLU.
        output_bias: begin at the marginal statistics.
        open_gates: of LSTM and GRU layers.
        saved: a file of safetensors, or of tensors by torch.

    Raises:
        OptionError: a value out of range, or an option that the scheme doesn't have.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> Initialization(scheme="he", positive_bias=0.1).apply(model, seed=0)
    []
    >>> [round(value, 3) for value in model[0].bias.tolist()]
    [0.1, 0.1, 0.1, 0.1]

    Source: I1-I9 (K, U).
    """

    name: ClassVar[str] = "initialization"
    priority: ClassVar[int] = 10
    settings: InitializationSettings

    @takes(InitializationSettings)
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        scheme = self.settings.scheme
        for option, schemes in _OPTIONS.items():
            if getattr(self.settings, option) is not None and scheme not in schemes:
                fitting = ", ".join(schemes)
                raise OptionError(f"{self.name}: {option} is for the schemes {fitting}, not for {scheme!r}")

    def apply(
        self,
        model: nn.Module,
        *,
        seed: int,
        targets: Any = None,
        activation: Activation | None = None,
    ) -> list[str]:
        """Set a model's weights and biases, in place.

        Args:
            model: any.
            seed: decides the draws, with the names of the parameters.
            targets: of the training examples, for ``output_bias``.
            activation: of the outputs, likewise; ``"softmax"`` of a single one is ``"sigmoid"``.

        Returns:
            What the person should know, a sentence each.

        Raises:
            ModelError: it has no output layer to be found, or no such thing as was asked for.
        """
        wanted, notes = self.settings, list[str]()
        if wanted.scheme is not None:
            options = {name: value for name in _OPTIONS if (value := getattr(wanted, name)) is not None}
            notes += initialize(model, wanted.scheme, seed=seed, bias=wanted.bias, **options).notes
        if wanted.positive_bias is not None:
            positive_biases(model, wanted.positive_bias)
        if wanted.open_gates:
            open_gates(model)
        if wanted.output_bias:
            if targets is None or activation is None:
                raise OptionError(
                    "initialization: output_bias needs the training targets all at once and a loss that is "
                    "known by name; leave it out"
                )
            name, layer = output_layer(model)
            outputs = int(layer.bias.numel()) if layer.bias is not None else 0
            if activation == "softmax" and outputs == 1:
                activation = "sigmoid"  # one logit stands for two classes
            classes = outputs if activation == "softmax" else None
            statistics = marginals(targets, classes=classes)
            notes += [
                f"{name}: {text}"
                for text in set_output_bias(layer, statistics, activation, examples=len(targets)).notes
            ]
        if wanted.saved is not None:
            taken = from_saved(model, wanted.saved)
            left = [*taken.missing, *taken.misfits]
            notes.append(
                f"{len(taken.taken)} tensors were taken from {wanted.saved}"
                + (f"; not found there or of another shape: {', '.join(left)}" if left else "")
            )
        return notes

    def before_training(self, trainer: Trainer) -> None:
        """Apply it to the model of the run."""
        targets = trainer.targets() if self.settings.output_bias else None
        for text in self.apply(
            trainer.model, seed=trainer.seed, targets=targets, activation=trainer.activation
        ):
            trainer.note(text)


_OPTIONS = {
    option: [name for name, scheme in SCHEMES.items() if option in options_of(scheme)]
    for option in ("scale", "gain", "k")
}


def output_layer(model: nn.Module) -> tuple[str, Any]:
    """Return the name and the layer that gives a model's outputs: the last one with weights, as listed.

    Raises:
        ModelError: that layer has no bias, or there is none.

    >>> output_layer(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    ('2', Linear(in_features=3, out_features=2, bias=True))
    """
    found = None
    for name, module in model.named_modules():
        computed = normed(module).get("weight")
        weight = module._parameters.get("weight") if computed is None else computed.weight
        if isinstance(weight, Tensor) and role_of(module, "weight", weight) not in (None, "embedding"):
            found = name, module
    if found is None or found[1]._parameters.get("bias") is None:
        raise ModelError("no output layer with a bias was found; leave out output_bias, or set it yourself")
    return found
