"""Why training is slow, stuck or blowing up, and what to change.

``trace`` sees what model and loss compute, ``facts`` gathers what is known before a step is taken;
``endings``, ``data_checks``, ``signals`` and ``pace`` say what may be wrong, and with which ``changes`` it
would be mended; ``trial`` trains; ``diagnosing`` puts them in order.
"""

from thalweg.diagnosis.comparing import PairedTrials, try_remedies
from thalweg.diagnosis.diagnosis import Diagnosis, diagnose
from thalweg.diagnosis.finding import CAUSES, MECHANISMS, Finding, Remedy
from thalweg.diagnosis.monitor import Monitor
from thalweg.diagnosis.pictures import Pictures, take_pictures
from thalweg.diagnosis.setup import Setup

__all__ = [
    "CAUSES",
    "MECHANISMS",
    "Diagnosis",
    "Finding",
    "Monitor",
    "PairedTrials",
    "Pictures",
    "Remedy",
    "Setup",
    "diagnose",
    "take_pictures",
    "try_remedies",
]
