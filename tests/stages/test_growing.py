"""A trained net's first and last layers start a deeper one; the new middle may compute what there was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from stages.nets import Functional, ResNet, VisionTransformer, mlp
from thalweg.errors import ModelError, OptionError
from thalweg.stages import Grown, Stage, grow

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(30, 4, dtype=torch.float64, generator=GENERATOR)
Y = (X[:, 0] > 0).long()
IMAGES = torch.rand(6, 1, 8, 8, generator=GENERATOR)


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def check(grown: Grown, shallow: nn.Module, deep: nn.Module, before: dict[str, Tensor]) -> None:
    """What is said is what was done, to the bit."""
    theirs, after = shallow.state_dict(), deep.state_dict()
    for name, value in after.items():
        part = next((each for each in grown.taken if name == each or name.startswith(f"{each}.")), None)
        if part is None:
            assert torch.equal(value, before[name])
            assert any(name == each or name.startswith(f"{each}.") for each in grown.new)
        else:
            assert torch.equal(value, theirs[grown.taken[part] + name[len(part) :]])


def convolutional(middle: int, norms: bool = True) -> nn.Sequential:
    def layers(inputs: int, outputs: int) -> list[nn.Module]:
        norm: list[nn.Module] = [nn.BatchNorm2d(outputs)] if norms else []
        return [nn.Conv2d(inputs, outputs, 3, 1, 1), *norm, nn.ReLU(True)]

    new = [layer for _ in range(middle) for layer in layers(4, 4)]
    return nn.Sequential(*layers(1, 4), *layers(4, 4), *new, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3))


# What is taken ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shallow", "deep", "taken", "new"),
    [
        (mlp(4, 6, 6, 2), mlp(4, 6, 6, 6, 6, 2), {"0": "0", "2": "2", "8": "4"}, ("4", "6")),
        (mlp(4, 6, 5, 2), mlp(4, 6, 7, 5, 2), {"0": "0", "6": "4"}, ("2", "4")),
        (
            ResNet((1, 1)), ResNet((2, 3)),
            {name: name for name in ("conv1", "bn1", "layer1.0", "fc")},
            ("layer2", "layer1.1"),
        ),
        (
            VisionTransformer(2), VisionTransformer(4),
            {
                **{name: name for name in ("patch_embed", "blocks.0", "blocks.1", "norm", "head")},
                "cls_token": "cls_token", "pos_embed": "pos_embed",
            },
            ("blocks.2", "blocks.3"),
        ),
    ],
)  # fmt: skip
def test_first_and_last_layers_are_taken(
    shallow: nn.Module, deep: nn.Module, taken: dict[str, str], new: tuple[str, ...]
) -> None:
    before = state(deep)
    grown = grow(shallow, deep)
    assert grown.taken == taken
    assert set(grown.new) == set(new)
    check(grown, shallow, deep, before)


def test_a_mapping_says_what_is_taken() -> None:
    shallow, deep = mlp(4, 6, 6, 2), mlp(4, 6, 6, 6, 2)
    before = state(deep)
    grown = grow(shallow, deep, {"2": "2", "4": "2", "6.bias": "4.bias"})
    assert grown.taken == {"2": "2", "4": "2", "6.bias": "4.bias"}
    assert (
        repr(grown)
        == "Grown(taken: 2, 4 from 2, 6.bias from 4.bias; new: 0, 6.weight; left behind: 0, 4.weight)"
    )
    check(grown, shallow, deep, before)
    by_name = grow(shallow, mlp(4, 6, 6, 6, 2), lambda name: name if name.startswith("0.") else None)
    assert by_name.taken == {"0": "0"}


def test_buffers_go_with_their_layer() -> None:
    shallow, deep = convolutional(0), convolutional(1)
    shallow(IMAGES)
    grown = grow(shallow, deep)
    assert torch.equal(deep[1].running_mean, shallow[1].running_mean)
    assert deep[1].num_batches_tracked == 1
    assert grown.taken["10"] == "8" if "10" in grown.taken else grown.taken["11"] == "8"


# The same function --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shallow", "deep", "inputs"),
    [
        (mlp(4, 6, 6, 2).double(), mlp(4, 6, 6, 6, 6, 2).double(), X),
        (mlp(4, 6, 2, activation=nn.ReLU6).double(), mlp(4, 6, 6, 2, activation=nn.ReLU6).double(), X),
        (convolutional(0, False).double(), convolutional(2, False).double(), IMAGES.double()),
        (convolutional(0).double(), convolutional(2).double(), IMAGES.double()),
    ],
)
@pytest.mark.parametrize("seen", [False, True])
def test_the_deeper_net_computes_what_the_shallower_did(
    shallow: nn.Module, deep: nn.Module, inputs: Tensor, seen: bool
) -> None:
    shallow, deep = copy.deepcopy(shallow), copy.deepcopy(deep)
    shallow(inputs)
    shallow.eval()
    grown = grow(shallow, deep, middle="same function", example=inputs if seen else None)
    assert grown.same
    assert "computes the same" in repr(grown)
    deep.eval()
    torch.testing.assert_close(deep(inputs), shallow(inputs), rtol=1e-13, atol=1e-13)
    # on anything else too, and so that it can be trained
    others = torch.randn(inputs.shape, dtype=inputs.dtype, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(deep(others), shallow(others), rtol=1e-13, atol=1e-13)


def test_batch_norms_do_nearly_nothing_in_training_too_where_they_have_seen_data() -> None:
    torch.manual_seed(0)
    shallow, deep = convolutional(0).double(), convolutional(1).double()
    for _ in range(3):
        shallow(IMAGES.double())
    shallow.eval()
    grow(shallow, deep, middle="same function", example=IMAGES.double())
    deep.eval()
    for part in (deep[6], deep[7]):
        part.train()
    torch.testing.assert_close(deep(IMAGES.double()), shallow(IMAGES.double()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("shallow", "deep", "example", "said"),
    [
        (
            mlp(4, 6, 2, activation=nn.Sigmoid), mlp(4, 6, 6, 2, activation=nn.Sigmoid),
            None, "'2' comes after Sigmoid",
        ),
        (
            mlp(4, 6, 2, activation=nn.LeakyReLU), mlp(4, 6, 6, 2, activation=nn.LeakyReLU),
            X.float(), "only ReLU and the like",
        ),
        (mlp(6, 2), mlp(6, 6, 2), None, "is given what comes from no activation and is followed by ReLU"),
        (mlp(4, 6, 2), mlp(4, 6, 7, 6, 2), None, r"'2' \(Linear\) gives 7 numbers for 6"),
        (mlp(4, 6, 5, 2), mlp(4, 6, 6, 2), None, r"2.weight, 2.bias, .* of the shallower net isn't taken"),
        (ResNet((1, 1)), ResNet((1, 2)), None, "give example"),
        (Functional((4, 6, 2)), Functional((4, 6, 6, 2)), X.float(), "doesn't compute the same"),
        (
            nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),
            nn.Sequential(*mlp(4, 6, 6, 2), nn.Sigmoid()),
            None, "alike but for the new layers",
        ),
        (
            nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 2)),
            nn.Sequential(
                nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)
            ),
            None, "is given what comes from no activation",
        ),
    ],
)  # fmt: skip
def test_where_it_cant_be_the_same_it_is_said_and_nothing_is_changed(
    shallow: nn.Module, deep: nn.Module, example: Any, said: str
) -> None:
    before = state(deep)
    with pytest.raises(ModelError, match=said):
        grow(shallow, deep, middle="same function", example=example)
    assert all(torch.equal(value, before[name]) for name, value in deep.state_dict().items())


def _drawn_norms(net: nn.Module) -> None:
    torch.manual_seed(3)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
            assert part.running_mean is not None
            part.running_mean.normal_()


class Transformer(nn.Module):
    def __init__(self, depth: int, norm_first: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
            for _ in range(depth)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        found: Tensor = self.head(x.mean(1))
        return found


@pytest.mark.parametrize(
    ("shallow", "deep", "example"),
    [
        (ResNet((1, 1)), ResNet((1, 2)), IMAGES),
        (ResNet((1, 1)), ResNet((1, 4)), IMAGES),
        (Transformer(2), Transformer(4), torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))),
    ],
    ids=["a block", "blocks", "a transformer"],
)
def test_new_residual_blocks_hand_on_what_they_are_given(
    shallow: nn.Module, deep: nn.Module, example: Tensor
) -> None:
    _drawn_norms(shallow)
    _drawn_norms(deep)
    before = state(deep)
    found = grow(shallow, deep, middle="same function", example=example)
    shallow.eval()
    deep.eval()
    other = example.flip(0) + 0.3
    torch.testing.assert_close(deep(other), shallow(other), rtol=1e-5, atol=1e-5)
    # only the last layers of branches are zero, so that the block can learn
    new = [
        name for name, _ in deep.named_parameters() if any(name.startswith(f"{part}.") for part in found.new)
    ]
    changed = [name for name in new if not torch.equal(deep.get_parameter(name), before[name])]
    assert changed
    assert not any(bool(deep.get_parameter(name).any()) for name in changed)
    assert len(changed) < len(new) / 2
    deep(example).square().sum().backward()
    for name in changed:
        gradient = deep.get_parameter(name).grad
        assert gradient is not None
        assert bool(gradient.any())


def test_a_block_without_a_skip_is_said_to_have_no_way() -> None:
    """Of a transformer that normalizes after its sums nothing hands on what it is given."""
    shallow, deep = Transformer(2, norm_first=False), Transformer(3, norm_first=False)
    before = state(deep)
    example = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ModelError):
        grow(shallow, deep, middle="same function", example=example)
    assert all(torch.equal(value, before[name]) for name, value in deep.state_dict().items())


def test_functions_between_layers_are_seen_by_the_example() -> None:
    class Net(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 6), *(nn.Linear(6, 6) for _ in range(depth))])
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x).relu()
            return self.head(x)

    shallow, deep = Net(1).double(), Net(3).double()
    grow(shallow, deep, middle="same function", example=X)
    assert torch.equal(shallow(X), deep(X))


# As the beginning of a stage ----------------------------------------------------------------------------


def test_a_stage_begins_with_it_and_trains_as_by_hand() -> None:
    torch.manual_seed(0)
    shallow, deep = mlp(4, 6, 2).double(), mlp(4, 6, 6, 2).double()
    twin = copy.deepcopy(deep)
    stage = Stage(name="deep", epochs=1, begin=lambda net: grow(shallow, net, middle="same function"))  # type: ignore[func-returns-value,arg-type,return-value]
    fitted = thalweg.fit(
        deep, (X, Y), "cross-entropy", "sgd", hyperparameters={"lr": 0.1}, batch_size=30, stages=[stage],
        validation=(X, Y),
    )  # fmt: skip
    grow(shallow, twin, middle="same function")
    loss = nn.functional.cross_entropy(shallow(X), Y)
    assert abs((fitted.curve[0].validation_loss or 0.0) - float(loss.detach())) < 1e-12
    slopes = torch.autograd.grad(nn.functional.cross_entropy(twin(X), Y), list(twin.parameters()))
    for one, two, slope in zip(deep.parameters(), twin.parameters(), slopes, strict=True):
        torch.testing.assert_close(one, two - 0.1 * slope, rtol=1e-12, atol=1e-13)


# Bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "error", "said"),
    [
        ({"9": "2"}, OptionError, "mapping names '9', which isn't in the deeper net"),
        (
            {"2": "6"},
            OptionError,
            "'6', which isn't in the shallower net.*from names in the deeper net to names",
        ),
        (
            {"0": "2"},
            ModelError,
            r"'0.weight' of the deeper net is \[6, 4\], but '2.weight' of the shallower",
        ),
        ({}, ModelError, "nothing of the shallower net fits"),
        (lambda name: None, ModelError, "nothing of the shallower net fits"),
        ({"0": "0.weight"}, ModelError, "has no counterpart"),
    ],
)
def test_a_mapping_that_fits_nothing_gets_a_sentence(mapping: Any, error: type[Exception], said: str) -> None:
    deep = mlp(4, 6, 6, 6, 2)
    before = state(deep)
    with pytest.raises(error, match=said):
        grow(mlp(4, 6, 6, 2), deep, mapping)
    assert all(torch.equal(value, before[name]) for name, value in deep.state_dict().items())
    with pytest.raises(OptionError, match="middle is 'new', but must be as drawn or same function"):
        grow(mlp(4, 2), deep, middle="new")  # type: ignore[arg-type]
