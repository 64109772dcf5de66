"""Sharded tensors on two processes: averages, clipping, rates and starting points."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as processes

import sharded


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    processes.spawn(sharded.work, args=(2, str(tmp_path / "meeting")), nprocs=2)
