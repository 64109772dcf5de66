"""Two processes against one: sharded parameters, and data in parallel."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from contract.processes import (
    WAYS,
    Found,
    each_alone,
    in_a_plain_loop,
    split_up,
    spread_out,
    through_ddp,
    two_processes,
)
from contract.subjects import CATALOGUE, Subject, close, every_row, promised, trees_equal
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
        if subject.step_kind == "gradient":
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


def of(*step_kind: str) -> pytest.MarkDecorator:
    found = [subject for subject in CATALOGUE if subject.step_kind in step_kind]
    return pytest.mark.parametrize("subject", found, ids=[subject.name for subject in found])


@of("closure")
def test_a_closure_that_averages_gradients_alone_goes_the_way_of_the_whole_batch(
    subject: Subject, found: tuple[Found, Found]
) -> None:
    ways = [way for way in WAYS if subject.name in found[0][way]]
    assert ways == list(WAYS[: len(ways)])
    for way in ways:
        ours, theirs = (each[way][subject.name] for each in found)
        assert not isinstance(ours, str), ours
        assert trees_equal(ours, theirs)
        close(ours, in_a_plain_loop(subject, 0, 1, f"{way} alone"), 1e-7)


@of("graph", "outputs")
def test_whoever_differentiates_the_loss_needs_the_whole_batch(
    subject: Subject, found: tuple[Found, Found]
) -> None:
    ours, theirs = (each["whole"][subject.name] for each in found)
    assert trees_equal(ours, theirs)
    assert trees_equal(ours, through_ddp(subject, 0, 1, "whole"))
    for each in found:
        said = each["shares"][subject.name]
        assert isinstance(said, str)
        assert "the closures of the processes return different losses" in said
        assert "(net.module)" in said
        assert ". " not in said.replace("(net.module)", "")


@every_row
def test_processes_that_train_apart_do_not_wait(subject: Subject, found: tuple[Found, Found]) -> None:
    for rank, each in enumerate(found):
        assert trees_equal(each["each alone"][subject.name], each_alone(subject, rank))
