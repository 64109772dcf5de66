"""Many settings trained at once: lanes against plain PyTorch loops and against JAX, side by side in one run.

    python -m benchmarks.lanes --json benchmarks/results/lanes.json

What is timed is the whole of training K settings from scratch: building, every step, and the evaluation of
the validation split before and after. The plain loop is what a careful engineer writes: data in memory as
tensors, an order drawn once an epoch, ``zero_grad``, ``backward``, torch's fused optimizer; one setting
after another, in one process with all threads, or half of the settings in each of two processes with one
thread, which are started and warm before the clock runs. JAX does the same work by ``vmap``, ``jit`` and
optax, compiled before the clock runs, as one call a step and as one ``scan`` an epoch; the faster counts.
In each round every contender runs once, in an order drawn anew, and ratios are taken within the round.
"""

from __future__ import annotations

import os

os.environ.setdefault("MKL_CBWR", "AVX2")  # as the command does, before the first matrix product

import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks import records

from thalweg import catalogue, execution
from thalweg.data.examples import TensorExamples
from thalweg.data.source import Prepared
from thalweg.execution import lanes
from thalweg.layers import models
from thalweg.objectives import Task
from thalweg.randomness.streams import order
from thalweg.run.objective import Objective
from thalweg.run.problem import Problem
from thalweg.run.spec import Run, Setting, Workload
from thalweg.run.threads import with_threads

Work = Callable[[], object]
FUSED = {
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, fused=True),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, fused=True),
    "adagrad": lambda p, lr: torch.optim.Adagrad(p, lr=lr, fused=True),
}


@dataclass(frozen=True)
class Case:
    """Settings of these optimizers, spread evenly, on a model of this spec."""

    name: str
    model: str
    shape: tuple[int, ...]
    examples: int
    epochs: int
    settings: int = 64
    batch: int = 32
    outputs: int = 10
    optimizers: tuple[str, ...] = ("adam",)

    @property
    def rates(self) -> list[tuple[str, float]]:
        """Optimizer and learning rate of each setting."""
        names = self.optimizers
        return [
            (names[i * len(names) // self.settings], 10 ** (-4 + 2 * i / self.settings))
            for i in range(self.settings)
        ]

    @property
    def steps(self) -> int:
        return self.examples // self.batch * self.epochs

    def data(self) -> Prepared:
        """Noise with labels: what is learned doesn't matter to the clock."""
        generator = torch.Generator().manual_seed(0)

        def part(rows: int) -> TensorExamples:
            x = torch.randn(rows, *self.shape, generator=generator)
            return TensorExamples(x, torch.randint(0, self.outputs, (rows,), generator=generator))

        return Prepared(
            train=part(self.examples),
            validation=part(256),
            test=part(256),
            input_shape=self.shape,
            outputs=self.outputs,
            task=Task(kind="classification", classes=tuple(map(str, range(self.outputs)))),
            indices={},
        )

    def common(self) -> dict[str, Any]:
        """What ``lanes.run`` and the loop are told."""
        problem = Problem(
            factory=models.factory(self.model),
            data=self.data(),
            objective=Objective(loss="cross-entropy", metric="accuracy"),
            optimizers={name: catalogue.get(name) for name in self.optimizers},
        )
        workload = Workload(epochs=self.epochs, batch_size=self.batch, evaluations=1)
        return {"problem": problem, "workload": workload}

    def runs(self) -> list[Run]:
        """The settings, all of one seed, as in a race."""
        return [
            Run(
                identity=f"{name}/{i}",
                setting=Setting(optimizer=name, hyperparameters={"lr": lr}),
                seed=1,
            )
            for i, (name, lr) in enumerate(self.rates)
        ]


CASES = [
    Case("mlp 64-32-10", "mlp:32", (64,), 1077, 4),
    Case("mlp 64-32-10, four optimizers", "mlp:32", (64,), 1077, 4, optimizers=tuple(FUSED)),
    Case("mlp 784-64-10", "mlp:64", (784,), 2048, 1),
    Case("cnn 16-32", "cnn:16,32", (1, 28, 28), 512, 20, settings=4),
]


def plain(case: Case, data: Prepared, rates: Sequence[tuple[str, float]]) -> None:
    """Train settings one after another in plain PyTorch."""
    x, y = data.train.inputs, data.train.targets
    assert x is not None
    assert y is not None

    def accuracy(model: torch.nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            outputs = model(data.validation.inputs)
            F.cross_entropy(outputs, data.validation.targets).item()
            correct = (outputs.argmax(1) == data.validation.targets).float().mean().item()
        model.train()
        return correct

    for name, lr in rates:
        torch.manual_seed(1)
        model = models.build(case.model, case.shape, case.outputs)
        optimizer = FUSED[name](model.parameters(), lr)
        accuracy(model)
        for epoch in range(case.epochs):
            shuffled = torch.from_numpy(order(case.examples, seed=1, epoch=epoch))
            for begin in range(0, case.examples - case.batch + 1, case.batch):
                chosen = shuffled[begin : begin + case.batch]
                loss = F.cross_entropy(model(x[chosen]), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        accuracy(model)


def _serve(pipe: Connection, case: Case, part: int) -> None:
    torch.set_num_threads(1)
    data, rates = case.data(), case.rates[part::2]
    plain(case, data, rates[:1])
    while True:
        pipe.send(None)
        if not pipe.recv():
            return
        plain(case, data, rates)


class Pair:
    """Two warm processes that share the settings."""

    def __init__(self, case: Case) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes, self._workers = [], []
        for part in range(2):
            pipe, far = context.Pipe()
            worker = context.Process(target=_serve, args=(far, case, part), daemon=True)
            worker.start()
            self._pipes.append(pipe)
            self._workers.append(worker)
        for pipe in self._pipes:
            pipe.recv()

    def __call__(self) -> None:
        for pipe in self._pipes:
            pipe.send(True)
        for pipe in self._pipes:
            pipe.recv()

    def close(self) -> None:
        """End the processes."""
        for pipe, worker in zip(self._pipes, self._workers, strict=True):
            pipe.send(False)
            worker.join()


def jax_contenders(case: Case) -> dict[str, Work]:
    """The same work in JAX: one compiled call a step, and one scan an epoch; nothing without JAX."""
    if find_spec("jax") is None or find_spec("optax") is None or len(case.shape) > 1:
        return {}
    if case.optimizers != ("adam",):
        return {}
    import jax
    import jax.numpy as jnp
    import optax

    data = case.data()
    x, y = jnp.asarray(data.train.inputs), jnp.asarray(data.train.targets)
    vx, vy = jnp.asarray(data.validation.inputs), jnp.asarray(data.validation.targets)
    rates = jnp.asarray([lr for _, lr in case.rates], dtype=jnp.float32)
    direction = optax.scale_by_adam()

    def initial() -> Any:
        torch.manual_seed(1)
        model = models.build(case.model, case.shape, case.outputs)
        arrays = [jnp.asarray(p.detach().numpy()) for p in model.parameters()]
        return [jnp.broadcast_to(a, (case.settings, *a.shape)) for a in arrays]

    def outputs(parameters: Any, inputs: Any) -> Any:
        *inner, weight, bias = parameters
        for w, b in zip(inner[::2], inner[1::2], strict=True):
            inputs = jax.nn.relu(inputs @ w.T + b)
        return inputs @ weight.T + bias

    def loss(parameters: Any, inputs: Any, targets: Any) -> Any:
        given = outputs(parameters, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(given, targets).mean()

    def one(parameters: Any, state: Any, rate: Any, inputs: Any, targets: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(parameters, inputs, targets)
        updates, state = direction.update(grads, state)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        return optax.apply_updates(parameters, updates), state, value

    every = jax.vmap(one, in_axes=(0, 0, 0, None, None))

    def step(parameters: Any, state: Any, chosen: Any) -> Any:
        return every(parameters, state, rates, x[chosen], y[chosen])

    def epoch(parameters: Any, state: Any, batches: Any) -> Any:
        def body(carry: Any, chosen: Any) -> Any:
            *carry, value = step(*carry, chosen)
            return tuple(carry), value

        (parameters, state), values = jax.lax.scan(body, (parameters, state), batches)
        return parameters, state, values

    @jax.jit
    def evaluate(parameters: Any) -> Any:
        given = jax.vmap(outputs, in_axes=(0, None))(parameters, vx)
        losses = optax.softmax_cross_entropy_with_integer_labels(given, vy[None]).mean(1)
        return losses, (given.argmax(-1) == vy).mean(1)

    one_step = jax.jit(step, donate_argnums=(0, 1))
    one_epoch = jax.jit(epoch, donate_argnums=(0, 1))
    start = jax.jit(jax.vmap(direction.init))
    copied = jax.jit(lambda parameters: jax.tree.map(jnp.copy, parameters))

    def train(scan: bool) -> None:
        parameters = copied(initial())
        state = start(parameters)
        jax.block_until_ready(evaluate(parameters))
        for number in range(case.epochs):
            shuffled = order(case.examples, seed=1, epoch=number)
            batches = shuffled[: case.examples // case.batch * case.batch].reshape(-1, case.batch)
            if scan:
                parameters, state, values = one_epoch(parameters, state, jnp.asarray(batches))
            else:
                for chosen in jnp.asarray(batches):
                    parameters, state, values = one_step(parameters, state, chosen)
        jax.block_until_ready((values, evaluate(parameters)))

    return {"jax, a call a step": lambda: train(False), "jax, scan": lambda: train(True)}


def interleave(contenders: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Time every contender once a round, in an order drawn for the round, after one run for warmth."""
    for work in contenders.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        random.Random(number).shuffle(names)
        for name in names:
            begin = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def compare(case: Case, rounds: int) -> dict[str, Any]:
    """Run one case."""
    given, runs = case.common(), case.runs()
    problem: Problem = given["problem"]
    choice = execution.choose(runs, most=case.settings, **given)

    def ours() -> None:
        with with_threads(choice.threads):
            if choice.kind == "lanes" and choice.lane_processes > 1:
                chunks = lanes.plan(runs, problem.optimizers, -(-len(runs) // choice.lane_processes))
                beside(execution.RunList(train=execution.as_lanes, groups=chunks, **given))
            elif choice.kind == "lanes":
                lanes.run(runs, chunk=choice.chunk, **given)
            else:
                groups = [[run] for run in runs]
                beside(execution.RunList(train=execution.one_by_one, groups=groups, **given))

    def beside(asked: execution.RunList) -> None:
        workers.carry_out(
            asked, ended=lambda number, outcomes: None, advanced=lambda steps: None, stop=lambda: False
        )

    # as a race keeps them; the first run, for warmth, starts them
    workers = execution.ProcessPool(choice.processes, choice.loop_threads)
    pair = Pair(case)
    contenders = {
        "thalweg": ours,
        "plain loop": lambda: plain(case, problem.data, case.rates),
        "plain loop, two processes": pair,
        **jax_contenders(case),
    }
    seconds = interleave(contenders, rounds)
    pair.close()
    workers.close()
    each = 1e3 / case.steps
    others = [name for name in contenders if name != "thalweg"]
    return {
        "case": case.name,
        "settings": case.settings,
        "steps": case.steps,
        "batch": case.batch,
        "optimizers": list(case.optimizers),
        "engine": {
            "kind": choice.kind,
            "forward": choice.forward,
            "chunk": choice.chunk,
            "processes": choice.processes,
            "threads": choice.threads,
            "lane_processes": choice.lane_processes,
        },
        "reason": choice.reason,
        "milliseconds_a_step_of_all": {
            name: records.spread(values, each) for name, values in seconds.items()
        },
        "times_faster_than": {name: records.ratio(seconds[name], seconds["thalweg"]) for name in others},
    }


def main() -> None:
    """Run the comparison and write what was found."""
    parser = records.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default 9)")
    parser.add_argument("--cases", nargs="+", type=int, default=list(range(len(CASES))))
    arguments = parser.parse_args()
    results = records.begin(
        "numpy", "numba", "jax", "optax",
        rounds=arguments.rounds, threads=torch.get_num_threads(), promise=lanes.promise(),
    )  # fmt: skip
    results["cases"] = []
    for number in arguments.cases:
        result = compare(CASES[number], arguments.rounds)
        results["cases"].append(result)
        show(result)
    records.end(results, arguments.json)


def show(result: dict[str, Any]) -> None:
    """Print a few lines."""
    print(f"{result['case']}: {result['settings']} settings, {result['reason']}")
    for name, took in result["milliseconds_a_step_of_all"].items():
        ratio = result["times_faster_than"].get(name)
        against = "" if ratio is None else records.said(ratio)
        print(f"  {name:28s} {took['median']:8.3f} ms  {against}", flush=True)


if __name__ == "__main__":
    main()
