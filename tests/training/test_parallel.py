"""Two processes train what one trains: DDP and FSDP2 on gloo, case by case."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from thalweg.errors import OptionError
from thalweg.training import parallel
from training import pairs

pytestmark = [
    pytest.mark.skipif(os.name != "posix" or not dist.is_gloo_available(), reason="needs gloo and fork"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    codes = pairs.run(pairs.carry_out_cases, folder, folder=folder)
    assert codes == [0, 0], pairs.said(folder)
    return folder


@pytest.fixture(scope="module")
def two_of_forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    codes = pairs.run(pairs.carry_out_forms, folder, folder=folder)
    assert codes == [0, 0], pairs.said(folder)
    return folder


@pytest.mark.parametrize("case", pairs.FORMS)
@pytest.mark.parametrize("backend", pairs.BACKENDS)
def test_inputs_outputs_and_targets_may_have_any_form(backend: str, case: str, two_of_forms: Path) -> None:
    """Batches by name, models that return a dictionary or a dataclass, several targets."""
    found: dict[str, Any] = torch.load(two_of_forms / f"{backend} {case}.pt", weights_only=False)
    assert "problem" not in found, found["problem"]
    assert found["alike"][0] == found["alike"][1]
    assert found["sums"][0] == found["sums"][1]
    expected = pairs.outcome(pairs.train(case, None))
    pairs.come_to_the_same(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", pairs.CASES)
@pytest.mark.parametrize("backend", pairs.BACKENDS)
def test_two_processes_train_as_one(backend: str, case: str, two: Path) -> None:
    given = pairs.CASES[case]
    if given.get("only", backend) != backend:
        pytest.skip("not sharded")
    found: dict[str, Any] = torch.load(two / f"{backend} {case}.pt", weights_only=False)
    assert "problem" not in found, found["problem"]
    # both processes know and hold the same, to the bit
    assert found["alike"][0] == found["alike"][1]
    assert found["sums"][0] == found["sums"][1]
    if case == "overflow":
        assert all(value.isfinite().all() for value in found["model"].values())
        return
    expected = pairs.outcome(pairs.train(case, None, precision=given.get("precision", "float32")))
    tolerance = {"rtol": 1e-9, "atol": 1e-10} if case != "half precision" else {"rtol": 2e-2, "atol": 2e-2}
    pairs.come_to_the_same(found, expected, **tolerance)
    assert [n.split(" at ")[0] for n in found["notes"]] == [n.split(" at ")[0] for n in expected["notes"]]


def test_looking_aside_leaves_no_trace_in_two_processes(two: Path) -> None:
    said = [(two / f"looked.{rank}").read_text().split("\n") for rank in range(2)]
    assert said[0] == said[1] == [f"{name}: the same" for name in pairs.BACKENDS]


def test_what_many_processes_refuse(tmp_path: Path) -> None:
    codes = pairs.run(pairs.refused, tmp_path, folder=tmp_path)
    assert codes == [0, 0], pairs.said(tmp_path)
    one, other = ((tmp_path / f"refused.{rank}").read_text() for rank in range(2))
    assert one == other
    lines = one.splitlines()
    assert [line.split(":")[0] for line in lines] == ["graph", "small", "parts", "made", "alone", "unused"], (
        one
    )
    for line, words in zip(
        lines,
        ("Newton needs the graph of a whole batch", "one example for each of 2 processes", "and 3 parts",
         "sharding has made new parameters",
         "batch norm can't normalize one example by itself, as a batch of 2, shared out over 2 processes",
         "give DistributedDataParallel(unused=True)"),
        strict=True,
    ):  # fmt: skip
        assert words in line


def test_without_torchrun_nobody_waits_for_its_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_MEETING", 0.5)
    values = {
        "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(pairs.free_port()),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(OptionError, match="2 processes can't come together on cpu"),
        parallel.together("cpu"),
    ):
        pass
    assert not dist.is_initialized()
