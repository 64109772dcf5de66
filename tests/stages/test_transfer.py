"""A transfer takes the first blocks of a trained net, to the bit, and leaves the rest as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg
from stages.nets import Functional, ResNet, VisionTransformer, mlp
from stages.twins import batches, descend
from thalweg.errors import ModelError, OptionError
from thalweg.layers.modes import set_evaluation
from thalweg.stages import Prefixed, first_blocks, take_blocks, transfer
from thalweg.training.watch import SilentTrainingWatcher

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(30, 4, dtype=torch.float64, generator=GENERATOR)
Y = (X[:, 0] > 0).long()
IMAGES = torch.rand(6, 1, 8, 8, generator=GENERATOR)


class Bare(nn.Module):
    """Batch norms without weights have buffers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.norm_one, self.norm_two = nn.BatchNorm1d(5, affine=False), nn.BatchNorm1d(5, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm_two(self.two(self.norm_one(self.one(x)))))


def normed(outputs: int = 3, drop: float = 0.0) -> nn.Sequential:
    dropout = [nn.Dropout(drop)] if drop else []
    return nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(),
        *dropout, nn.Linear(6, outputs),
    )  # fmt: skip


def trained(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Buffers and parameters that no other net has."""
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn(p.shape, generator=GENERATOR)
        model.train()(inputs)
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(model.state_dict()))


# What is taken ------------------------------------------------------------------------------------------

CASES: list[tuple[Any, Any, Tensor, int, tuple[str, ...]]] = [
    (mlp(4, 6, 6, 9), mlp(4, 6, 6, 2), X.float(), 1, ("0.",)),
    (mlp(4, 6, 6, 9), mlp(4, 6, 6, 2), X.float(), 2, ("0.", "2.")),
    (normed(9), normed(), X.float(), 1, ("0.", "1.")),
    (normed(9), normed(), X.float(), 2, ("0.", "1.", "3.", "4.")),
    (ResNet(outputs=7), ResNet(), IMAGES, 2, ("conv1.", "bn1.", "layer1.")),
    (ResNet(outputs=7), ResNet(), IMAGES, 3, ("conv1.", "bn1.", "layer1.", "layer2.0.")),
    (
        VisionTransformer(outputs=7), VisionTransformer(), IMAGES, 2,
        ("patch_embed.", "cls_token", "pos_embed", "blocks.0.", "blocks.1."),
    ),
    (Functional((4, 6, 6, 9)), Functional((4, 6, 6, 2)), X.float(), 1, ("layers.0.",)),
]  # fmt: skip


@pytest.mark.parametrize(("source", "model", "inputs", "blocks", "names"), CASES)
@pytest.mark.parametrize("given", ["module", "state", "file"])
def test_the_first_blocks_are_taken_and_nothing_else(
    source: nn.Module, model: nn.Module, inputs: Tensor, blocks: int, names: tuple[str, ...], given: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    source, model = trained(copy.deepcopy(source), inputs), copy.deepcopy(model)
    place: Any = source
    if given == "state":
        place = source.state_dict()
    elif given == "file":
        place = tmp_path / "saved.safetensors"
        safetensors.torch.save_file(source.state_dict(), place)
    before, theirs = state(model), state(source)
    said = take_blocks(model, place, inputs, blocks=blocks)
    for name, value in model.state_dict().items():
        wanted = theirs if name.startswith(names) else before
        assert torch.equal(value, wanted[name]), name
        parts = said.taken if name.startswith(names) else said.new
        assert any(name == part or name.startswith(f"{part}.") for part in parts)
    assert set(said.left) == {name for name in theirs if not name.startswith(names)}
    assert said.blocks == blocks
    assert all(torch.equal(value, theirs[name]) for name, value in source.state_dict().items())


def test_buffers_without_weights_go_with_their_block() -> None:
    in_line = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 5), nn.BatchNorm1d(5, affine=False),
        nn.Linear(5, 2),
    )  # fmt: skip
    for made, first, second in ((in_line, "1", "3"), (Bare(), "norm_one", "norm_two")):
        source, model = trained(copy.deepcopy(made), X.float()), copy.deepcopy(made)
        take_blocks(model, source, X.float(), blocks=1)
        assert torch.equal(model.get_submodule(first).running_mean, source.get_submodule(first).running_mean)
        assert not model.get_submodule(second).running_mean.any()


def test_what_needs_no_gradient_is_taken_too() -> None:
    source, model = trained(normed(), X.float()), normed()
    model[0].requires_grad_(False)
    take_blocks(model, source, X.float(), blocks=1)
    assert torch.equal(model[0].weight, source[0].weight)
    assert [p.requires_grad for p in model[0].parameters()] == [False, False]
    assert model[3].weight.requires_grad


def test_all_blocks_are_taken_where_none_is_said() -> None:
    source, model = trained(mlp(4, 6, 6, 9), X.float()), mlp(4, 6, 6, 2)
    said = take_blocks(model, source, X.float())
    assert (said.blocks, said.of, said.new) == (2, 2, ("4",))


def test_names_may_begin_otherwise() -> None:
    source, model = trained(mlp(4, 6, 9), X.float()), mlp(4, 6, 2)
    wrapped = {f"module.backbone.{name}": value for name, value in source.state_dict().items()}
    take_blocks(model, wrapped, X.float(), rename={"backbone.": ""})
    assert torch.equal(model[0].weight, source[0].weight)
    compiled = torch.compile(mlp(4, 6, 2), backend="eager")
    take_blocks(compiled, source, X.float())
    assert torch.equal(compiled._orig_mod[0].weight, source[0].weight)


def test_older_batch_norms_have_counted_nothing() -> None:
    source, model = trained(normed(9), X.float()), normed()
    old = {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    take_blocks(model, old, X.float())
    assert torch.equal(model[1].running_mean, source[1].running_mean)
    assert model[1].num_batches_tracked == 0


def broken(name: str, value: Tensor) -> dict[str, Tensor]:
    return {**mlp(4, 6, 6, 2).state_dict(), name: value}


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        (mlp(4, 6, 6, 9), {"blocks": 3}, "blocks is 3, but the model has 2 before its head (0, 2); give a"),
        (mlp(4, 6, 6, 9), {"blocks": 0}, "blocks is 0, but must be a whole number of at least 1"),
        (mlp(4, 7, 6, 9), {}, "'0.weight' is [7, 4] in the source and [6, 4] in the model; give a model"),
        (
            mlp(4, 6, 7, 9), {},
            "'2.weight' is [7, 6] in the source and [6, 6] in the model; take 1 of the blocks",
        ),
        (
            {f"layer{name}": value for name, value in mlp(4, 6, 6, 9).state_dict().items()}, {},
            "'0.weight' of the first 2 blocks isn't in the source; did you mean 'layer0.weight'",
        ),
        ({"a": torch.ones(1)}, {"blocks": 1}, "'0.weight' of the first block isn't in the source; it has a"),
        (broken("2.bias", torch.full((6,), torch.inf)), {}, "'2.bias' of the source holds numbers"),
        (broken("2.bias", torch.ones(6, dtype=torch.int64)), {}, "'2.bias' is torch.int64 in the source"),
        ({}, {}, "the source of saved weights is dict; give the directory of a finished training"),
        (3, {}, "the source of saved weights is int; give the directory"),
        ("nowhere.safetensors", {}, "there is no file 'nowhere.safetensors' with saved weights"),
    ],
)  # fmt: skip
def test_what_doesnt_fit_is_one_sentence_and_nothing_is_changed(
    source: Any, options: dict[str, Any], said: str
) -> None:
    model = mlp(4, 6, 6, 2)
    before = state(model)
    with pytest.raises((ModelError, OptionError)) as found:
        take_blocks(model, source, X.float(), **options)
    assert str(found.value).startswith(said)
    with pytest.raises((ModelError, OptionError)):
        transfer(model, source, X.float(), **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_folder_without_weights_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"there is no weights.safetensors in '.*'; give the directory of a"
    ):
        take_blocks(mlp(4, 6, 2), tmp_path, X.float())
    (tmp_path / "member-1.safetensors").touch()
    with pytest.raises(OptionError, match=r"holds an ensemble; give the weights of one of its members"):
        take_blocks(mlp(4, 6, 2), tmp_path, X.float())


# The stages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({}, [("transfer", None)]),
        ({"tune": 0}, [("transfer", ("7",))]),
        ({"blocks": 1, "tune": 0}, [("transfer", ("3", "4", "7"))]),
        ({"tune": 1}, [("transfer", ("3", "4", "7"))]),
        ({"tune": 1, "head_epochs": 2}, [("transfer head", ("7",)), ("transfer", ("3", "4", "7"))]),
        ({"blocks": 1, "head_epochs": 2}, [("transfer head", ("3", "4", "7")), ("transfer", None)]),
    ],
)
def test_what_is_trained(options: dict[str, Any], stages: list[tuple[str, Any]]) -> None:
    found = transfer(normed(drop=0.5), normed(9, drop=0.5), X.float(), epochs=3, **options)
    assert [(stage.name, stage.trains) for stage in found] == stages
    assert [stage.epochs for stage in found] == [2, 3][-len(found) :]
    assert [stage.begin is None for stage in found] == [False, True][: len(found)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tune": 3}, "tune is 3, but 2 blocks are taken; give a number from 0 to 2"),
        ({"tune": 2, "blocks": 1}, "tune is 2, but 1 block is taken; give a number from 0 to 1"),
        ({"tune": -1}, "tune is -1, but must be a whole number of at least 0"),
        ({"tune": 0, "head_epochs": 2}, "head_epochs is 2 though tune is 0"),
        ({"head_epochs": 0}, "head_epochs is 0, but must be"),
        ({"depth_factor": 1.5}, "depth_factor is 1.5, but must be above 0 and at most 1"),
        ({"depth_factor": "half"}, "depth_factor is 'half', but must be above 0 and at most 1"),
    ],
)
def test_what_a_transfer_refuses(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as found:
        transfer(mlp(4, 6, 6, 2), mlp(4, 6, 6, 9), X.float(), **options)
    assert str(found.value).startswith(said)


def test_a_transfer_is_a_loop_in_plain_torch() -> None:
    source, model = trained(mlp(4, 6, 5, 9), X.float()).double(), mlp(4, 6, 5, 2).double()
    twin = copy.deepcopy(model)
    notes = []

    class Watcher(SilentTrainingWatcher):
        def note(self, text: str) -> None:
            notes.append(text)

    stages = transfer(model, source, X, tune=1, head_epochs=1, epochs=2, depth_factor=0.5)
    thalweg.fit(
        model, (X, Y), "cross-entropy", "sgd", hyperparameters={"lr": 0.1}, batch_size=10, stages=stages,
        watcher=Watcher(),
    )  # fmt: skip
    with torch.no_grad():
        for name in ("0", "2"):
            twin.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())
    for at in batches(30, "transfer head", 3, 10):
        descend(list(twin[4].parameters()), lambda at=at: F.cross_entropy(twin(X[at]), Y[at]), 0.1)
    for at in batches(30, "transfer", 6, 10):
        slopes = torch.autograd.grad(
            F.cross_entropy(twin(X[at]), Y[at]), [*twin[2].parameters(), *twin[4].parameters()]
        )
        with torch.no_grad():
            for p, slope, rate in zip(
                [*twin[2].parameters(), *twin[4].parameters()], slopes, [0.05, 0.05, 0.1, 0.1], strict=True
            ):
                p -= rate * slope
    for (name, mine), wanted in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.allclose(mine, wanted, rtol=1e-11, atol=1e-12), name
    assert torch.equal(model[0].weight, source[0].weight)
    assert any("from the Sequential that was given: 2 of 2 blocks (0, 2); new: 4" in note for note in notes)


def test_the_source_is_taken_as_it_was_when_stages_were_written() -> None:
    source, model = trained(mlp(4, 6, 9), X.float()), mlp(4, 6, 2)
    wanted = source[0].weight.detach().clone()
    stages = transfer(model, source, X.float(), tune=0, epochs=1)
    with torch.no_grad():
        source[0].weight.zero_()
    thalweg.fit(
        model,
        (X.float(), Y),
        "cross-entropy",
        "sgd",
        hyperparameters={"lr": 0.1},
        batch_size=10,
        stages=stages,
    )
    assert torch.equal(model[0].weight, wanted)


def test_dropout_before_the_head_is_for_the_head() -> None:
    """As in a model that is frozen part by part; a prefix that is computed once has none of it."""
    model = normed(drop=0.5)
    stage = transfer(model, normed(9, drop=0.5), X.float(), tune=0)[0]
    assert stage.build is not None
    built = stage.build(model)
    assert isinstance(built, Prefixed)
    assert [type(each).__name__ for each in built.rest] == ["Dropout", "Linear"]
    assert built.prefix[0] is model[0]
    assert built.rest[1] is model[7]
    set_evaluation(model)
    assert torch.equal(set_evaluation(built)(X.float()), model(X.float()))


@pytest.mark.parametrize(
    ("model", "inputs"), [(ResNet(), IMAGES), (VisionTransformer(), IMAGES), (Functional(), X.float())]
)
@pytest.mark.parametrize("tune", [0, 1])
def test_what_is_built_computes_what_the_model_does(model: nn.Module, inputs: Tensor, tune: int) -> None:
    model = set_evaluation(copy.deepcopy(model))
    stage = transfer(model, copy.deepcopy(model), inputs, tune=tune)[0]
    assert stage.build is not None
    built = set_evaluation(stage.build(model))
    assert torch.allclose(built(inputs), model(inputs), atol=1e-6)


def test_another_source_is_another_training(tmp_path: Path) -> None:
    one, other = (trained(mlp(4, 6, 9), X.float()) for _ in range(2))
    model = mlp(4, 6, 2)

    def carry_out(source: nn.Module, **options: Any) -> Any:
        return thalweg.fit(
            model, (X.float(), Y), "cross-entropy", "sgd", hyperparameters={"lr": 0.1}, batch_size=10,
            out=tmp_path / "run",
            stages=transfer(model, source, X.float(), epochs=1), **options,
        )  # fmt: skip

    carry_out(one)
    carry_out(copy.deepcopy(one), resume=True)
    with pytest.raises(OptionError, match="about"):
        carry_out(other, resume=True)


# The first blocks alone ---------------------------------------------------------------------------------


def test_a_linear_head_on_the_first_blocks() -> None:
    model = ResNet()
    features: list[Tensor] = []
    handle = model.layer1[1].register_forward_pre_hook(lambda module, args: features.append(args[0].clone()))
    set_evaluation(model)(IMAGES)
    handle.remove()
    cut = set_evaluation(first_blocks(model, IMAGES, 1, 5))
    linear = cut.head[1]
    assert torch.allclose(cut(IMAGES), linear(features[0].mean((-2, -1))), atol=1e-6)
    assert set(cut.state_dict()) == {
        *(name for name in model.state_dict() if name.startswith(("conv1.", "bn1.", "layer1.0."))),
        "head.1.weight", "head.1.bias",
    }  # fmt: skip
    # names stay, so that it can be filled from the whole net
    source = trained(ResNet(outputs=9), IMAGES)
    take_blocks(cut, source, IMAGES)
    mine = cut.get_submodule("layer1.0.bn1").running_mean
    assert torch.equal(mine, source.layer1[0].bn1.running_mean)
    assert len(model.layer2) == 2


def test_a_transformer_is_cut_by_handing_on() -> None:
    model = set_evaluation(VisionTransformer())
    cut = set_evaluation(first_blocks(model, IMAGES, 1, 3))
    shorter = set_evaluation(VisionTransformer(depth=1))
    shorter.load_state_dict(cut.state_dict())
    assert torch.equal(cut(IMAGES), shorter(IMAGES))
    assert len(list(model.blocks.parameters())) > len(list(cut.blocks.parameters()))


def test_what_cant_be_cut_is_one_sentence() -> None:
    with pytest.raises(ModelError, match=r"Functional can't be cut behind its block 'layers.0'"):
        first_blocks(Functional((4, 6, 5, 3)), X.float(), 1, 3)
    with pytest.raises(OptionError, match="blocks is 4, but the model has 2"):
        first_blocks(mlp(4, 6, 5, 3), X.float(), 4, 3)
