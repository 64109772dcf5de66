"""Images changed at random on their way into a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.data.augmentation.augment import Reach, augment_by, check, check_images, reach_of
from thalweg.data.augmentation.bounds import AugmentationSettings
from thalweg.errors import OptionError
from thalweg.settings.tables import takes
from thalweg.strategies.base import Keys, Strategy, Trainer

__all__ = ["Augmentation"]

_LOOKED_AT = 200


class Augmentation(Strategy):
    """Change the images of every step at random; evaluations see them as they are.

    What happens to an example depends on the seed of the run, the epoch and the example, so that a training
    that is resumed, or split over processes, sees the same images. Black and white, which brightness,
    contrast and the filling of edges are measured by, are what the training inputs reach, channel by channel
    (of the first 200 batches), unless they are given.

    Args:
        settings: those of :class:`~thalweg.data.augmentation.bounds.AugmentationSettings`.

    Raises:
        OptionError: a value out of range, or nothing is on.

    >>> import torch
    >>> augmentation = Augmentation(rotate=15, translate=0.1, brightness=0.2, black=0.0, white=1.0)
    >>> images = torch.rand(8, 1, 12, 12)
    >>> augmentation.change(images, torch.arange(8), seed=0, epoch=0).shape
    torch.Size([8, 1, 12, 12])

    Source: A6 (S). The function is :func:`thalweg.data.augmentation.augment`.
    """

    name: ClassVar[str] = "augmentation"
    priority: ClassVar[int] = 15
    settings: AugmentationSettings

    @takes(AugmentationSettings)
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        check(self.settings)
        if not self.settings.on:
            raise OptionError(
                "augmentation: nothing is on; give at least one change, such as rotate = 10, or leave it out"
            )
        self.reach: Reach | None = None

    def change(self, images: Tensor, indices: Tensor, *, seed: int, epoch: int) -> Tensor:
        """Return the images ``[B, C, H, W]`` changed; ``indices`` say which examples they are."""
        return augment_by(self.settings, images, indices, seed=seed, epoch=epoch, reach=self.reach)

    def before_training(self, trainer: Trainer) -> None:
        """Refuse what are no images, and find out what is black and white."""
        settings = self.settings
        for (inputs,) in trainer.inputs(1):
            check_images(inputs, settings)
        if settings.needs_reach and settings.black is None:
            black, white = reach_of(inputs for (inputs,) in trainer.inputs(_LOOKED_AT))
            blacks, whites = trainer.gather(black), trainer.gather(white)
            self.reach = torch.stack(blacks).amin(0), torch.stack(whites).amax(0)

    def batch(self, trainer: Trainer, inputs: Any, targets: Tensor, keys: Keys) -> tuple[Any, Tensor]:
        """Change the images of a batch."""
        return self.change(inputs, keys.indices, seed=trainer.seed, epoch=keys.epoch), targets

    def state_dict(self) -> dict[str, Any]:
        """Return what is black and white."""
        return {"reach": None if self.reach is None else list(self.reach)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what was found."""
        self.reach = None if state["reach"] is None else (state["reach"][0], state["reach"][1])
