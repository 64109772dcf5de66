"""Hints from a teacher's middle layer for a deep thin student."""

from __future__ import annotations

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import accuracy, digits, mlp, trained
from thalweg.claims.rules import more
from thalweg.stages import hints

__all__ = ["CLAIM", "measure"]


def measure(
    seed: int,
    *,
    depth: int,
    width: int = 12,
    epochs: int = 20,
    hint_epochs: int = 6,
    lr: float = 0.005,
    labels_lr: float | None = None,
    taught: bool = True,
) -> Numbers:
    """Train a thin student on labels, and with a hint first, for as many epochs."""
    train, test = digits(seed, train=500)
    teacher = mlp([64, 128, 10], seed)
    if taught:
        trained(teacher, train, lr=0.005, epochs=20, seed=seed)
    widths = [64, *[width] * depth, 10]
    labels = trained(mlp(widths, seed), train, lr=labels_lr or lr, epochs=epochs, seed=seed)
    student = mlp(widths, seed)
    guided = str(2 * (depth // 2) - 1)
    stages = hints(
        student, teacher, train[0][:4], hint="1", guided=guided, loss="cross-entropy",
        hint_epochs=hint_epochs, epochs=max(1, epochs - hint_epochs),
    )  # fmt: skip
    return {
        "hints": accuracy(trained(student, train, lr=lr, seed=seed, stages=stages), test),
        "labels": accuracy(labels, test),
        "teacher": accuracy(teacher, test),
    }


CLAIM = Claim(
    title="A hint from a teacher's middle layer helps a deep thin student",
    topic="stages",
    statement="A deep thin net that is hard to train learns better if its lower layers first learn to "
    "give what a middle layer of a wide, shallow, trained teacher gives.",
    sources=("P6",),
    places="N; U",
    setup="A teacher of one layer of 128 units, and students of 6 or 12 layers of 12 ReLU units, on "
    "500 digits: 20 epochs of labels, or 6 of hints for the lower half and 14 of labels. Test "
    "accuracy.",
    against="A student with hints that gains half a point or less.",
    about="The teacher has seen the labels that the student sees, and no more. Softened outputs of "
    "the teacher aren't used here; the page on hints compares them.",
    measure=measure,
    rule=(more("hints", "labels", matters=0.005, said="accuracy, with hints less labels alone"),),
    conditions={"6 layers": {"depth": 6}, "12 layers": {"depth": 12}},
    quick=Size(seeds=30),
    full=Size(seeds=80, changes={"epochs": 60, "hint_epochs": 20}),
    picture=Dots(
        values={"hints": "hint, then labels", "labels": "labels", "teacher": "teacher"}, axis="test accuracy"
    ),
    known=(
        Known(
            verdict="holds",
            why="the other goes nowhere at such a rate",
            conditions=("6 layers",),
            changes={"labels_lr": 1e-9, "depth": 2, "width": 32, "epochs": 8, "hint_epochs": 2},
        ),
        Known(
            verdict="does not hold",
            why="at such a rate nothing is learned",
            conditions=("6 layers",),
            changes={"lr": 1e-9, "epochs": 2, "hint_epochs": 1, "taught": False},
        ),
    ),
)
