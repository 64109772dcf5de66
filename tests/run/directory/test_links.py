"""Links that lead out of a run directory: followed to what is its own, refused where another's may be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from thalweg.errors import RunDirectoryError
from thalweg.run.directory import RunDirectory
from thalweg.run.directory.links import FOLDERS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links")


def begun(path: Path) -> Path:
    with RunDirectory.create(path, {"kind": "race"}) as run:
        run.save_checkpoint("last", {"step": 1})
        for name in FOLDERS:
            run.folder(name)
    return path


def everything(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def moved(run: Path, name: str, to: Path) -> None:
    shutil.move(run / name, to)
    (run / name).symlink_to(to)


def test_checkpoints_that_were_moved_to_another_disk_are_followed(tmp_path: Path) -> None:
    run, disk = begun(tmp_path / "run"), tmp_path / "disk"
    moved(run, "checkpoints", disk)
    (disk / ".last.7.draft").touch()
    for step in (2, 3, 4):
        with RunDirectory.resume(run) as taken:
            assert taken.load_checkpoint("last") == {"step": step - 1}
            taken.save_checkpoint("last", {"step": step})
    assert (run / "checkpoints").is_symlink()
    assert len(list(disk.glob("last.*.pt"))) == 2
    assert not (disk / ".last.7.draft").exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_an_empty_folder_elsewhere_is_taken(tmp_path: Path, name: str) -> None:
    run, disk = begun(tmp_path / "run"), tmp_path / "disk"
    shutil.rmtree(run / name)
    disk.mkdir()
    (run / name).symlink_to(disk)
    for _ in range(2):
        with RunDirectory.resume(run) as taken:
            taken.save_checkpoint("last", {"step": 2})
    assert (disk / "run_id").read_text() == (run / "config.toml").read_text().split('"')[1]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("what", ["another run's", "a folder of files", "a link to this run's number"])
def test_folders_that_may_be_others_are_refused_and_unharmed(tmp_path: Path, name: str, what: str) -> None:
    """In another run's folder, checkpoints of the same name would be replaced."""
    run, other = begun(tmp_path / "run"), begun(tmp_path / "other")
    target = other / name
    (target / ".last.7.draft").touch()
    if what != "another run's":
        (target / "run_id").unlink()
        (target / "thesis.txt").write_text("years of work")
    shutil.move(run / name, tmp_path / "mine")
    if what == "a link to this run's number":
        (target / "run_id").symlink_to(tmp_path / "mine" / "run_id")
    (run / name).symlink_to(target)
    before = everything(tmp_path)
    with pytest.raises(
        RunDirectoryError, match=f"{name} is a link to .*{name}, outside .* no run_id of this run"
    ):
        RunDirectory.resume(run)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    ["results.json", "weights.safetensors", ".lock", "events.jsonl", "model.json", "table.csv", "winner.py"],
)
@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_written_outside_through_a_link(tmp_path: Path, name: str, *, there: bool) -> None:
    """Nor made: a start-up file that isn't there yet, as little as one that is."""
    run, outside = begun(tmp_path / "run"), tmp_path / "precious"
    if there:
        outside.write_text("one line\n")
    if not there and name == "events.jsonl":
        return
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    before = everything(tmp_path)
    with pytest.raises(
        RunDirectoryError, match=f"{name} is a link to .*precious, outside of the run directory"
    ):
        RunDirectory.resume(run)
    assert everything(tmp_path) == before


def test_links_that_a_run_never_writes_through_are_left_alone(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    (tmp_path / "data.csv").write_text("a,y\n")
    (tmp_path / "notes").mkdir()
    for name in ("data.csv", "notes", "gone.txt"):
        (run / name).symlink_to(tmp_path / name)
    # within the directory anything may be a link
    (run / "results.json").symlink_to(run / "config.toml")
    saved = next((run / "checkpoints").glob("*.pt"))
    shutil.move(saved, tmp_path / saved.name)
    saved.symlink_to(tmp_path / saved.name)
    with RunDirectory.resume(run) as taken:
        assert taken.load_checkpoint("last") == {"step": 1}
    assert (tmp_path / saved.name).exists()


@pytest.mark.parametrize("inner", ["checkpoints/last.000002.shards", "members/1"])
def test_folders_in_its_folders_may_not_lead_elsewhere(tmp_path: Path, inner: str) -> None:
    run = begun(tmp_path / "run")
    (run / inner).symlink_to(begun(tmp_path / "other"))
    with pytest.raises(RunDirectoryError, match="in which would be written; put a copy in its place, or let"):
        RunDirectory.resume(run)


def test_a_disk_that_is_not_mounted_is_said(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    moved(run, "checkpoints", tmp_path / "disk")
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    with pytest.raises(RunDirectoryError, match="disk, which is no folder; let it lead to one"):
        RunDirectory.resume(run)
