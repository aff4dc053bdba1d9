"""A run that somebody sent: nothing in it leads out of it, runs code, or takes memory that it does not need."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_run import classification, config_of, made_run
from safetensors.torch import save

from kd_ray import Config, deployed, estimators, tables, tensors
from kd_ray.commits import MAX_JSON_BYTES, FileRecord, Manifest
from kd_ray.ensemble import load_ensemble, spec_of
from kd_ray.errors import ConfigError, ManifestError
from kd_ray.rundir import RunDir
from kd_ray.tables import Dataset

SECRET = "s3cr3t/Key"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return made_run(tmp_path, task=classification("no", "yes"))


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil-ran",)


def disguised(run: RunDir, path: str) -> FileRecord:
    """Put a pickle where `path` is, with a record that believes it."""
    return run.write_bytes(path, pickle.dumps(Evil()))


def test_a_pickle_in_any_disguise_is_refused_by_what_it_holds(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_of(config_of(run).teachers.model, Dataset.open(run))
    problem = estimators.Problem(n_outputs=2, is_regression=False, levels_D=[0], threads=1, clip=1e-6)
    content = pickle.dumps(Evil())
    with pytest.raises(ManifestError, match="is no safetensors file"):
        tensors.read_weights(run, disguised(run, "teachers/0000/model.safetensors"), spec)
    with pytest.raises(ManifestError, match="is not readable Parquet"):
        tables.read(run, disguised(run, "data/test/00000.parquet"))
    for kind in estimators.KINDS:
        with pytest.raises(ManifestError, match=f"cannot be read as {kind}'s"):
            estimators.load(kind, content, problem, "teacher 0")
    with pytest.raises(ManifestError, match="onnxruntime cannot read it"):
        deployed.student_of(content, {"task": {"kind": "classification"}, "columns": []})
    assert not Path("evil-ran").exists()


def test_a_scikit_learn_model_may_name_types_of_trusted_packages_and_no_function() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    problem = estimators.Problem(n_outputs=2, is_regression=False, levels_D=[0], threads=1, clip=1e-6)
    x_ND, label_N = np.arange(8.0)[:, None], np.arange(8) % 2
    plain = LogisticRegression().fit(x_ND, label_N)
    says = estimators.load("sklearn", estimators.save("sklearn", plain), problem, "teacher 0")
    np.testing.assert_allclose(says(x_ND), plain.predict_proba(x_ND))
    sly = make_pipeline(FunctionTransformer(np.loadtxt), LogisticRegression())  # trusted by its name alone
    with pytest.raises(ManifestError, match=r"names types that are not trusted: numpy\S*loadtxt"):
        estimators.load("sklearn", estimators.save("sklearn", sly), problem, "teacher 0")


def test_a_skops_file_cannot_bring_its_own_list_of_trusted_types() -> None:
    from sklearn.preprocessing import FunctionTransformer

    content = io.BytesIO(estimators.save("sklearn", FunctionTransformer(os.getcwd)))
    with zipfile.ZipFile(content, "a") as file:
        file.writestr("trusted.json", json.dumps(["posix.getcwd", "os.getcwd"]))
    problem = estimators.Problem(n_outputs=2, is_regression=False, levels_D=[0], threads=1, clip=1e-6)
    with pytest.raises(ManifestError, match=r"not trusted: \w+\.getcwd"):
        estimators.load("sklearn", content.getvalue(), problem, "teacher 0")


@pytest.mark.parametrize("wrong", ["shape", "absent", "more"])
def test_weights_that_are_not_the_models_are_refused_by_name(run: RunDir, wrong: str) -> None:
    config = config_of(run)
    weights = tensors.read(run, FileRecord(**record_of(run, "teachers/0000/model.safetensors")))
    name = sorted(weights)[0]
    if wrong == "shape":
        weights[name] = torch.zeros(1)  # would be spread over all units
    elif wrong == "absent":
        del weights[name]
    else:
        weights[f"{name}.more"] = torch.zeros(1)
    record = run.write_bytes("teachers/0000/model.safetensors", save(weights))
    for manifest in ("teachers/0000/teacher.json", "teachers/manifest.json"):
        recommit(run, manifest, record)
    with pytest.raises(ManifestError, match=rf"0000/model.safetensors: must hold the weights .*{name}\S* must be "):
        load_ensemble(run, config.teachers, config.seed)


def test_a_header_that_lies_about_a_tensor_is_found_before_memory_is_taken(run: RunDir) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    record = run.write_bytes("x.safetensors", len(header).to_bytes(8, "little") + header + b"\0" * 16)
    with pytest.raises(ManifestError, match="is no safetensors file"):
        tensors.read(run, record)
    record = run.write_bytes("x.safetensors", (1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ManifestError, match="is no safetensors file"):
        tensors.read(run, record)


def test_a_little_parquet_that_stands_for_more_than_memory_is_refused_unread(run: RunDir) -> None:
    rows, width = 1 << 20, 1 << 20  # 4 TiB of float32 in a file of a few bytes
    kind = pa.list_(pa.float32(), width)
    small = pa.table({"features": pa.array([None], kind)})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, small.schema) as writer:
        for _ in range(3):
            writer.write_table(small)
    record = run.write_bytes("data/test/00000.parquet", sink.getvalue())
    file = pq.ParquetFile(io.BytesIO(sink.getvalue()))
    many = dataclasses.make_dataclass("Many", ["metadata", "schema_arrow"])(
        dataclasses.make_dataclass("Meta", ["num_rows"])(rows), file.schema_arrow
    )
    with pytest.raises(ManifestError, match=r"1,048,576 rows need 4,398,046,511,104 bytes, more memory than is free"):
        tables._check(run, record, many, None)


def test_a_file_of_another_size_is_refused_before_it_is_read(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    record = dataclasses.replace(FileRecord(**record_of(run, "evaluation.json")), bytes=3)
    monkeypatch.setattr(RunDir, "read_bytes", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ManifestError, match="must have 3 bytes"):
        run.read_checked(record)
    with open(run.path("big.bin"), "wb") as stream:
        stream.truncate(1 << 43)
    with pytest.raises(ManifestError, match="do not fit in the free memory"):
        run.read_checked(FileRecord(path="big.bin", bytes=1 << 43, sha256="0" * 64))


def test_a_manifest_larger_than_any_of_ours_is_refused_before_it_is_read(run: RunDir) -> None:
    with open(run.path("data/manifest.json"), "wb") as stream:
        stream.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(ManifestError, match=r"data/manifest.json: must have at most 64 MiB"):
        run.manifest("data/manifest.json")


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_symbolic_link_out_of_the_run_is_refused_and_one_within_is_not(
    run: RunDir, tmp_path: Path, where: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.json").write_text("{}")
    if where == "file":
        os.symlink(outside / "a.json", run.path("a.json"))
    else:
        os.symlink(outside, run.path("there"))
    link = "a.json" if where == "file" else "there/a.json"
    for act in (run.read_bytes, run.size, run.exists, run.remove, lambda path: run.write_bytes(path, b"x")):
        with pytest.raises(ManifestError, match=r"must lie inside the run; a symbolic link leads to .*outside"):
            act(link)
    assert (outside / "a.json").read_text() == "{}"
    os.symlink("evaluation.json", run.path("within.json"))
    assert run.read_bytes("within.json") == run.read_bytes("evaluation.json")


def test_a_run_that_is_itself_reached_by_a_link_is_a_run(run: RunDir, tmp_path: Path) -> None:
    os.symlink(run.root, tmp_path / "linked")
    assert RunDir.at(str(tmp_path), "linked").read_json("evaluation.json")


@pytest.mark.parametrize("file", ["../../x.onnx", "/etc/passwd", "sub/x.onnx"])
def test_a_bundle_names_no_file_outside_its_folder(tmp_path: Path, file: str) -> None:
    entry = {"name": "student", "file": file, "bytes": 1, "sha256": "0"}
    (tmp_path / "bundle.json").write_text(json.dumps({"format": deployed.FORMAT, "variants": [entry]}))
    with pytest.raises(ManifestError, match="must lie in"):
        deployed.load_student(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../x"},
        {"path": "/etc/passwd"},
        {"path": "a//b"},
        {"path": "a\ud800"},
        {"path": 7},
        {"bytes": -1},
        {"bytes": True},
        {"bytes": "5"},
        {"sha256": "0"},
        {"rows": 1.5},
        {"more": 1},
    ],
    ids=str,
)
def test_a_record_that_is_none_makes_no_manifest(run: RunDir, change: dict[str, Any]) -> None:
    record = {"path": "a", "bytes": 1, "sha256": "0" * 64, "rows": None} | change
    content = json.dumps({"format": 3, "fingerprint": "f", "files": [record], "summary": {}}).encode()
    with pytest.raises(ManifestError, match=r"m.json: is not a manifest.*; delete it and run again"):
        Manifest.of(content, "m.json")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"1", b"null", b'{"format": 3}', b'"x"'])
def test_json_of_any_kind_is_no_manifest(content: bytes) -> None:
    with pytest.raises(ManifestError, match=r"m.json: is not"):
        Manifest.of(content, "m.json")


def test_every_single_flipped_bit_of_a_manifest_is_found() -> None:
    record = FileRecord(path="a/b.bin", bytes=12, sha256="0" * 64, rows=3)
    whole = Manifest(fingerprint="f", files=[record], summary={"weights": [0.5, 1e-7], "name": "ü"})
    content = whole.to_json()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(ManifestError):
            assert Manifest.of(bytes(damaged), "m.json") == whole  # a flip in what means nothing, as the seal's name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("storage", f"s3://AKIA:{SECRET}@bucket/runs"),
        ("storage", f"s3://AKIA:{SECRET}@bucket"),
        ("storage", f"s3://bucket/runs?secret_key={SECRET}&region=x"),
        ("data.source", f"s3://AKIA:{SECRET}@bucket/rows.csv"),
        ("data.unlabelled", f"https://user:{SECRET}@host/rows.csv"),
    ],
)
def test_credentials_in_a_path_are_refused_and_not_repeated(key: str, value: str) -> None:
    section, _, leaf = key.rpartition(".")
    values = {section: {leaf: value}} if section else {leaf: value}
    with pytest.raises(ConfigError, match=f"{key}: must hold no credentials") as caught:
        Config.of(values)
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match="seed: must be") as caught:
        Config.of({"seed": value})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["s3://bucket/a@b", "s3://bucket/x?region=eu-west-1", "abfs://box@name.dfs.core.windows.net/x"]
)
def test_a_path_without_credentials_may_hold_an_at_sign_and_a_query(uri: str) -> None:
    assert Config.of({"storage": uri}).storage == uri


def record_of(run: RunDir, path: str) -> dict[str, Any]:
    content = run.read_bytes(path)
    return {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def recommit(run: RunDir, path: str, record: FileRecord) -> None:
    manifest = run.manifest(path)
    assert manifest is not None
    run.remove(path)
    run.commit(path, dataclasses.replace(manifest, files=[record]))
