"""A problem that runs are to solve: model, data, optimizers and device, whatever the runs' settings are."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from thalweg.catalogue import Entry
from thalweg.data.source import Prepared
from thalweg.errors import ModelError
from thalweg.initial import initialize
from thalweg.layers.models import Factory
from thalweg.randomness.generators import own_generators, seed_torch
from thalweg.randomness.streams import seed32
from thalweg.run.objective import Functions, Objective
from thalweg.run.sampler import steps_an_epoch
from thalweg.run.spec import Run, Workload

__all__ = ["Problem", "initial_module"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What runs are trained and evaluated on; they may differ in settings and seeds.

    Attributes:
        factory: from input shape and number of outputs to the model.
        data: the splits, prepared, on the device.
        objective: what is trained, apart from what is judged.
        optimizers: the catalogue's entry of each optimizer's name that a setting may have.
        device: where models lie.
    """

    factory: Factory
    data: Prepared
    objective: Objective
    optimizers: Mapping[str, Entry]
    device: str = "cpu"

    @functools.cached_property
    def functions(self) -> Functions:
        """Losses and metric of these data's task."""
        return self.objective.on(self.data)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the functions, which are made where they are needed."""
        return {name: value for name, value in vars(self).items() if name != "functions"}

    def entry(self, run: Run) -> Entry:
        """Return the catalogue's entry of a run's optimizer."""
        return self.optimizers[run.setting.optimizer]

    def model(self, run: Run) -> nn.Module:
        """Build a run's model as it is before the first step, on the device.

        Raises:
            ModelError: the factory returns no module, or one that can't be initialized as the setting asks.
        """
        shape, outputs = self.data.input_shape, self.data.outputs
        module = initial_module(self.factory, shape, outputs, run.seed, run.setting.initialization)
        return self.objective.interface.attach(module.to(self.device))

    def steps(self, workload: Workload) -> int:
        """Return how many steps of the plan a run takes.

        Raises:
            DataError: the training split has fewer examples than a batch.
        """
        return steps_an_epoch(len(self.data.train), workload.batch_size) * workload.epochs


def initial_module(
    factory: Factory,
    input_shape: tuple[int, ...],
    outputs: int,
    seed: int,
    initialization: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the module of a run: its initial weights are a pure function of the run's seed.

    ``torch.manual_seed(seed32(seed, "initial"))``, then the factory; then, where a setting has one, its
    initialization. NumPy's and Python's generators are seeded likewise, and all are as before afterwards.

    Raises:
        ModelError: what the factory returns isn't a module, or can't be initialized so.
    """
    with own_generators(seed, "initial"):
        seed_torch(seed32(seed, "initial"))
        module = factory(input_shape, outputs)
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"the model factory returned {type(module).__name__}, not a torch.nn.Module; return the module"
        )
    if initialization:
        options = dict(initialization)
        initialize(module, options.pop("scheme"), seed=seed, **options)
    return module
