"""What one process, DDP or FSDP2 left is taken up by any other of them, and comes to the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from training import pairs

pytestmark = [
    pytest.mark.skipif(os.name != "posix" or not dist.is_gloo_available(), reason="needs gloo and fork"),
    pytest.mark.slow,
]

TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}
WORLDS = {"one": "one process", "ddp": "2 processes", "fsdp2": "2 processes"}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crossed")
    for case in pairs.CROSSED:
        pairs.leave(case, None, folder / f"{case} one")
        for name in pairs.BACKENDS:
            shutil.copytree(folder / f"{case} one", folder / f"{case} one {name}")
    codes = pairs.run(pairs.cross, folder, folder=folder / "said")
    assert codes == [0, 0], pairs.said(folder / "said")
    return folder


@pytest.mark.parametrize("case", pairs.CROSSED)
@pytest.mark.parametrize("after", WORLDS)
@pytest.mark.parametrize("before", WORLDS)
def test_what_others_left_is_taken_up(before: str, after: str, case: str, left: Path) -> None:
    if before == after == "one":
        pytest.skip("held to the bit elsewhere")
    expected = pairs.outcome(pairs.train(case, None))
    out = left / f"{case} {before} {after}"
    found: dict[str, Any]
    if after == "one":
        found = pairs.take_up(case, None, out)
    else:
        found = torch.load(left / f"{case} {before} {after}.pt", weights_only=False)
    assert any(note.startswith("going on from step") for note in found["told"]), found["told"]
    pairs.come_to_the_same(found, expected, **TOLERANCE)
    warned = [note for note in found["told"] if "the rest is exact" in note]
    if WORLDS[before] == WORLDS[after]:
        assert warned == []
    else:
        assert len(warned) == 1
        words = (
            f"the checkpoint is of {WORLDS[before]} and goes on in {WORLDS[after]}: sums over examples are"
        )
        assert warned[0].startswith(words)
    # shards stay as long as a state refers to them, and no longer
    wanted = set()
    for file in (out / "checkpoints").glob("*.pt"):
        state = torch.load(file, weights_only=True)
        wanted.add(state.get("thalweg.shards", {}).get("folder"))
    assert {path.name for path in (out / "checkpoints").glob("*.shards")} == wanted - {None}
