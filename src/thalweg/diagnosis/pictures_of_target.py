"""Pictures of what was diagnosed; of a run also from its result and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from thalweg.diagnosis.diagnosis import Diagnosis, usual_budget
from thalweg.diagnosis.facts import gather
from thalweg.diagnosis.pictures import Pictures, take_pictures
from thalweg.errors import UserError
from thalweg.initial.saved import read_tensors
from thalweg.run.directory.directory import RunDirectory

__all__ = ["keeps_pictures", "pictures_of"]


def keeps_pictures(path: Path) -> bool:
    """Say whether this is the directory of a training, whose report draws the pictures that lie there."""
    try:
        return path.is_dir() and RunDirectory.read(path).config().get("kind") in ("train", "fit")
    except UserError:
        # which is said when it is diagnosed
        return False


def pictures_of(
    made: Diagnosis,
    path: Path,
    *,
    budget: int | None,
    seed: int,
    progress: Callable[[str, float], None] | None = None,
) -> Pictures:
    """Measure what can be drawn of a set-up that was diagnosed, with what is left of the budget.

    Args:
        made: its diagnosis.
        path: of the run, where it is one.
        budget: of both together; ``None``: a quarter more than a diagnosis takes by itself.
        seed, progress: as for :func:`~thalweg.diagnosis.pictures.take_pictures`.
    """
    result: Mapping[str, Tensor] | None = None
    checkpoints: list[Mapping[str, Tensor]] = []
    notes: list[str] = []
    if path.is_dir():
        try:
            result, checkpoints = _of_run(path)
        except UserError as problem:
            notes.append(f"pictures are of a short training alone, since {problem}")
    if budget is None:
        left = usual_budget(gather(made.setup, seed=seed)) / 4
    else:
        left = budget - made.gradients
    taken = take_pictures(
        made.setup, budget=left, seed=seed, progress=progress, result=result, checkpoints=checkpoints
    )
    return Pictures(shown=taken.shown, gradients=taken.gradients, notes=(*notes, *taken.notes))


def _of_run(path: Path) -> tuple[Mapping[str, Tensor] | None, list[Mapping[str, Tensor]]]:
    """The weights that a run led to, and those on the way that it keeps; no code is run."""
    if not (path / "weights.safetensors").is_file():
        return None, []
    result = read_tensors(path / "weights.safetensors")
    kept: dict[int, Mapping[str, Tensor]] = {}
    for state in RunDirectory.read(path).load_checkpoints("best"):
        model, step = state.get("model"), (state.get("evaluation") or {}).get("step")
        if isinstance(model, Mapping) and isinstance(step, int) and model.keys() == result.keys():
            kept[step] = model
    return result, [kept[step] for step in sorted(kept)]
