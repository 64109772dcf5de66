"""Output biases at the classes' frequencies save the first steps."""

from __future__ import annotations

import torch

from thalweg.claims.claim import Claim, Known, Numbers
from thalweg.claims.nets import drawn, mlp
from thalweg.claims.picture import Lines
from thalweg.claims.rules import more
from thalweg.initial import marginals, set_output_bias
from thalweg.optim import SGD
from thalweg.randomness import streams

__all__ = ["CLAIM", "measure"]


def measure(seed: int, *, shares: tuple[float, ...] = (0.9, 0.06, 0.04), steps: int = 200) -> Numbers:
    """Train on classes of these shares, from biases of zero and from those of the classes' frequencies."""
    inputs = drawn(2000, 10, seed=seed, of="inputs").float()
    uniform = streams.uniform((2000,), seed=seed, stream="claims/classes")
    targets = torch.bucketize(uniform, torch.tensor(shares).cumsum(0)[:-1])
    inputs[:, 0] += targets
    found: dict[str, float | list[float]] = {}
    for name in ("zero", "frequencies"):
        net = mlp(10, 32, len(shares), seed=seed)
        # the same small output weights on both sides
        set_output_bias(net[-1], marginals(targets, classes=len(shares)), "softmax")
        if name == "zero":
            torch.nn.init.zeros_(list(net.parameters())[-1])
        descent, losses = SGD(net.parameters(), lr=0.1), []
        for step in range(steps):
            batch = slice(32 * step % 1984, 32 * step % 1984 + 32)
            descent.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(net(inputs[batch]), targets[batch]))
            descent.step() if step else None
            with torch.no_grad():
                losses.append(torch.nn.functional.cross_entropy(net(inputs), targets).item())
        found |= {
            name: losses[0],
            f"{name}_early": sum(losses[:20]) / 20,
            f"{name}_path": losses,
            f"{name}_late": sum(losses[-20:]) / 20,
        }
    return found


CLAIM = Claim(
    title="Output biases from the classes' frequencies",
    topic="starting",
    statement="Where classes are of unequal frequency, output biases with softmax(b) equal to these "
    "frequencies save a net the first steps, in which it would learn them.",
    sources=("I5",),
    places="K; U",
    setup="Three classes of 90, 6 and 4 %, a net of 32 ReLU units with small output weights, gradient "
    "descent by batches of 32. Biases begin at zero or at logarithms of the frequencies. What counts are the "
    "loss before any step and its mean over the first twenty.",
    against="A loss at the start, or over the first steps, that isn't lower by at least 0.02.",
    about="The loss at the start is then the entropy of the classes, the best that can be had without "
    "looking at inputs. The advantage lasts as long as plain training takes to learn the biases, and no "
    "longer.",
    measure=measure,
    rule=(
        more("zero", "frequencies", by=0.02, said="loss at the start, from zero less from frequencies"),
        more(
            "zero_early",
            "frequencies_early",
            by=0.02,
            said="loss over 20 steps, from zero less from frequencies",
        ),
    ),
    picture=Lines(
        curves={"zero_path": "biases at zero", "frequencies_path": "at the frequencies"},
        axis="cross-entropy over all examples",
        across="steps",
        log=True,
    ),
    known=(
        Known(
            verdict="holds",
            why="log 2 less the entropy of two classes of 95 and 5 % is 0.49",
            changes={"shares": (0.95, 0.05), "steps": 30},
            seeds=5,
        ),
        Known(
            verdict="does not hold",
            why="classes of one frequency begin at equal biases anyway",
            changes={"shares": (0.25, 0.25, 0.25, 0.25), "steps": 30},
        ),
    ),
)
