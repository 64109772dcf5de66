"""What a stage may be given, and what a list of them."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from thalweg.errors import OptionError
from thalweg.stages import GIVEN, Stage, frozen
from thalweg.stages.stage import check_stages


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": ""}, "the name of a stage is ''; give up to 60 letters"),
        ({"name": "a/b"}, "the name of a stage is 'a/b'"),
        ({"name": "../up"}, "the name of a stage is '../up'"),
        ({"name": "ends."}, "the name of a stage is 'ends.'"),
        ({"name": 3}, "the name of a stage is 3"),
        ({"name": "a", "epochs": 0}, "epochs of the stage 'a' is 0"),
        ({"name": "a", "epochs": 1, "steps": 2}, "epochs and steps of the stage 'a' are both given"),
        ({"name": "a", "steps": 1.5}, "steps of the stage 'a' is 1.5"),
        ({"name": "a", "batch_size": 0}, "batch_size of the stage 'a' is 0"),
        ({"name": "a", "seed": -1}, "seed of the stage 'a' is -1"),
        ({"name": "a", "result": "first"}, "result of the stage 'a' is 'first'"),
        (
            {"name": "a", "trains": "head"},
            "trains of the stage 'a' is 'head'; give a list of patterns, ['head']",
        ),
    ],
)
def test_what_a_stage_refuses(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as found:
        Stage(**given)
    assert str(found.value).startswith(said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "stages is empty"),
        (Stage(name="a"), "stages is one stage, 'a'; give a list"),
        (3, "stages is of type int"),
        ([Stage(name="a"), 3], "stage 2 is of type int"),
        ([[Stage(name="a")]], "stage 1 is a list of stages; join lists by +"),
        ([Stage(name="a"), Stage(name="A")], "two stages are called 'A'"),
        ([Stage(name="a", carries=True)], "the stage 'a' carries the state of an optimizer, but no stage"),
    ],
)
def test_what_a_list_refuses(given: Any, said: str) -> None:
    with pytest.raises(OptionError) as found:
        check_stages(given)
    assert str(found.value).startswith(said)


def test_what_isnt_said_is_left_to_the_training() -> None:
    stage = Stage(name="a")
    assert stage.loss is stage.optimizer is stage.strategies is stage.batch_size is GIVEN
    assert Stage(name="a", metric=None).metric is None


# Freezing ---------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)


def net() -> nn.Sequential:
    return nn.Sequential(
        Block(), nn.BatchNorm1d(4, affine=False), nn.Dropout(0.5), Block(), nn.Dropout(0.5), nn.Linear(4, 2)
    )


def modes(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


@pytest.mark.parametrize(
    ("trains", "evaluates"),
    [
        # a measuring part goes with what it measures, dropout with what it gives to
        (["5"], {"0", "1", "2", "3"}),
        (["3", "5"], {"0", "1"}),
        (["0"], {"2", "3", "4", "5"}),
        (["3.linear"], {"0", "1", "3.norm", "3.drop", "4", "5"}),
        (["*.bias"], set()),
        (None, set()),
    ],
)
def test_what_is_frozen_evaluates(trains: list[str] | None, evaluates: set[str]) -> None:
    model = net()
    with frozen(model, trains=trains) as names:
        assert names == [name for name, p in model.named_parameters() if p.requires_grad]
        inside = {
            name
            for name, part in model.named_modules()
            if any(name == each or name.startswith(f"{each}.") for each in evaluates)
        }
        assert {name for name, part in model.named_modules() if not part.training} == inside
    assert all(modes(model))
    assert all(p.requires_grad for p in model.parameters())


def test_everything_is_given_back_also_after_an_error() -> None:
    model = net()
    model[0].norm.eval()
    model[5].weight.requires_grad_(False)
    before = modes(model), [p.requires_grad for p in model.parameters()]

    def fails() -> None:
        with frozen(model, trains=["5", "0"]):
            assert model[5].weight.requires_grad
            # what a person has put into evaluation mode stays so
            assert not model[0].norm.training
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert (modes(model), [p.requires_grad for p in model.parameters()]) == before


def test_a_model_in_evaluation_mode_is_trained_but_for_what_is_frozen() -> None:
    model = net().eval()
    for trains, still in ((["5"], 0), (["0"], 5)):
        with frozen(model, trains=trains):
            assert model.training
            assert not model[still].training
            assert model[5 - still].training
    assert not any(modes(model))


def test_parts_of_a_stage_alone_are_left_as_they_are() -> None:
    model = net()
    teacher = nn.Linear(4, 2).requires_grad_(False)
    module = nn.ModuleDict({"body": model[0], "head": nn.Linear(4, 2), "teacher": teacher})
    with frozen(module, trains=[], of=model) as names:
        assert names == ["head.weight", "head.bias"]
        assert [each.training for each in (module["body"], module["head"], teacher)] == [False, True, False]
    assert model[0].linear.weight.requires_grad
    assert not teacher.weight.requires_grad


@pytest.mark.parametrize(
    ("trains", "said"),
    [
        (["hed"], "'hed' of trains matches no parameter or part of the model; did you mean 'head'?"),
        (["act"], "nothing would be trained; let trains name parameters that are, such as body.weight"),
        ([], "nothing would be trained"),
    ],
)
def test_what_freezing_refuses(trains: list[str], said: str) -> None:
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "act": nn.ReLU(), "head": nn.Linear(2, 2)})
    with pytest.raises(OptionError) as found, frozen(model, trains=trains):
        pass
    assert str(found.value).startswith(said)
    assert all(p.requires_grad for p in model.parameters())
