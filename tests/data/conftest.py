"""What the tests of sources share: running a source's script and comparing it with what prepare gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from thalweg.data import Source, prepare


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def same_as_script() -> Callable[[Source], dict[str, Any]]:
    """Run the script and hold its tensors, to the bit, to those of prepare; give what it defines."""

    def compare(source: Source) -> dict[str, Any]:
        text = source.script(3, 2)
        assert text is not None
        assert "thalweg" not in text
        defined: dict[str, Any] = {}
        exec(text, defined)
        prepared = prepare(source, seed=3, replicate=2)
        for part in ("train", "validation", "test"):
            examples = getattr(prepared, part)
            for letter, tensor in (("x", examples.inputs), ("y", examples.targets)):
                other = defined[f"{letter}_{part}"]
                assert other.dtype == tensor.dtype
                assert torch.equal(other, tensor), f"{letter}_{part}"
        if source.task.kind == "regression":
            assert defined["y_center"] == prepared.task.center
            assert defined["y_scale"] == prepared.task.scale
        return defined

    return compare
