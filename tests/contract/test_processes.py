"""Two processes against one: sharded parameters, and data in parallel."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from contract.processes import Found, split_up, spread_out, two_processes
from contract.subjects import Subject, close, every_row, promised, trees_equal
from thalweg.errors import OptionError

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    return two_processes(tmp_path_factory.mktemp("processes"))


@every_row
def test_sharded_parameters_take_the_steps_of_whole_ones(
    subject: Subject, found: tuple[Found, Found]
) -> None:
    ours, theirs = (each["spread out"][subject.name] for each in found)
    with promised(subject, "sharded"):
        if isinstance(ours, str):
            raise OptionError(ours)
        assert trees_equal(ours, theirs)
        alone = spread_out(subject, torch.clone)
        if subject.needs == "gradient":
            assert trees_equal(ours, alone)
        else:
            # inner products are summed in another order
            close(ours, alone, 1e-8)


@every_row
def test_a_batch_split_over_processes_is_the_whole_batch(
    subject: Subject, found: tuple[Found, Found]
) -> None:
    ours, theirs = (each["split up"][subject.name] for each in found)
    assert not isinstance(ours, str), ours
    assert trees_equal(ours, theirs)
    # gradients are summed in another order
    close(ours, split_up(subject, 0, 1), 1e-7)
