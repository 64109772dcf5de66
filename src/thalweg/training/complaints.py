"""What goes wrong in a step that can't be taken so, as a sentence about what was given."""

from __future__ import annotations

from thalweg.errors import DataError, OptionError, UserError
from thalweg.layers.passing import SingleEntryError, raised_in

__all__ = ["understood"]

_UNFINISHED = ("finished reduction", "find_unused_parameters", "unused parameter")


def understood(problem: Exception, whole: int, parts: int, world: int) -> UserError | None:
    """Return a sentence for an error of a step, where it says more than the error itself."""
    if isinstance(problem, SingleEntryError):
        share, remedy = f"a batch of {whole}", "take larger batches, or leave a last batch of one out"
        if parts > 1 or world > 1:
            counted = ((world, "processes"), (parts, "parts"))
            share += f", shared out over {' and '.join(f'{n} {what}' for n, what in counted if n > 1)},"
            remedy = "take larger batches or fewer shares"
            if world > 1:
                remedy += ", or sync_batch_norm=True"
        return DataError(f"batch norm can't normalize one example by itself, as {share} has it; {remedy}")
    # from DDP itself, which a process that has gone makes fail as well
    if raised_in(problem, "torch.nn.parallel") and any(words in str(problem) for words in _UNFINISHED):
        return OptionError(
            "some parameters take no part in the loss of a step, for whose gradients the processes wait; "
            "give DistributedDataParallel(unused=True) (in a recipe, training.parallel = 'fsdp2'), or "
            "freeze them with requires_grad_(False)"
        )
    return None
