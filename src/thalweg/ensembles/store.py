"""What came of an ensemble's members, and where they are kept: in a run directory, or in memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import safetensors.torch
from torch import Tensor

from thalweg.execution.states import States
from thalweg.run.directory.directory import RunDirectory
from thalweg.settings.choices import EngineKind
from thalweg.training.backend import copied, cpu_copy
from thalweg.training.watch import Evaluation

__all__ = ["Member", "MemberPlan", "MemberStore"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """What came of a member; its weights are kept apart.

    Attributes:
        number, seed: from 1, and see :func:`thalweg.ensembles.train.member_seed`.
        curve: every evaluation.
        updates: steps that its optimizer took.
        stopped, failed: why training ended before its time, and whether that was a failure.
        notes: what strategies had to say.
    """

    number: int
    seed: int
    curve: list[Evaluation] = field(repr=False)
    updates: int
    stopped: str | None = None
    failed: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class MemberPlan:
    """How members are trained: the choice, once made, is kept and followed by every resume."""

    engine: EngineKind
    reason: str
    threads: int
    chunk: int = 1


class MemberStore:
    """Where members are kept: in a run directory, or in memory.

    Args:
        directory: ``None`` for memory.

    Attributes:
        members: those that are trained, by number.
        under_way: keeps the states of lanes under way; ``None``: nothing does.
    """

    def __init__(self, directory: RunDirectory | None = None) -> None:
        self.directory = directory
        self.members: dict[int, Member] = {}
        self.plan: MemberPlan | None = None
        self.seconds = 0.0
        self._states: dict[int, dict[str, Tensor]] = {}
        self.under_way = None if directory is None else States(directory.path / "checkpoints")
        for event in [] if directory is None else directory.events():
            if event["event"] == "member":
                values = {**event["member"], "curve": [Evaluation(**e) for e in event["member"]["curve"]]}
                self.members[values["number"]] = Member(**values)
            elif event["event"] == "engine":
                self.plan = MemberPlan(**event["how"])
            elif event["event"] == "spent":
                self.seconds += event["seconds"]

    def save_plan(self, plan: MemberPlan) -> None:
        """Keep the choice of engine."""
        self.plan = plan
        if self.directory is not None:
            self.directory.append({"event": "engine", "how": asdict(plan)})

    def put(self, member: Member, state: Mapping[str, Tensor] | None) -> None:
        """Keep a member, and its weights unless it failed."""
        if state is not None:
            if self.directory is None:
                self._states[member.number] = copied(dict(state))
            else:
                whole = {name: cpu_copy(value) for name, value in state.items()}
                self.directory.write_bytes(
                    f"member-{member.number}.safetensors", safetensors.torch.save(whole)
                )
        if self.directory is not None and member.number not in self.members:
            self.directory.append({"event": "member", "member": asdict(member)})
        self.members[member.number] = member

    def state(self, number: int) -> dict[str, Tensor]:
        """Return the weights of a member."""
        if self.directory is None:
            return self._states[number]
        return safetensors.torch.load_file(self.directory.path / f"member-{number}.safetensors")

    def spent(self, seconds: float) -> None:
        """Note how long training went on."""
        self.seconds += seconds
        if self.directory is not None:
            self.directory.append({"event": "spent", "seconds": seconds})

    def tidy(self) -> None:
        """Drop what was kept for a resume alone."""
        if self.directory is not None and self.under_way is not None:
            self.under_way.clear()
            shutil.rmtree(self.directory.path / "members", ignore_errors=True)
