"""The strategy: what a step is taken on, however the examples come to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg import recipe
from thalweg.data import augmentation
from thalweg.errors import DataError, OptionError, RecipeError
from thalweg.randomness import streams
from thalweg.strategies import Augmentation

pytest.importorskip("kornia")

X = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)) - 0.3
Y = torch.arange(40) % 2
SETTINGS: dict[str, Any] = {"rotate": 20.0, "crop": 0.8, "fill": "black", "contrast": 0.5}


class Watching(nn.Module):
    """Keeps what it is given while training."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(36, 2), []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x.detach().clone())
        made: Tensor = self.linear(x.flatten(1))
        return made


def watched(data: Any = (X, Y), **more: Any) -> list[Tensor]:
    model = Watching()
    options = {"epochs": 2, "batch_size": 8, "seed": 4, "hyperparameters": {"lr": 0.1}, **more}
    thalweg.fit(model, data, "cross-entropy", "sgd", "constant", [Augmentation(**SETTINGS)], **options)
    return model.seen


def test_a_step_sees_what_the_function_gives() -> None:
    reach = augmentation.reach_of([X])
    seen = iter(watched())
    for epoch in range(2):
        order = torch.from_numpy(streams.order(40, seed=4, epoch=epoch))
        for indices in order.split(8):
            expected = augmentation.augment(X[indices], indices, seed=4, epoch=epoch, reach=reach, **SETTINGS)
            assert torch.equal(next(seen), expected)
    assert next(seen, None) is None


@pytest.mark.parametrize("more", [{"batch_size": 5}, {"accumulate": 3}, {"data": TensorDataset(X, Y)}])
def test_batches_and_parts_change_nothing_for_an_example(more: dict[str, Any]) -> None:
    torch.testing.assert_close(torch.cat(watched(**more)), torch.cat(watched()))


def test_closures_see_one_batch_at_all_their_points() -> None:
    model = Watching()
    thalweg.fit(
        model, (X, Y), "cross-entropy", torch.optim.LBFGS(model.parameters(), max_iter=3), "constant",
        [Augmentation(**SETTINGS)], steps=2, batch_size=8, seed=4,
    )  # fmt: skip
    calls = len(model.seen) // 2
    assert calls > 1
    for begin, expected in zip((0, calls), watched(), strict=False):
        assert all(torch.equal(each, expected) for each in model.seen[begin : begin + calls])


def test_of_loaders_the_place_in_the_epoch_is_the_key() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=16)
    seen = watched(loader)
    assert [len(batch) for batch in seen] == [16, 16, 8, 16, 16, 8]
    reach = augmentation.reach_of([X])
    for epoch in range(2):
        expected = augmentation.augment(X, range(40), seed=4, epoch=epoch, reach=reach, **SETTINGS)
        torch.testing.assert_close(torch.cat(seen[3 * epoch : 3 * epoch + 3]), expected)


def test_evaluations_see_images_as_they_are() -> None:
    seen = []

    class EnsembleEvaluation(Watching):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                seen.append(x.clone())
            return super().forward(x)

    thalweg.fit(
        EnsembleEvaluation(), (X, Y), "cross-entropy", "sgd", strategies=[Augmentation(**SETTINGS)], epochs=1,
        batch_size=8, validation=(X, Y), hyperparameters={"lr": 0.1},
    )  # fmt: skip
    assert all(torch.equal(each, X) for each in seen)


RECIPE = """[data]
spec = "{data}"
[model]
spec = "linear"
[optimizer]
name = "sgd"
lr = 0.1
[training]
batch_size = 64
epochs = 1
[strategies.augmentation]
{settings}
"""


@pytest.mark.parametrize(
    ("data", "settings", "kind", "words"),
    [
        ("digits", "crop = 2.0", RecipeError, r"line 12, column 1: strategies.augmentation.crop is 2.0"),
        ("digits", "flip = 2", RecipeError, "strategies.augmentation.flip is 2 but must be less than or"),
        ("digits", "rotat = 2.0", RecipeError, "no 'rotat'; did you mean 'rotate'"),
        ("digits", 'fill = "white"', RecipeError, "fill is 'white'; known: black, edge, reflect"),
        ("digits", "", RecipeError, "augmentation: nothing is on"),
        ("digits", "rotate = 5\nwhite = 1.0", RecipeError, "black and white belong together"),
        ("digits", "hue = 0.1", OptionError, "these images have 1 channel"),
        ("iris", "rotate = 5", DataError, r"augmentation is for images.*of shape \[4\]"),
    ],
)
def test_what_a_recipe_may_not_say(
    data: str, settings: str, kind: type[Exception], words: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(kind, match=words):
        thalweg.train(recipe.loads(RECIPE.format(data=data, settings=settings)), out=out)
    assert not out.exists()


def test_a_recipe_is_written_as_it_is_read(tmp_path: Path) -> None:
    made = recipe.loads(RECIPE.format(data="digits", settings='rotate = 10\nscale = 1.1\nfill = "black"'))
    assert recipe.loads(recipe.dumps(made)) == made
    results = thalweg.train(made, out=tmp_path / "out")
    assert not results.failed
