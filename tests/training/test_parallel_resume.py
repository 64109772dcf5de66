"""Two processes killed, broken, interrupted and taken up again; and the command under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist

import thalweg
from thalweg.run.directory import RunDirectory
from thalweg.training.watch import TrainingWatcher
from training import pairs

pytestmark = [
    pytest.mark.skipif(os.name != "posix" or not dist.is_gloo_available(), reason="needs gloo and fork"),
    pytest.mark.slow,
]


def go_on(
    out: Path, backend: str, *, resume: bool = True, dies_at: int | None = None, how: str = "kill",
    result: Path | None = None,
) -> list[int | None]:  # fmt: skip
    folder = out.parent / "said"
    return pairs.run(pairs.go_on, out, backend, resume, dies_at, how, result, folder=folder)


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for part in ("model", "best"):
        assert found[part].keys() == expected[part].keys()
        for name, value in expected[part].items():
            assert torch.equal(found[part][name], value), name
    for part in ("final", "losses", "metrics", "updates", "stopped"):
        assert found[part] == expected[part], part


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    for backend in pairs.BACKENDS:
        codes = pairs.run(
            pairs.go_on, None, backend, False, None, "", folder / backend, folder=folder / "said"
        )
        assert codes == [0, 0], pairs.said(folder / "said")
    return {backend: torch.load(folder / backend, weights_only=False) for backend in pairs.BACKENDS}


@pytest.mark.parametrize("backend", pairs.BACKENDS)
def test_killed_twice_both_end_alike(
    backend: str, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]
) -> None:
    out = tmp_path / "out"
    assert go_on(out, backend, resume=False, dies_at=5) == [-9, -9], pairs.said(tmp_path / "said")
    if backend == "fsdp2":
        damage(out)
    assert go_on(out, backend, dies_at=6) == [-9, -9], pairs.said(tmp_path / "said")
    assert go_on(out, backend, result=tmp_path / "found") == [0, 0], pairs.said(tmp_path / "said")
    same(torch.load(tmp_path / "found", weights_only=False), undisturbed[backend])
    if backend == "fsdp2":
        events = [e for e in RunDirectory.read(out).events() if e["event"] == "checkpoint damaged"]
        assert len(events) == 1
        shards = {path.name.split(".")[0] for path in (out / "checkpoints").glob("*.shards")}
        assert shards == {"last", "best"}
        assert len(list((out / "checkpoints").glob("last.*.shards"))) == 3


def damage(out: Path) -> None:
    newest = sorted((out / "checkpoints").glob("last.*.pt"))[-1]
    state = torch.load(newest, weights_only=True)
    folder = out / "checkpoints" / state["thalweg.shards"]["folder"]
    file = next(folder.glob("__1_*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("backend", pairs.BACKENDS)
def test_interrupted_all_save_at_one_step_and_another_world_goes_on(
    backend: str, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]
) -> None:
    out = tmp_path / "out"
    codes = go_on(out, backend, resume=False, dies_at=4, how="interrupt")
    assert codes == [130, 130], pairs.said(tmp_path / "said")
    assert all("interrupted at step" in said for said in pairs.said(tmp_path / "said"))
    # one process goes on from what two have left
    told: list[str] = []
    watcher = TrainingWatcher()
    watcher.note = told.append  # type: ignore[method-assign]
    found = pairs.outcome(pairs.resumable(out, None, resume=True, watcher=watcher))
    assert sum("of 2 processes and goes on in one process" in text for text in told) == 1
    for name, value in undisturbed[backend]["model"].items():
        assert found["model"][name].shape == value.shape
    assert found["losses"][0] == undisturbed[backend]["losses"][0]


RECIPE = """version = 1
data.spec = "iris"
model.spec = "mlp:8"
optimizer = {name = "adam", lr = 0.02}
[training]
batch_size = 15
epochs = 3
evaluations = 3
"""


def test_a_process_that_breaks_ends_the_other_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    for number, (breaks, codes, words) in enumerate(
        [("raises", [2, 2], "error: row 7 can't be read"), ("killed", [1, -9], "another process of this")]
    ):
        arguments = ["train", str(tmp_path / "r.toml"), "--out", str(tmp_path / f"out{number}"), "--quiet"]
        folder = tmp_path / f"said{number}"
        assert pairs.run(pairs.command, arguments, breaks, folder=folder) == codes, pairs.said(folder)
        together = "".join(pairs.said(folder))
        assert together.count("error: ") == 1, together
        assert words in together
        assert "Traceback" not in together


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_while_shards_are_written_is_said_as_such(rank: int, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE + 'parallel = "fsdp2"\n')
    out, folder = tmp_path / "out", tmp_path / "said"
    arguments = ["train", str(tmp_path / "r.toml"), "--out", str(out), "--quiet"]
    assert pairs.run(pairs.command, arguments, f"full {rank}", folder=folder) == [2, 2], pairs.said(folder)
    together = "".join(pairs.said(folder))
    assert together.count("error: ") == 1, together
    assert "can't be written (no space left on device); the earlier version is intact" in together
    assert "Traceback" not in together
    # room isn't taken by what is no checkpoint
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["run_id"]


def test_what_all_refuse_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE.replace('"adam"', '"newton"').replace(", lr = 0.02", ""))
    folder = tmp_path / "said"
    arguments = ["train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "out")]
    assert pairs.run(pairs.command, arguments, None, folder=folder) == [2, 2], pairs.said(folder)
    said = "".join(pairs.said(folder))
    assert said.count("\n") == 1, said
    assert "newton needs the graph of a whole batch" in said
    assert not (tmp_path / "out").exists()


STAGES = """
[[stage]]
method = "greedy"
epochs = 1
[[stage]]
name = "end"
carries = true
"""


@pytest.mark.parametrize(("kind", "stages"), [("FSDP2", ""), ("DDP", STAGES)], ids=["FSDP2", "DDP in stages"])
def test_torchrun_carries_a_recipe_out(kind: str, stages: str, tmp_path: Path) -> None:
    text = RECIPE + f'parallel = "{kind.lower()}"\n' + stages
    (tmp_path / "r.toml").write_text(text.replace("mlp:8", "mlp:8,8") if stages else text)
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
         "--master-port", str(pairs.free_port()),
         "-m", "thalweg", "train", str(tmp_path / "r.toml"), "--out", str(out)],
        capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"on 2 processes by {kind}" in done.stdout
    assert done.stdout.count("test: accuracy") == 1
    thalweg.train(tmp_path / "r.toml", out=tmp_path / "one")
    found, expected = (
        safetensors.torch.load_file(p / "weights.safetensors") for p in (out, tmp_path / "one")
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert (out / "report.html").exists()
