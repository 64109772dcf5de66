"""The ordinary loop against a loop written here in plain torch, and on data that comes in batches alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from small import prepared, problem, runs, workload
from thalweg import catalogue
from thalweg.data.examples import DatasetExamples
from thalweg.data.source import Prepared
from thalweg.execution import States, loop
from thalweg.objectives import Task
from thalweg.randomness import streams
from thalweg.run.spec import Run, Setting


def mlp(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, outputs)).double()


def test_a_run_is_the_plain_loop_of_its_description() -> None:
    data, seed, total = prepared(dtype=torch.float64), 77, 36
    run = Run(
        identity="a",
        setting=Setting(optimizer="adam", hyperparameters={"lr": 0.02, "beta1": 0.8}, schedule="cosine"),
        seed=seed,
    )
    got = loop.run(run, problem(mlp, data, metric="accuracy"), workload())

    torch.manual_seed(streams.seed32(seed, "initial"))
    model = mlp((1, 4, 4), 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, betas=(0.8, 0.999))
    losses, curve, step = [], {}, 0

    def evaluate() -> tuple[float, float]:
        with torch.no_grad():
            outputs = model(data.validation.inputs)
            loss = nn.functional.cross_entropy(outputs, data.validation.targets)
        return loss.item(), (outputs.argmax(1) == data.validation.targets).double().mean().item()

    curve[0] = evaluate()
    for epoch in range(3):
        order = streams.order(150, seed=seed, epoch=epoch)
        for begin in range(0, 144, 12):
            chosen = torch.from_numpy(order[begin : begin + 12])
            for group in optimizer.param_groups:
                group["lr"] = 0.02 * (1 + np.cos(np.pi * step / total)) / 2
            loss = nn.functional.cross_entropy(model(data.train.inputs[chosen]), data.train.targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
            curve[step] = evaluate()

    assert got.steps == [0, 7, 14, 22, 29, 36]
    assert got.validation_loss == pytest.approx([curve[at][0] for at in got.steps], rel=1e-9)
    assert got.validation == pytest.approx([curve[at][1] for at in got.steps])
    means = [np.mean(losses[a:b]) for a, b in zip(got.steps, got.steps[1:], strict=False)]
    assert got.train_loss == pytest.approx([losses[0], *means], rel=1e-9)
    with torch.no_grad():
        chosen_class = model(data.test.inputs).argmax(1)
    assert got.test_predictions == (chosen_class == data.test.targets).double().tolist()


class Sentences:
    """Items of different length, which only a collate function can make batches of."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, position: int) -> tuple[list[int], int]:
        word = position % 3
        return [word] * (1 + position % 4), word


@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_a_run_that_pauses_goes_on_exactly(name: str, tmp_path: Path) -> None:
    """A step of L-BFGS passes points of the clock, a step of Adam is one."""
    numbers = {"lr": 0.02} if name == "adam" else {"max_iter": 2, "batch_factor": 2.0}
    run = Run(identity="a", setting=Setting(optimizer=name, hyperparameters=numbers), seed=3)
    common: dict[str, Any] = {
        "problem": problem(
            lambda shape, outputs: nn.Sequential(nn.Flatten(), nn.Linear(16, outputs)).double(),
            prepared(dtype=torch.float64), metric="accuracy", optimizers={name: catalogue.get(name)},
        ),
        "workload": workload(), "checkpoint": States(tmp_path),
    }  # fmt: skip
    first = loop.run(run, until=9, **common)
    assert 9 <= first.steps[-1] < 36
    again = loop.run(run, until=9, **common)
    assert again == first
    further = loop.run(run, until=20, **common)
    assert further.validation[: len(first.validation)] == first.validation
    assert 20 <= further.steps[-1] < 36
    whole = loop.run(run, **common)
    undisturbed = loop.run(run, **common | {"checkpoint": None})
    assert whole == undisturbed
    assert whole.steps[-1] == 36


def pad(items: list[tuple[list[int], int]]) -> tuple[dict[str, Tensor], Tensor]:
    longest = max(len(words) for words, _ in items)
    words = torch.tensor([words + [3] * (longest - len(words)) for words, _ in items])
    return {"words": words, "there": words < 3}, torch.tensor([label for _, label in items])


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(4, 5), nn.Linear(5, 3)

    def forward(self, batch: dict[str, Tensor]) -> Any:
        weights = batch["there"].unsqueeze(-1)
        return self.head((self.embed(batch["words"]) * weights).sum(1) / weights.sum(1))


def test_batches_from_a_collate_function() -> None:
    def part(begin: int, end: int) -> DatasetExamples:
        return DatasetExamples(Sentences(), np.arange(begin, end), pad)

    data = Prepared(
        train=part(0, 40),
        validation=part(40, 50),
        test=part(50, 60),
        input_shape=(),
        outputs=3,
        task=Task(kind="classification", classes=("a", "b", "c")),
        indices={},
    )
    run = runs(1, names=["adam"], rates=(0.1,))[0]
    got = loop.run(run, problem(lambda shape, outputs: Bag(), data, metric="accuracy"), workload(epochs=5))
    assert got.validation[-1] == 1.0
    assert got.test[-1] == 1.0
    assert len(got.test_predictions) == 10


def test_what_draws_from_torchs_generator_draws_from_the_runs_own() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            chosen = torch.multinomial(torch.ones(16, dtype=torch.float64), 8)  # nothing replaces multinomial
            return self.linear(torch.zeros(len(x), 16).double().index_add(1, chosen, x.flatten(1)[:, chosen]))

    common: dict[str, Any] = {
        "problem": problem(lambda shape, outputs: Odd(), prepared(dtype=torch.float64)),
        "workload": workload(),
    }
    torch.manual_seed(1)
    first = loop.run(runs(1)[0], **common)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert loop.run(runs(1)[0], **common) == first
    assert torch.equal(torch.get_rng_state(), before)
    other = loop.run(runs(1, seeds=(5,))[0], **common)
    assert other.train_loss != first.train_loss
