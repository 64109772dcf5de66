"""Learning in stages: lists of stages, and the functions that write them.

A training in stages is a list of :class:`Stage`; ``thalweg.fit(stages=...)`` carries it out. Each function
here returns such a list or is a piece of one, and each piece is usable alone.
"""

from __future__ import annotations

from thalweg.stages.auxiliary import auxiliary_heads
from thalweg.stages.blocks import Block, Chain, Upto, find_blocks
from thalweg.stages.blurring import Blurred, BlurredLoss, blur
from thalweg.stages.continuation import (
    compare,
    continuation,
    curvature_when_blurred,
    minimize_by_continuation,
)
from thalweg.stages.curriculum import ExampleWeights, curriculum, curriculum_controls
from thalweg.stages.difficulty import difficulty_by, difficulty_of
from thalweg.stages.diffusion import Diffused, diffusion
from thalweg.stages.first_blocks import FirstBlocks, first_blocks
from thalweg.stages.freezing import frozen
from thalweg.stages.greedy import greedy
from thalweg.stages.growing import Grown, grow, growing
from thalweg.stages.hints import hint_loss, hints, regressor_for, softened_loss
from thalweg.stages.homotopy import FromLinear, HomotopyLoss, from_linear, homotopy
from thalweg.stages.linear_probes import Estimate, FeatureProbe, LinearProbe, fit_linear, probe_features
from thalweg.stages.orders import ByFrequency, EasiestFirst, Mix, emphasis_on_easy
from thalweg.stages.prefixed import Prefixed, head_for
from thalweg.stages.probes import (
    BlockFeatures,
    DomainError,
    PartScore,
    Probes,
    domain_errors,
    features_of_blocks,
    probe_blocks,
    probe_parts,
)
from thalweg.stages.progress import Follower, Ramp
from thalweg.stages.raw_input import join_raw_input
from thalweg.stages.stage import GIVEN, Stage
from thalweg.stages.taps import Tapped, Taps
from thalweg.stages.transfer import Transferred, take_blocks, transfer
from thalweg.stages.transfer_table import TransferAdvice, TuningTrial, choose_row
from thalweg.stages.unsupervised import Noise, unsupervised
from thalweg.stages.weighting import WeightedLoss, WeightedTargets

__all__ = [
    "GIVEN",
    "Block",
    "BlockFeatures",
    "Blurred",
    "BlurredLoss",
    "ByFrequency",
    "Chain",
    "Diffused",
    "DomainError",
    "EasiestFirst",
    "Estimate",
    "ExampleWeights",
    "FeatureProbe",
    "FirstBlocks",
    "Follower",
    "FromLinear",
    "Grown",
    "HomotopyLoss",
    "LinearProbe",
    "Mix",
    "Noise",
    "PartScore",
    "Prefixed",
    "Probes",
    "Ramp",
    "Stage",
    "Tapped",
    "Taps",
    "TransferAdvice",
    "Transferred",
    "TuningTrial",
    "Upto",
    "WeightedLoss",
    "WeightedTargets",
    "auxiliary_heads",
    "blur",
    "choose_row",
    "compare",
    "continuation",
    "curriculum",
    "curriculum_controls",
    "curvature_when_blurred",
    "difficulty_by",
    "difficulty_of",
    "diffusion",
    "domain_errors",
    "emphasis_on_easy",
    "features_of_blocks",
    "find_blocks",
    "first_blocks",
    "fit_linear",
    "from_linear",
    "frozen",
    "greedy",
    "grow",
    "growing",
    "head_for",
    "hint_loss",
    "hints",
    "homotopy",
    "join_raw_input",
    "minimize_by_continuation",
    "probe_blocks",
    "probe_features",
    "probe_parts",
    "regressor_for",
    "softened_loss",
    "take_blocks",
    "transfer",
    "unsupervised",
]
