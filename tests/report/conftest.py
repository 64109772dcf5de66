from __future__ import annotations

import pytest

from report.synthetic import make
from thalweg.racing.results import Results
from thalweg.report import render


@pytest.fixture(scope="session")
def results() -> Results:
    """Seven optimizers, five splits of two seeds, one confirmation run diverged."""
    return make()


@pytest.fixture(scope="session")
def page(results: Results) -> str:
    """The report of them."""
    return render(results, recipe='[optimizer]\nname = "adamw"\n', script="import torch\n")
