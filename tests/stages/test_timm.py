"""timm's own nets with weights on disk: greedy, hints, transfer. Skipped where timm isn't installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import thalweg
from thalweg.stages import Stage, auxiliary_heads, greedy, hints, probe_blocks, take_blocks, transfer
from thalweg.stages.blocks import find_blocks

with warnings.catch_warnings():
    # which is timm's own affair
    warnings.simplefilter("ignore")
    timm = pytest.importorskip("timm", exc_type=ImportError)

# name, settings, size of images, blocks, head
NETS: list[tuple[str, dict[str, Any], int, int, str]] = [
    ("resnet10t", {}, 32, 4, "fc"),
    ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 3}, 32, 3, "head"),
    ("convnext_atto", {}, 64, 4, "head.fc"),
    ("mobilenetv3_small_050", {}, 32, 11, "classifier"),
]
Y = torch.arange(8) % 3


@pytest.fixture(params=NETS, ids=[each[0] for each in NETS])
def net(request: pytest.FixtureRequest) -> tuple[Any, ...]:
    torch.manual_seed(0)
    name, settings, size, blocks, head = request.param

    def made(classes: int = 3) -> nn.Module:
        found: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **settings)
        return found

    return made, torch.randn(8, 3, size, size), blocks, head


def fit(model: nn.Module, x: Tensor, stages: list[Stage]) -> None:
    fitted = thalweg.fit(
        model,
        (x, Y),
        "cross-entropy",
        "sgd",
        hyperparameters={"lr": 0.01},
        stages=stages,
        steps=1,
        batch_size=4,
    )
    assert not fitted.failed
    assert len(fitted.stages) == len(stages)


def test_blocks_and_the_last_layer_as_the_head(net: tuple[Any, ...]) -> None:
    made, x, blocks, head = net
    chain = find_blocks(made(), x[:2])
    assert (len(chain.blocks), chain.head.name) == (blocks, head)


def test_from_weights_on_disk(net: tuple[Any, ...], tmp_path: Path) -> None:
    made, x, blocks, head = net
    source = made(7)
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    torch.save(source.state_dict(), tmp_path / "net.pth")
    for file in ("net.safetensors", "net.pth"):
        model = made()
        said = take_blocks(model, tmp_path / file, x[:2])
        assert said.blocks == blocks
        theirs = source.state_dict()
        for name, value in model.state_dict().items():
            assert torch.equal(value, theirs[name]) != name.startswith(f"{head}."), name
    model = made()
    fit(model, x, transfer(model, tmp_path / "net.safetensors", x[:2], tune=0))
    # what is frozen, buffers included, is the source's to the bit
    kept = [name for name in theirs if not name.startswith(f"{head}.")]
    assert all(torch.equal(model.state_dict()[name], theirs[name]) for name in kept)
    model = made()
    fit(model, x, transfer(model, tmp_path / "net.safetensors", x[:2], tune=1, head_epochs=1))
    assert len(probe_blocks(model, (x, Y), (x, Y)).probes) == blocks


@pytest.mark.parametrize("way", ["greedy", "hints", "auxiliary"])
def test_ways_leave_the_plain_net(way: str, net: tuple[Any, ...]) -> None:
    made, x, blocks, _ = net
    if way == "greedy" and blocks > 4:
        pytest.skip("a stage for each of many blocks takes long")
    model = made()
    middle = find_blocks(model, x[:2]).blocks[blocks // 2].name
    stages = {
        "greedy": lambda: greedy(model, x[:2], steps=1),
        "hints": lambda: hints(
            model, made(), x[:2], hint=middle, guided=middle, loss="cross-entropy", softened=1.0
        ),
        "auxiliary": lambda: auxiliary_heads(model, x[:2], {middle: 0.3}, loss="cross-entropy"),
    }[way]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, x, stages)
    made().load_state_dict(model.state_dict())
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
