"""The labelling is killed, its workers die or hang: each row is labelled once, and as if nothing had happened."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset
import pytest

from kd_ray import Config, soft_targets
from kd_ray.errors import LabellingError
from kd_ray.rundir import RunDir
from kd_ray.session import Session

pytestmark = pytest.mark.ray

FILES = 33
WORKER = "Labeller"


def content(run: RunDir) -> dict[str, Any]:
    folder = pyarrow.dataset.dataset(f"{run}/soft_targets", exclude_invalid_files=True)
    return folder.to_table().sort_by("row_id").to_pydict()


Labelled = tuple[Config, RunDir]


@pytest.fixture
def run(labelled: Labelled, tmp_path: Path) -> RunDir:
    """A run with data and teachers, and no soft targets."""
    shutil.copytree(str(labelled[1]), tmp_path / "small", ignore=shutil.ignore_patterns("soft_targets"))
    return RunDir.at(str(tmp_path), "small")


@pytest.fixture
def label(labelled: Labelled, run: RunDir) -> Callable[..., dict[str, Any]]:
    def do(**how: Any) -> dict[str, Any]:
        values = labelled[0].model_dump()
        values["soft_targets"] |= {"rows_per_file": 40, **how}
        with Session() as session:
            return soft_targets.label(Config.of(values), run, session, lambda done, total, note: None, "x")

    return do


def at_first_worker(act: Callable[[psutil.Process], None]) -> threading.Thread:
    """Do something to the first worker that shows, in a thread."""

    def wait() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for process in psutil.process_iter(["cmdline"]):
                if WORKER in " ".join(process.info["cmdline"] or []):
                    act(process)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_killed_labelling_is_taken_up_and_each_row_is_labelled_once(
    label: Callable[..., Any], labelled: Labelled, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, taken = soft_targets._label_all, 5

    def cut_short(*args: Any, **how: Any) -> Any:
        for number, record in enumerate(whole(*args, **how)):
            if number == taken:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(soft_targets, "_label_all", cut_short)
    with pytest.raises(KeyboardInterrupt):
        label()
    kept = [Path(run.path(entry["record"]["path"])) for entry in run.read_json("soft_targets/progress.json")["files"]]
    assert len(kept) == taken
    written = [path.stat().st_mtime_ns for path in kept]

    asked: list[int] = []

    def watched(plan: list[Any], *args: Any, **how: Any) -> Any:
        asked.append(len(plan))
        return whole(plan, *args, **how)

    monkeypatch.setattr(soft_targets, "_label_all", watched)
    assert label()["rows"] == 1299
    assert asked == [FILES - taken]
    assert [path.stat().st_mtime_ns for path in kept] == written
    assert content(run) == content(labelled[1])
    assert not run.exists("soft_targets/progress.json")


def test_a_labelling_cut_by_hand_of_the_slots_goes_on_as_it_was_cut_on_other_slots(
    label: Callable[..., Any], run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: Any, **how: Any) -> Any:
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as patched:
        patched.setattr(soft_targets, "_label_all", stopped)
        with pytest.raises(KeyboardInterrupt):
            label(rows_per_file="auto")
    assert run.read_json("soft_targets/progress.json")["rows_per_file"] == 325
    monkeypatch.setattr(Session, "slots", lambda *args, **how: 1)
    label(rows_per_file="auto")
    rows = [record["rows"] for record in run.read_json("soft_targets/manifest.json")["files"]]
    assert rows == [325, 325, 325, 324]


def test_other_teachers_weights_label_everything_anew(
    label: Callable[..., Any], run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = soft_targets._label_all

    def first_only(*args: Any, **how: Any) -> Any:
        yield next(iter(whole(*args, **how)))
        raise KeyboardInterrupt

    monkeypatch.setattr(soft_targets, "_label_all", first_only)
    with pytest.raises(KeyboardInterrupt):
        label()
    manifest = run.read_json("teachers/manifest.json")
    manifest["files"][0]["sha256"] = "0" * 64
    run.write_json("teachers/manifest.json", manifest)
    asked: list[int] = []

    def watched(plan: list[Any], *args: Any, **how: Any) -> Any:
        asked.append(len(plan))
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(soft_targets, "_label_all", watched)
    with pytest.raises(KeyboardInterrupt):
        label()
    assert asked == [FILES]


def test_a_worker_that_hangs_is_left_behind_after_the_deadline(
    label: Callable[..., Any], labelled: Labelled, run: RunDir
) -> None:
    stopped: list[psutil.Process] = []

    def stop(process: psutil.Process) -> None:
        process.suspend()
        stopped.append(process)

    thread = at_first_worker(stop)
    try:
        label(deadline_seconds=20.0)
        thread.join()
        assert stopped
        assert content(run) == content(labelled[1])
    finally:
        for process in stopped:
            if process.is_running():
                process.kill()


def test_a_worker_that_is_killed_is_replaced(label: Callable[..., Any], labelled: Labelled, run: RunDir) -> None:
    killed: list[int] = []

    def kill(process: psutil.Process) -> None:
        process.kill()
        killed.append(process.pid)

    thread = at_first_worker(kill)
    label()
    thread.join()
    assert killed
    assert content(run) == content(labelled[1])


def test_files_whose_workers_keep_dying_are_named(label: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*args: Any, **how: Any) -> Any:
        raise soft_targets._LostError("the worker died")
        yield

    monkeypatch.setattr(soft_targets, "_label_all", lost)
    with pytest.raises(LabellingError, match=r"33 of 33 files .*\(0, .*9, \.\.\.\).* 3 times in a row, .*worker died"):
        label()
