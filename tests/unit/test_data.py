"""The data stage against scikit-learn's own split and scaler."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from kd_ray import data
from kd_ray.config import Config
from kd_ray.data import generated
from kd_ray.errors import DataError
from kd_ray.rundir import RunDir
from kd_ray.session import Session
from kd_ray.tables import Dataset

OPTIONS = {"n_samples": 300, "n_features": 8, "n_informative": 5, "n_redundant": 1, "n_classes": 3, "random_state": 4}


def prepared(folder: Path, split: dict[str, Any], **options: Any) -> Dataset:
    config = Config.of({"data": {"options": {**OPTIONS, **options}, "split": split}})
    run = RunDir.at(str(folder), "trial")
    data.prepare(config, run, Session(), lambda done, total, note: None, "fingerprint")
    return Dataset.open(run)


def test_split_and_scale_are_scikit_learns(tmp_path: Path) -> None:
    found = prepared(tmp_path, {"test": 0.2, "seed": 42})
    features, labels = make_classification(**OPTIONS)
    train, test = train_test_split(np.arange(300), test_size=0.2, random_state=42)
    scaler = StandardScaler().fit(features[train])
    for name, ids in (("train", train), ("test", test)):
        rows, ids = found.rows(name), np.sort(ids)
        assert rows.row_id_N.tolist() == ids.tolist()
        np.testing.assert_allclose(rows.features_ND, scaler.transform(features[ids]), atol=1e-5)
        assert rows.label_N.tolist() == labels[ids].tolist()
    kept = load_file(found.run.path("data/preprocess.safetensors"))
    np.testing.assert_allclose(kept["scaling"], np.column_stack([scaler.mean_, scaler.mean_, scaler.scale_]))
    sample_ND = np.column_stack(found.sample().columns)
    np.testing.assert_array_equal(found.preprocessor.apply(found.sample()), scaler.transform(sample_ND).astype("f4"))


def test_the_default_rows_are_what_they_were_before_other_sources_came(tmp_path: Path) -> None:
    run = RunDir.at(str(tmp_path), "trial")
    data.prepare(Config(), run, Session(), lambda done, total, note: None, "fingerprint")
    found = Dataset.open(run)
    digests = [hashlib.sha256(found.rows(name).features_ND.tobytes()).hexdigest()[:16] for name in ("train", "test")]
    assert digests == ["0453228147b5f28a", "42917c1845335c8a"]


def test_stratified_splits_are_scikit_learns(tmp_path: Path) -> None:
    found = prepared(tmp_path, {"test": 0.2, "stratify": True})
    _, labels = make_classification(**OPTIONS)
    _, test = train_test_split(np.arange(300), test_size=0.2, random_state=42, stratify=labels)
    assert found.rows("test").row_id_N.tolist() == sorted(test)


def test_validation_rows_come_out_of_the_training_rows(tmp_path: Path) -> None:
    without = prepared(tmp_path / "a", {"test": 0.2}).rows("train").row_id_N
    found = prepared(tmp_path / "b", {"test": 0.2, "valid": 0.25})
    train, valid = found.rows("train").row_id_N, found.rows("valid").row_id_N
    assert sorted([*train, *valid]) == sorted(without)
    assert len(valid) == 60


def test_a_split_may_be_a_number_of_rows(tmp_path: Path) -> None:
    found = prepared(tmp_path, {"test": 50, "valid": 30})
    assert found.schema["rows"] == {"train": 220, "valid": 30, "test": 50}


def test_a_table_larger_than_a_file_is_written_as_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "ROWS_PER_FILE", 100)
    found = prepared(tmp_path, {"test": 50})
    assert [record.rows for record in found.files("train")] == [100, 100, 50]
    assert len(found.rows("train").row_id_N) == 250


def test_a_constant_column_is_centred_and_not_scaled() -> None:
    mean_D, scale_D = generated.fit_scaler(np.array([[1.0, 7.1], [3.0, 7.1], [5.0, 7.1]]))
    assert mean_D.tolist() == pytest.approx([3.0, 7.1])
    assert scale_D.tolist() == pytest.approx([np.std([1, 3, 5]), 1.0])


@pytest.mark.parametrize(
    ("split", "options", "says"),
    [
        ({}, {"n_classes": 1, "n_clusters_per_class": 1}, "must have at least 2 classes; data.options.n_classes is 1"),
        ({}, {"n_informative": 90}, "data.options: make_classification refuses them"),
        ({"test": 300}, {}, "data.split.test: must leave rows to train on; it takes 300 of 300 rows"),
        ({"test": 290, "valid": 10}, {}, "data.split.valid: must leave rows to train on"),
        ({"test": 2}, {}, "the test split must have at least as many rows as classes; 2 rows, 3 classes"),
        ({"test": 298}, {}, "the train split must have at least as many rows as classes"),
        ({"test": 4, "seed": 7}, {"n_classes": 4}, "the test split must have rows of every class; class "),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(tmp_path: Path, split: dict, options: dict, says: str) -> None:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, split, **options)
    assert says in str(caught.value)
    assert not (tmp_path / "trial/data/manifest.json").exists()
