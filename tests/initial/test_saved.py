"""A start from a saved model: what fits is taken, what doesn't is said, nothing in a file runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.initial.saved import from_saved, read_tensors


def net(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, outputs))


@pytest.fixture(params=["safetensors", "torch", "nested", "wrapped"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = net(10)
    model(torch.randn(8, 4))
    state = model.state_dict()
    path = tmp_path / "weights.pt"
    if request.param == "safetensors":
        path = tmp_path / "weights.safetensors"
        safetensors.torch.save_file(state, path)
    elif request.param == "torch":
        torch.save(state, path)
    elif request.param == "nested":
        torch.save({"epoch": 3, "model": state, "optimizer": {"lr": 0.1}}, path)
    else:
        torch.save({f"module._orig_mod.{name}": value for name, value in state.items()}, path)
    return path, state


def test_what_fits_is_taken_and_the_rest_is_said(file: tuple[Path, dict[str, Tensor]]) -> None:
    path, state = file
    model = net(3)
    result = from_saved(model, path)
    assert set(result.taken) == {name for name in state if not name.startswith("3.")}
    assert result.misfits == {
        "3.weight": "it is [10, 5] in the file and [3, 5] here",
        "3.bias": "it is [10] in the file and [3] here",
    }
    assert result.missing == ()
    assert result.unused == ()
    for name in result.taken:
        assert torch.equal(model.state_dict()[name], state[name])


def test_missing_unused_only_and_rename() -> None:
    saved = {
        "features.0.weight": torch.ones(5, 4),
        "features.0.bias": torch.ones(5),
        "head.weight": torch.ones(2),
    }
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    before = model[0].bias.detach().clone()
    result = from_saved(model, saved, rename={"features.": ""}, only="*.weight")
    assert result.taken == ("0.weight",)
    assert result.missing == ("1.weight",)
    assert result.unused == ("0.bias", "head.weight")
    assert torch.equal(model[0].bias, before)


def test_types_and_numbers_that_cant_be_used_are_misfits() -> None:
    model = net()
    state = {name: value.clone() for name, value in net().state_dict().items()}
    state["0.weight"][0, 0] = torch.nan
    state["1.num_batches_tracked"] = torch.tensor(1.0)
    state["0.bias"] = state["0.bias"].half()
    result = from_saved(model, state)
    assert result.misfits == {
        "0.weight": "it holds numbers that aren't finite",
        "1.num_batches_tracked": "it is torch.float32 in the file and torch.int64 here",
    }
    assert model[0].bias.dtype == torch.float32
    assert torch.equal(model[0].bias, state["0.bias"].float())


def test_nothing_that_fits_is_an_error() -> None:
    with pytest.raises(ModelError) as caught:
        from_saved(nn.Linear(2, 2), {"a": torch.ones(1), "b": torch.ones(1)})
    assert str(caught.value) == (
        "nothing of the saved model fits: it has 'a', 'b', the module has 'weight', 'bias'; say by rename "
        "which names belong together"
    )


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("plain", [True, False])
def test_nothing_in_a_file_runs(tmp_path: Path, plain: bool) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "stranger.pt"
    if plain:
        path.write_bytes(pickle.dumps({"weight": Trap(sprung)}))
    else:
        torch.save({"weight": Trap(sprung)}, path)
    with pytest.raises(ModelError, match="holds more than tensors, which could run code"):
        read_tensors(path)
    assert not sprung.exists()


def test_damaged_empty_and_missing_files(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    torch.save(net().state_dict(), good)
    whole = good.read_bytes()
    for name, content in {
        "cut.pt": whole[: len(whole) // 2],
        "empty.pt": b"",
        "text.pt": b"no weights at all",
        "text.safetensors": b"no weights at all, not even a little bit",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelError, match=name):
            read_tensors(path)
    torch.save([1, 2], good)
    with pytest.raises(ModelError, match="holds no tensors by name"):
        read_tensors(good)
    with pytest.raises(OptionError, match="there is no file"):
        read_tensors(tmp_path / "nowhere.pt")
