"""A lane gives the same bits in any company, where that is promised."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from thalweg.execution import lanes


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkl.is_available(),
    reason="bits are promised on x86 with MKL alone",
)
def test_a_run_gives_the_same_bits_in_any_company() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "execution.lanes.bits"],
        cwd=root,
        env={**os.environ, "MKL_CBWR": "AVX2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_the_promise_is_bits_only_where_they_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MKL_CBWR", raising=False)
    assert lanes.promise().startswith("tolerance")
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    expected = "bits" if torch.backends.mkl.is_available() else "tolerance"
    assert lanes.promise().startswith(expected)
    assert lanes.promise("vmap").startswith("tolerance")
    assert lanes.promise(device="cuda").startswith("tolerance")
