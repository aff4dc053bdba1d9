"""What stages promise: the same members everywhere, faults survived, damage refused, finished work kept."""

import dataclasses
import hashlib
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset
import pytest
from safetensors.torch import load_file

from kd_ray import Result, keeping
from kd_ray.errors import DivergedError, ResourceError
from kd_ray.rundir import RunDir
from kd_ray.session import Session

pytestmark = pytest.mark.ray

Do = Callable[..., Result]


def members(result: Result) -> list[str]:
    files = sorted(Path(result.path).glob("teachers/*/model.safetensors"))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@pytest.mark.parametrize(
    "placement",
    [
        {"resources": {"cpus": 0.5, "actors": 1}},
        {"resources": {"cpus": 0.5, "actors": 4}},
        {"pack_size": 1},
        {"pack_size": 3},
    ],
    ids=str,
)
def test_members_are_the_same_bit_for_bit_wherever_they_train(do: Do, small: Result, tmp_path: Path, placement) -> None:
    other = do(tmp_path, teachers=placement, student={"epochs": 1})
    assert members(other) == members(small)


def test_a_larger_ensemble_trains_only_what_it_adds(do: Do, small: Result, tmp_path: Path) -> None:
    first = do(tmp_path, teachers={"count": 2}, student={"epochs": 1})
    written = [path.stat().st_mtime_ns for path in sorted(Path(first.path).glob("teachers/*/teacher.json"))]
    larger = do(tmp_path, student={"epochs": 1})
    kept = [path.stat().st_mtime_ns for path in sorted(Path(first.path).glob("teachers/*/teacher.json"))[:2]]
    assert kept == written
    assert members(larger) == members(small)


def test_a_finished_run_is_not_done_again_and_asks_for_no_ray(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = do(tmp_path)
    written = {path: path.stat().st_mtime_ns for path in Path(first.path).rglob("*.parquet")}
    monkeypatch.setattr(Session, "ready", lambda self: pytest.fail("Ray was asked for"))
    again = do(tmp_path)
    assert again.evaluation == first.evaluation
    assert written == {path: path.stat().st_mtime_ns for path in Path(first.path).rglob("*.parquet")}


def test_a_changed_student_is_distilled_again_from_the_soft_targets_that_are_there(do: Do, tmp_path: Path) -> None:
    first = do(tmp_path)
    labelled = Path(first.path, "soft_targets/manifest.json").stat().st_mtime_ns
    second = do(tmp_path, student={"temperature": 1.0})
    assert Path(first.path, "soft_targets/manifest.json").stat().st_mtime_ns == labelled
    assert second.evaluation["metrics"]["student"] != first.evaluation["metrics"]["student"]
    assert second.evaluation["metrics"]["baseline"] == first.evaluation["metrics"]["baseline"]


def test_a_dead_actors_members_are_trained_by_another(do: Do, small: Result, tmp_path: Path) -> None:
    long = {"epochs": 1500, "resources": {"cpus": 1, "actors": 2}}
    quiet = do(tmp_path / "quiet", teachers=long, student={"epochs": 1})
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for process in psutil.process_iter(["name", "cmdline"]):
                if "TeacherActor.train" in " ".join(process.info["cmdline"] or []):
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    disturbed = do(tmp_path / "disturbed", teachers=long, student={"epochs": 1})
    killer.join()
    assert killed
    assert members(disturbed) == members(quiet)


def test_a_member_that_diverges_is_named_and_nothing_of_it_counts_as_finished(do: Do, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"teacher \d: diverged in epoch 1: .* lower the learning rate"):
        do(tmp_path, teachers={"learning_rate": 1e6})
    assert not list(tmp_path.glob("small/teachers/*/teacher.json"))
    assert not (tmp_path / "small/teachers/manifest.json").exists()


def test_a_student_that_diverges_is_named_and_the_teachers_are_kept(do: Do, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"student \(replica 0\): diverged in epoch 1"):
        do(tmp_path, student={"learning_rate": 1e6})
    assert (tmp_path / "small/teachers/manifest.json").exists()
    assert not (tmp_path / "small/student").exists()


def test_rows_do_not_depend_on_how_they_are_sharded(do: Do, small: Result, tmp_path: Path) -> None:
    def content(result: Result) -> dict:
        folder = pyarrow.dataset.dataset(f"{result.path}/soft_targets", exclude_invalid_files=True)
        return folder.to_table().sort_by("row_id").to_pydict()

    other = do(tmp_path, soft_targets={"rows_per_file": 100}, student={"epochs": 1})
    assert len(list(Path(other.path).glob("soft_targets/*.parquet"))) == 13
    assert content(other) == content(small)


@pytest.mark.parametrize("kind", ["none", "mixup", "swap"])
def test_every_kind_of_transfer_set_goes_through(do: Do, tmp_path: Path, kind: str) -> None:
    result = do(tmp_path, soft_targets={"transfer": {"kind": kind}}, student={"epochs": 1})
    assert result.evaluation["rows"]["transfer"] == 433 * (1 if kind == "none" else 3)
    assert ("augmented_control" in result.evaluation["metrics"]) == (kind != "none")


def test_averaging_probabilities_needs_and_uses_the_members_word(do: Do, tmp_path: Path) -> None:
    result = do(tmp_path, student={"averaging": "probabilities"})
    logits = do(tmp_path, student={"averaging": "logits"})
    assert result.evaluation["metrics"]["ensemble"]["nll"] != logits.evaluation["metrics"]["ensemble"]["nll"]


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "rows"])
def test_soft_targets_that_are_not_what_their_manifest_says_are_made_anew(
    do: Do, small: Result, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(Path(small.path), tmp_path / "small")
    first = dataclasses.replace(small, path=str(tmp_path / "small"))
    shard = next(Path(first.path).glob("soft_targets/*.parquet"))
    content = bytearray(shard.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif damage == "rows":
        manifest = Path(first.path, "soft_targets/manifest.json")
        manifest.write_text(manifest.read_text().replace('"rows": 1299', '"rows": 1300'))
    elif damage == "short":
        shard.write_bytes(content[:-1])
    else:
        shard.unlink()
    kept = Path(first.path, "report.manifest.json")
    kept.unlink()
    again = do(tmp_path)
    assert again.evaluation == first.evaluation
    assert keeping.verify(RunDir.at(str(tmp_path), "small"))["wrong"] == []


def test_two_workers_distill_the_student_that_one_process_does(do: Do, small: Result, tmp_path: Path) -> None:
    together = do(tmp_path, student={"workers": 2})
    for role in ("student", "baseline", "augmented_control"):
        one = load_file(f"{small.path}/{role}/replicas.safetensors")
        two = load_file(f"{together.path}/{role}/replicas.safetensors")
        for name, value in one.items():
            np.testing.assert_allclose(two[name], value, atol=1e-4, err_msg=f"{role} {name}")
    assert not Path(together.path, "ray_train").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"teachers": {"resources": {"gpus": 1}}}, r"teachers: asks for 1 x 1 CPU and 1 GPU, the cluster has 1 node"),
        ({"teachers": {"resources": {"cpus": 64}}}, r"teachers: asks for 1 x 64 CPU"),
        ({"student": {"workers": 50}}, r"student: asks for 50 x 1 CPU"),
    ],
)
def test_an_impossible_request_is_refused_with_what_there_is(do: Do, tmp_path: Path, changes: dict, says: str) -> None:
    with pytest.raises(ResourceError, match=says):
        do(tmp_path, **changes)
