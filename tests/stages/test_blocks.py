"""Chains of blocks: which are found, what belongs to each, and a model up to one of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call, stack_module_state, vmap

from stages.nets import BasicBlock, Functional, ResNet, VisionTransformer, mlp
from thalweg.errors import ModelError, OptionError
from thalweg.layers.modes import modes_of
from thalweg.stages.blocks import Chain, Upto, find_blocks, part_of_chain

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def summary(chain: Chain) -> list[tuple[str, tuple[str, ...] | None, tuple[int, ...]]]:
    return [(block.name, block.parts, block.outputs) for block in (*chain.blocks, chain.head)]


def trains(chain: Chain) -> list[tuple[str, ...]]:
    return [block.trains for block in (*chain.blocks, chain.head)]


# What is found ------------------------------------------------------------------------------------------


def test_a_sequential() -> None:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.PReLU(), nn.Linear(8, 8), nn.ReLU(True),
        nn.Dropout(0.2), nn.Linear(8, 3),
    )  # fmt: skip
    chain = find_blocks(net, IMAGES)
    assert summary(chain) == [
        ("1", ("0", "1", "2", "3"), (8,)), ("4", ("4", "5", "6"), (8,)), ("7", ("7",), (3,))
    ]  # fmt: skip
    assert trains(chain) == [("1", "2", "3"), ("4",), ("7",)]
    assert chain.blocks[0].inputs == (1, 8, 8)


def test_groups_that_somebody_has_made_are_blocks() -> None:
    def group(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1), nn.ReLU()
        )

    net = nn.Sequential(group(1, 4), group(4, 4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3))
    assert summary(find_blocks(net, IMAGES)) == [
        ("0", ("0",), (4, 8, 8)), ("1", ("1", "2", "3"), (64,)), ("4", ("4",), (3,))
    ]  # fmt: skip
    # of one group alone there is nothing else to cut than its layers
    features = nn.Sequential(
        group(1, 4), nn.Flatten(), nn.Sequential(nn.Linear(256, 8), nn.ReLU()), nn.Linear(8, 3)
    )
    assert [block.name for block in find_blocks(features, IMAGES).blocks] == ["0.0", "0.2", "2.0"]


def test_a_residual_network() -> None:
    chain = find_blocks(ResNet(), IMAGES)
    assert summary(chain) == [
        ("layer1.0", ("conv1", "bn1", "act1", "maxpool", "layer1.0"), (4, 4, 4)),
        ("layer1.1", ("layer1.1",), (4, 4, 4)),
        ("layer2.0", ("layer2.0",), (8, 2, 2)),
        ("layer2.1", ("layer2.1", "global_pool"), (8,)),
        ("fc", ("fc",), (3,)),
    ]
    assert trains(chain)[0] == ("conv1", "bn1", "layer1.0")
    assert trains(chain)[1:] == [("layer1.1",), ("layer2.0",), ("layer2.1",), ("fc",)]


def test_a_vision_transformer() -> None:
    chain = find_blocks(VisionTransformer(), IMAGES)
    assert summary(chain) == [
        ("blocks.0", None, (5, 6)), ("blocks.1", ("blocks.1",), (5, 6)), ("blocks.2", None, (6,)),
        ("head", ("head",), (3,)),
    ]  # fmt: skip
    assert trains(chain) == [
        ("patch_embed", "blocks.0", "cls_token", "pos_embed"), ("blocks.1",), ("blocks.2", "norm"), ("head",)
    ]  # fmt: skip


def test_layers_in_a_list_with_functions_between_them() -> None:
    chain = find_blocks(Functional(), ROWS)
    assert summary(chain) == [
        ("layers.0", None, (6,)),
        ("layers.1", None, (6,)),
        ("layers.2", ("layers.2",), (3,)),
    ]
    assert trains(chain) == [("layers.0",), ("layers.1",), ("layers.2",)]


def test_torchs_transformer() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x).mean(1))

    chain = find_blocks(Classifier(), torch.randn(2, 5, 4))
    assert [block.name for block in chain.blocks] == [f"encoder.layers.{number}" for number in range(3)]
    assert chain.head.name == "head"
    assert chain.blocks[0].outputs == (5, 4)


def test_what_happens_in_training_alone_lies_between_blocks_too() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.dropout(self.one(x), 0.5, self.training)
            return self.three(self.two(x))

    chain = find_blocks(Dropping(), ROWS)
    assert [block.parts for block in chain.blocks] == [None, ("two",)]


def test_what_is_done_in_place_between_blocks_is_seen() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            x += 1
            return self.three(self.two(x))

    assert [block.parts for block in find_blocks(Added(), ROWS).blocks] == [None, ("two",)]


def test_inside_of_a_skip_connection_there_is_no_cut() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), BasicBlock(4, 4), nn.Flatten(), nn.Linear(256, 3))
    assert [block.name for block in find_blocks(net, IMAGES).blocks] == ["0", "1.conv1"]


def test_what_is_frozen_already_goes_with_the_block_that_follows() -> None:
    net = mlp(4, 5, 5, 5, 2)
    net[2].requires_grad_(False)
    chain = find_blocks(net, ROWS)
    assert trains(chain) == [("0",), ("4",), ("6",)]
    assert [p.requires_grad for p in net[2].parameters()] == [False, False]


def test_named_blocks() -> None:
    chain = find_blocks(ResNet(), IMAGES, ["layer1", "layer2"])
    assert summary(chain) == [
        ("layer1", ("conv1", "bn1", "act1", "maxpool", "layer1"), (4, 4, 4)),
        ("layer2", ("layer2", "global_pool"), (8,)),
        ("fc", ("fc",), (3,)),
    ]
    assert [b.name for b in find_blocks(mlp(4, 5, 5, 5, 2), ROWS, ["0", "4"]).blocks] == ["0", "4"]


@pytest.mark.parametrize(
    ("net", "example", "blocks", "error", "said"),
    [
        (ResNet(), IMAGES, ["layer1", "layer3"], OptionError, "no part 'layer3'.*did you mean 'layer"),
        (
            ResNet(),
            IMAGES,
            ["layer2", "layer1"],
            OptionError,
            "names 'layer2' before 'layer1', but the model",
        ),
        (ResNet(), IMAGES, ["layer1", "layer1.1"], OptionError, "of which one holds the other"),
        (
            ResNet(),
            IMAGES,
            ["layer1.0.conv1", "layer1.0.conv2"],
            ModelError,
            "can't be cut before 'layer1.0.conv2'",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 2)),
            IMAGES,
            ["1"],
            ModelError,
            "nothing with parameters follows",
        ),
        (nn.Linear(4, 2), ROWS, None, ModelError, "no chain of blocks was found in Linear"),
        (nn.LSTM(4, 2), ROWS, None, ModelError, "no chain of blocks was found in LSTM"),
        (ResNet(), IMAGES, [], OptionError, "blocks is empty"),
        (ResNet(), ROWS, None, ModelError, "can't take inputs"),
    ],
)
def test_what_is_no_chain_gets_a_sentence(
    net: nn.Module, example: Tensor, blocks: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        find_blocks(net, example, blocks)


def test_a_block_that_is_called_twice_is_none() -> None:
    net = mlp(4, 4, 4, 2)
    shared = nn.Sequential(net[0], net[1], net[2], net[1], net[2], net[4])
    with pytest.raises(ModelError, match="'2' is called 2 times"):
        find_blocks(shared, ROWS, ["0", "2"])


def test_looking_leaves_no_trace() -> None:
    net = VisionTransformer()
    net.blocks[1].eval()
    net.head.requires_grad_(False)
    state, modes = copy.deepcopy(net.state_dict()), modes_of(net)
    generator = torch.get_rng_state()
    find_blocks(ResNet(), IMAGES)
    torch.set_rng_state(generator)
    find_blocks(net, IMAGES)
    assert torch.equal(torch.get_rng_state(), generator)
    assert modes_of(net) == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.head.parameters()] == [False, False]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


# Up to a block ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", [ResNet(), VisionTransformer(), Functional((64, 6, 6, 3))])
def test_the_first_blocks_give_what_the_next_is_given(net: nn.Module) -> None:
    inputs = IMAGES.flatten(1) if isinstance(net, Functional) else IMAGES
    chain = find_blocks(net, inputs)
    net.eval()
    for count, name in enumerate(chain.ends, 1):
        seen: list[Tensor] = []
        handle = net.get_submodule(name).register_forward_pre_hook(
            lambda m, args, s=seen: s.append(args[0].clone())
        )
        outputs = net(inputs)
        handle.remove()
        begun = chain.upto(net, count)
        z = begun(inputs)
        assert torch.equal(z, seen[0])
        assert tuple(z.shape[1:]) == chain.blocks[count - 1].outputs
        rest = [each.parts for each in (*chain.blocks, chain.head)][count:]
        if all(parts is not None for parts in rest):
            after = part_of_chain(net, [name for parts in rest for name in parts or ()])
            assert torch.equal(after(z.clone()), outputs)


def test_gradients_reach_only_what_is_before() -> None:
    net = VisionTransformer()
    Upto(net, "blocks.1")(IMAGES).sum().backward()
    reached = {
        name.split(".")[0] + name[6:8] * name.startswith("blocks")
        for name, p in net.named_parameters()
        if p.grad is not None
    }
    assert reached == {"patch_embed", "cls_token", "pos_embed", "blocks.0"}


def test_nothing_after_it_is_computed() -> None:
    net = mlp(4, 5, 5, 2)
    net[4].register_forward_pre_hook(lambda module, args: pytest.fail("it was called"))
    assert Upto(net, "2")(ROWS).shape == (5, 5)
    assert len(net[2]._forward_pre_hooks) == 0


def test_one_around_another_and_a_module_that_isnt_called() -> None:
    net = mlp(4, 5, 5, 2)
    assert torch.equal(Upto(nn.Sequential(Upto(net, "4"), nn.Linear(5, 2)), "1")(ROWS), Upto(net, "4")(ROWS))
    with pytest.raises(ModelError, match=r"hasn't called 'model\.4'"):
        Upto(Upto(net, "2"), "model.4")(ROWS)


def test_lanes_go_up_to_a_block() -> None:
    nets = [VisionTransformer().eval() for _ in range(3)]
    upto = Upto(nets[0], "blocks.2")
    parameters, _ = stack_module_state([Upto(net, "blocks.2") for net in nets])  # type: ignore[arg-type]
    found = vmap(lambda values: functional_call(upto, values, (IMAGES,)))(parameters)
    for number, net in enumerate(nets):
        torch.testing.assert_close(found[number], Upto(net, "blocks.2")(IMAGES))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_model_is_cut_as_it_was() -> None:
    torch.compiler.reset()
    net = mlp(4, 5, 5, 2)
    model: Any = torch.compile(copy.deepcopy(net), backend="eager")
    model(ROWS)
    chain = find_blocks(model, ROWS)
    assert summary(chain) == summary(find_blocks(net, ROWS))
    assert trains(chain) == trains(find_blocks(net, ROWS))
    assert torch.equal(Upto(model, "4")(ROWS), Upto(net, "4")(ROWS))
    torch.compiler.reset()


def test_sharded_part_by_part(one_process: None) -> None:
    net = mlp(4, 5, 5, 2)
    plain, sharded = Upto(copy.deepcopy(net), "2"), copy.deepcopy(Upto(net, "2"))
    mesh = init_device_mesh("cpu", (1,))
    for part in (sharded.model[0], sharded.model[4], sharded.model, sharded):
        fully_shard(part, mesh=mesh)
    for _ in range(2):
        for model in (plain, sharded):
            model(ROWS).square().sum().backward()
    one, other = sharded.model[0].weight.grad, plain.model[0].weight.grad
    torch.testing.assert_close(one.full_tensor(), other)
    assert sharded.model[4].weight.grad is None
