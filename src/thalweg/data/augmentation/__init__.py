"""Images changed at random while training, and seen in a fixed set of crops at test time."""

from __future__ import annotations

from thalweg.data.augmentation.augment import augment, augment_by, reach_of
from thalweg.data.augmentation.bounds import AugmentationSettings
from thalweg.data.augmentation.crops import crops

__all__ = ["AugmentationSettings", "augment", "augment_by", "crops", "reach_of"]
