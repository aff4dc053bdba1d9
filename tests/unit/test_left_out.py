"""Members that fail: the rest of their pack goes on, and the ensemble is exactly what is left."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_run import classification, config_of, made_run

from kd_ray import evaluate, teachers
from kd_ray.ensemble import finished_members, load_ensemble, trained
from kd_ray.fingerprints import fingerprints
from kd_ray.groups import members
from kd_ray.packing import PackedMLP
from kd_ray.rundir import Manifest, RunDir
from kd_ray.tables import TEACHERS_MANIFEST, Dataset, Rows
from kd_ray.teachers.actor import TeacherActor, Work
from kd_ray.wording import left_out

ROWS = 50


def without(run: RunDir, number: int) -> None:
    """What the teachers stage leaves of a run in which a member failed and was let go."""
    manifest = run.manifest(TEACHERS_MANIFEST)
    assert manifest
    folder = f"teachers/{number:04d}"
    files = [record for record in manifest.files if not record.path.startswith(folder)]
    summary = {"failed": [{"seed": number, "reason": "teacher 1: diverged"}]}
    run.remove(folder)
    run.write_bytes(TEACHERS_MANIFEST, Manifest(fingerprint="t", files=files, summary=summary).to_json())


def test_the_ensemble_is_what_is_left_and_says_who_is_not(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=classification("a", "b"))
    config, x_ND = config_of(run), torch.randn(7, 4)
    whole_MNC = load_ensemble(run, config.teachers, 42).logits(x_ND)
    without(run, 1)
    assert [member.number for member in trained(run, config.teachers)] == [0, 2]
    assert torch.allclose(load_ensemble(run, config.teachers, 42).logits(x_ND), whole_MNC[[0, 2]])
    result = evaluate.measure(config, run, None, lambda done, total, note: None, "e")  # type: ignore[arg-type]
    assert [teacher["seed"] for teacher in result["teachers"]] == [0, 2]
    assert result["parameters"]["ensemble"] == 2 * result["parameters"]["teacher"]
    assert left_out(result) == "1 of 3 teachers failed and were left out: 1"


def test_folds_go_by_a_members_number_not_by_its_place(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=classification("a", "b"))
    config = config_of(run, teachers={"count": 3, "folds": 3, "model": {"hidden": [8], "dropout": []}})
    without(run, 1)
    ensemble = load_ensemble(run, config.teachers, 42)
    ids = np.arange(200)
    logits_MNC = ensemble.logits(torch.randn(200, 4))
    mean_NC = ensemble.mean(logits_MNC, ids, learned_N=np.ones(200, bool), have_words=True).numpy()
    from kd_ray.groups import saw

    for row in range(200):
        says = [
            logits_MNC[place, row].numpy()
            for place, number in enumerate((0, 2))
            if not saw(number, ids[row : row + 1], config.teachers, 42)[0]
        ]
        if says:
            assert np.allclose(mean_NC[row], np.mean(says, 0), atol=1e-6)


@pytest.mark.parametrize(("allowed", "finished"), [(0, False), (1, True), (2, True)])
def test_a_failure_is_not_tried_again_where_it_is_allowed(tmp_path: Path, allowed: int, finished: bool) -> None:
    config = config_of(RunDir.at(str(tmp_path), "x"))
    shared = fingerprints(config)["teachers"]
    wanted = config.teachers.model_copy(update={"allow_failures": allowed})
    summary = {
        "fingerprints": [member.fingerprint(shared) for member in members(wanted)],
        "failed": [{"seed": 1, "reason": "teacher 1: diverged"}],
        "weighed": ["equal", 1e-6],
    }
    found = Manifest(fingerprint=shared, files=[], summary=summary)
    assert teachers.are_those_of(wanted, found) == finished


@pytest.fixture
def actor(tmp_path: Path) -> TeacherActor:
    run = made_run(tmp_path, task=classification("a", "b"))
    wanted = config_of(run, teachers={"count": 3, "epochs": 3, "model": {"hidden": [8], "dropout": []}}).teachers
    rng = np.random.default_rng(0)
    rows = Rows(
        row_id_N=np.arange(ROWS),
        features_ND=rng.normal(size=(ROWS, 4)).astype(np.float32),
        label_N=rng.integers(0, 2, ROWS),
        weight_N=np.ones(ROWS, np.float32),
    )
    work = Work(
        data=Dataset.open(run),
        teachers=wanted,
        members=members(wanted),
        seed=42,
        fingerprint="new",
        threads=1,
        gpus=0.0,
        news_seconds=0.0,
    )
    return TeacherActor(work, (rows, rows.at(slice(0))))


def spoil(monkeypatch: pytest.MonkeyPatch, *places: int) -> None:
    whole = PackedMLP.load

    def load(self: PackedMLP, member: int, weights: dict[str, torch.Tensor]) -> None:
        if member in places:
            weights = {name: torch.full_like(value, torch.nan) for name, value in weights.items()}
        whole(self, member, weights)

    monkeypatch.setattr(PackedMLP, "load", load)


def weights(actor: TeacherActor, number: int) -> bytes:
    return actor.work.data.run.read_bytes(f"teachers/{number:04d}/model.safetensors")


def landed(news: list[dict[str, Any]]) -> list[int]:
    return [member["member"] for each in news for member in each.get("landed", [])]


def test_a_member_that_diverges_leaves_the_rest_of_its_pack_as_it_would_be(
    actor: TeacherActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert landed(list(actor.train([0, 1, 2]))) == [0, 1, 2]
    quiet = {number: weights(actor, number) for number in (0, 2)}
    spoil(monkeypatch, 1)
    news = list(actor.train([0, 1, 2]))
    failed = [one for each in news for one in each.get("failed", [])]
    assert [number for number, _ in failed] == [1]
    assert failed[0][1].startswith("teacher 1: diverged in epoch 1: ")
    assert landed(news) == [0, 2]
    assert {number: weights(actor, number) for number in (0, 2)} == quiet


def test_a_pack_of_which_all_diverge_ends_at_once(actor: TeacherActor, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 0, 1, 2)
    news = list(actor.train([0, 1, 2]))
    assert len(news) == 1
    assert [number for number, _ in news[0]["failed"]] == [0, 1, 2]


def test_only_whole_members_of_the_wanted_fingerprint_count_as_finished(actor: TeacherActor) -> None:
    run, every = actor.work.data.run, actor.work.members
    list(actor.train([0, 1, 2]))
    assert set(finished_members(run, every, "new")) == {0, 1, 2}
    assert finished_members(run, every, "other") == {}
    Path(run.path("teachers/0001/model.safetensors")).write_bytes(b"short")
    Path(run.path("teachers/0002/teacher.json")).write_text(json.dumps([]))
    assert set(finished_members(run, every, "new")) == {0}
    run.remove("teachers")
    assert finished_members(run, every, "new") == {}
