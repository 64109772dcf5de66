"""What every test has around it."""

from __future__ import annotations

from multiprocessing import forkserver
from pathlib import Path

import pytest

import forking

forkserver.set_forkserver_preload = forking.everything


@pytest.fixture(autouse=True)
def _no_traces_outside(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Races count their looks at test data in the user's state folder; those of tests go elsewhere."""
    folder: Path = tmp_path_factory.getbasetemp() / "state"
    monkeypatch.setenv("THALWEG_STATE_DIR", str(folder))
