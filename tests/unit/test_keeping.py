"""What is wrong with a run, what was left in it, and why a stage would be run again."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import classification, made_run

from kd_ray import Config, keeping, tables
from kd_ray.errors import RunBusyError
from kd_ray.fingerprints import fingerprints
from kd_ray.finished import read_config
from kd_ray.groups import members
from kd_ray.keeping.reasons import attributed, changes
from kd_ray.pipeline import STAGES
from kd_ray.rundir import Manifest, RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return made_run(tmp_path, task=classification("no", "yes"))


def files(run: RunDir) -> list[str]:
    return [path for path in run.sizes("") if not path.startswith(".writer/")]


def flip(run: RunDir, path: str) -> None:
    content = bytearray(Path(run.path(path)).read_bytes())
    content[len(content) // 2] ^= 1
    Path(run.path(path)).write_bytes(content)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
@pytest.mark.parametrize(
    "path",
    [
        "config.yaml",
        "run.json",
        "data/schema.json",
        "data/test/00000.parquet",
        "data/manifest.json",
        "teachers/0001/model.safetensors",
        "teachers/0001/teacher.json",
        "student/metrics.json",
        "evaluation.json",
    ],
)
def test_damage_to_any_file_is_found_by_its_name(run: RunDir, path: str, damage: str) -> None:
    assert keeping.verify(run)["wrong"] == []
    if damage == "flip":
        flip(run, path)
    elif damage == "cut":
        os.truncate(run.path(path), (run.size(path) or 0) // 2)
    else:
        run.remove(path)
    wrong = keeping.verify(run)["wrong"]
    if (path, damage) in {("run.json", "gone"), ("teachers/0001/teacher.json", "gone")}:
        assert wrong == []  # what they say is gone with them, and no file is believed for it
    else:
        assert wrong
        assert all(f"{run}/{path}: " in line for line in wrong)


def test_all_damage_is_reported_at_once_and_each_line_says_what_must_hold(run: RunDir) -> None:
    flip(run, "student/model.safetensors")
    os.truncate(run.path("data/schema.json"), 7)
    run.remove("baseline/metrics.json")
    wrong = "\n".join(keeping.verify(run)["wrong"])
    assert "student/model.safetensors: is not what student/manifest.json says (sha256 " in wrong
    assert "bytes as data/manifest.json says; it has 7" in wrong
    assert "baseline/metrics.json: is missing, student/manifest.json names it" in wrong


def test_rows_that_a_manifest_miscounts_are_damage(run: RunDir) -> None:
    record = tables.write(run, "tune/packs/x/a.parquet", pa.table({"row_id": [1, 2, 3]}))
    wrong = Manifest(fingerprint="f", files=[dataclasses.replace(record, rows=4)], summary={})
    run.commit("tune/packs/x/manifest.json", wrong)
    assert keeping.verify(run)["wrong"] == [
        f"{run}/tune/packs/x/a.parquet: must hold 4 rows as tune/packs/x/manifest.json says; it holds 3"
    ]


def test_what_is_damaged_is_forgotten_only_where_that_is_asked_for(run: RunDir) -> None:
    flip(run, "teachers/0001/model.safetensors")
    assert keeping.verify(run)["forgotten"] == []
    assert run.exists("teachers/manifest.json")
    forgotten = ["teachers/0001/teacher.json", "teachers/manifest.json"]
    assert keeping.verify(run, forget=True)["forgotten"] == forgotten
    assert not any(run.exists(path) for path in forgotten)
    assert run.exists("teachers/0000/teacher.json")
    assert keeping.verify(run)["wrong"] == []


def test_clean_removes_what_no_manifest_names_and_nothing_else(run: RunDir) -> None:
    run.write_bytes("export/latency.json", b"{}")
    run.write_bytes("notes/mine.txt", b"keep")
    run.write_bytes("error.log", b"keep")
    before = files(run)
    left = [
        ".report.html.tmp",
        "data/train/00007.parquet",
        "evaluation.json.0123abcd.tmp",
        "ray_train/0123/snapshot.json",
        "soft_targets/00003.parquet",
        "teachers/0009/model.safetensors",
        "tune/packs/0-abc/students.safetensors",
    ]
    for path in left:
        run.write_bytes(path, b"left")
    found = [path for path in left if path != ".report.html.tmp"]  # no name of ours
    assert [one.path for one in keeping.clean(run, dry_run=True)] == found
    assert set(files(run)) == {*before, *left}
    assert [one.path for one in keeping.clean(run)] == found
    assert set(files(run)) == {*before, ".report.html.tmp"}
    assert not Path(run.path("teachers/0009")).exists()
    assert not Path(run.path("ray_train")).exists()
    assert Path(run.path("data/test")).exists()
    assert keeping.clean(run) == []


def test_where_a_manifest_cannot_be_read_no_stage_loses_a_file_to_clean(run: RunDir) -> None:
    run.write_bytes("data/train/00007.parquet", b"left")
    flip(run, "student/manifest.json")
    assert keeping.clean(run) == []
    assert run.exists("baseline/model.safetensors")


def test_clean_leaves_a_run_alone_that_is_written(run: RunDir) -> None:
    with run.writing():
        for dry_run in (True, False):
            with pytest.raises(RunBusyError, match="is being written by process"):
                keeping.clean(run, dry_run=dry_run)


def test_clean_follows_no_symbolic_link(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("keep")
    os.symlink(tmp_path / "mine", run.path("soft_targets") + "/link")
    assert keeping.clean(run) == []
    assert (tmp_path / "mine/file").read_text() == "keep"


KNOBS = {
    "data.split.test": ("data", 0.3),
    "seed": ("teachers", 7),
    "teachers.epochs": ("teachers", 9),
    "teachers.count": ("teachers", 24),
    "teachers.model.hidden": ("teachers", [8, 8, 8]),
    "teachers.weights": ("teachers", "greedy"),
    "teachers.pack_size": (None, 2),
    "soft_targets.transfer.factor": ("soft_targets", 3),
    "student.temperature": ("student", 2.0),
    "student.workers": (None, 2),
    "student.model.hidden": ("student", [4]),
    "export.int8": ("export", False),
    "name": (None, "other"),
    "tune.trials": (None, 3),
}


def changed(base: Config, key: str, value: Any) -> Config:
    values = base.model_dump()
    *parents, leaf = key.split(".")
    node = values
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    return Config.of(values)


@pytest.mark.parametrize("key", KNOBS)
def test_a_knob_that_differs_is_named_at_the_first_stage_that_depends_on_it(key: str) -> None:
    stage, value = KNOBS[key]
    old, new = Config(), changed(Config(), key, value)
    found = attributed(changes(old, new), old, new, keeping.functions_of)
    assert list(found) == ([stage] if stage else [])
    if stage:
        assert len(found[stage]) == 1
        assert found[stage][0].startswith(f"{key} was ")
        assert found[stage][0].endswith(f", is {value!r}")


def test_several_knobs_are_each_named_where_they_matter() -> None:
    old, new = Config(), Config()
    for key in ("export.int8", "teachers.count", "student.temperature"):
        new = changed(new, key, KNOBS[key][1])
    found = attributed(changes(old, new), old, new, keeping.functions_of)
    assert found == {
        "teachers": ["teachers.count was 12, is 24"],
        "student": ["student.temperature was 3.0, is 2.0"],
        "export": ["export.int8 was True, is False"],
    }


def committed(run: RunDir, config: Config) -> None:
    """Give the run every stage's manifest, as of `config`, without a file."""
    prints = fingerprints(config)
    wanted = config.teachers
    made = [member.fingerprint(prints["teachers"]) for member in members(wanted)]
    summary = {"fingerprints": made, "weighed": [wanted.weights, wanted.clip]}
    for stage in STAGES:
        run.remove(stage.manifest)
        run.commit(stage.manifest, Manifest(fingerprint=prints[stage.name], files=[], summary=summary))
    run.write_sealed("run.json", {"stages": {stage.name: {} for stage in STAGES}})


def states(found: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    return {one["stage"]: (one["state"], one["why"]) for one in found["stages"]}


def test_status_says_finished_or_why_not_stage_by_stage(run: RunDir) -> None:
    own = read_config(run)
    committed(run, own)
    assert all(state == ("finished", []) for state in states(keeping.status(run)).values())
    found = states(keeping.status(run, changed(own, "student.temperature", 2.0)))
    assert found["soft_targets"] == ("finished", [])
    assert found["student"] == ("again", ["student.temperature was 3.0, is 2.0"])
    assert found["report"] == ("again", ["it is made from export"])
    record = run.write_bytes("student/model.safetensors", b"abc")
    run.remove("student/manifest.json")
    prints = fingerprints(own)
    run.commit("student/manifest.json", Manifest(fingerprint=prints["student"], files=[record], summary={}))
    os.truncate(run.path("student/model.safetensors"), 2)
    run.remove("export/manifest.json")
    run.write_bytes("soft_targets/manifest.json", b"{")
    found = states(keeping.status(run))
    assert found["teachers"] == ("finished", [])
    assert found["soft_targets"][0] == "again"
    assert "soft_targets/manifest.json: is not JSON" in found["soft_targets"][1][0]
    assert "student/model.safetensors: must have 3 bytes" in found["student"][1][0]
    assert found["export"] == ("missing", ["it is made from evaluation"])


def test_a_stage_of_unknown_make_is_not_said_to_be_finished(run: RunDir) -> None:
    found = states(keeping.status(run))
    assert found["data"][0] == "again"
    assert "was made with another config, or by another version of kd-ray" in found["data"][1][0]


def test_status_names_who_writes_the_run_and_what_was_left(run: RunDir) -> None:
    run.write_bytes("data/train/00007.parquet", b"left")
    assert keeping.status(run)["leavings"] == [{"path": "data/train/00007.parquet", "bytes": 4}]
    assert keeping.status(run)["writer"] is None
    with run.writing():
        found = keeping.status(run)
        assert f"process {os.getpid()} on" in found["writer"]["owner"]
        assert found["leavings"] == []


def test_the_parquet_of_a_run_has_page_checksums_and_they_are_looked_at(run: RunDir) -> None:
    content = bytearray(Path(run.path("data/test/00000.parquet")).read_bytes())
    first = pq.ParquetFile(pa.BufferReader(bytes(content))).metadata.row_group(0).column(1)
    content[first.data_page_offset + first.total_compressed_size // 2] ^= 1
    record = run.write_bytes("data/test/00000.parquet", bytes(content), rows=60)  # a manifest that believes it
    with pytest.raises(Exception, match=r"00000.parquet: is not readable Parquet: .*(CRC|crc|checksum)"):
        tables.read(run, record)
