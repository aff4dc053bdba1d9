"""Who learns from which rows, and the pack's loss against a plain loop over rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from kd_ray import Config
from kd_ray.distillation import balanced, members_of, objective
from kd_ray.errors import ConfigError
from kd_ray.knobs import Student
from kd_ray.transfer_set import ORIGINS, TransferSet

# Three training rows, an unlabelled one, a synthesized row of each.
PARENT = np.array([0, 1, 2, 3, 0, 1, 2, 3])
ORIGIN = ["train"] * 3 + ["unlabelled"] + ["noise", "mixup"] * 2
CLASS = np.array([0, 1, 1, -1, -1, -1, -1, -1])
NUMBER = np.array([0.5, -1.0, 2.0, *[np.nan] * 5], np.float32)
WEIGHT = np.array([1.0, 2.0, 3.0, 0.5], np.float32)[PARENT]


def transfer(label_N: np.ndarray, outputs: int, weight_N: np.ndarray | None = None) -> TransferSet:
    rng = np.random.default_rng(0)
    return TransferSet(
        row_id_N=np.arange(8),
        features_ND=np.zeros((8, 1), np.float32),
        label_N=label_N,
        parent_label_N=label_N[PARENT],
        origin_N=np.array([ORIGINS.index(origin) for origin in ORIGIN]),
        log_prob_NMC=rng.normal(size=(8, 1, outputs)).astype(np.float32),
        weight_N=weight_N,
    )


def rows_by_role(config: Student, transfer_set: TransferSet) -> dict[str, list[int]]:
    return {member.role: member.rows_N.tolist() for member in members_of(config, transfer_set)}


@pytest.mark.parametrize("label_N", [CLASS, NUMBER], ids=["classes", "numbers"])
def test_rows_without_a_parents_label_are_for_the_student_alone(label_N: np.ndarray) -> None:
    assert rows_by_role(Student(), transfer(label_N, 1)) == {
        "student": [0, 1, 2, 3, 4, 5, 6, 7],
        "baseline": [0, 1, 2],
        "augmented_control": [0, 1, 2, 4, 5, 6],
    }


def test_a_student_of_labels_alone_sees_none_of_them_either() -> None:
    assert rows_by_role(Student(alpha=0.0), transfer(CLASS, 2))["student"] == [0, 1, 2, 4, 5, 6]


def test_unlabelled_rows_alone_make_no_augmented_control() -> None:
    whole = transfer(CLASS, 2)
    first = {name: getattr(whole, name)[:4] for name in vars(whole) if name != "weight_N"}
    assert rows_by_role(Student(), TransferSet(**first)) == {"student": [0, 1, 2, 3], "baseline": [0, 1, 2]}


def test_a_mix_leaves_kinds_of_rows_out_for_the_student_and_its_control() -> None:
    mix = {"noise": 0.0, "unlabelled": 0.0}
    assert rows_by_role(Student(mix=mix), transfer(CLASS, 2)) == {
        "student": [0, 1, 2, 5, 7],
        "baseline": [0, 1, 2],
        "augmented_control": [0, 1, 2, 5],
    }


def test_a_share_of_a_kind_is_that_share_of_its_rows_and_a_part_of_a_larger_share() -> None:
    rows = 20_000
    many = replace(
        transfer(CLASS, 2), row_id_N=np.arange(rows) * 977, origin_N=np.resize([0, ORIGINS.index("mixup")], rows)
    )
    some, more = (many.mixed({"mixup": share}) for share in (0.3, 0.8))
    assert some[::2].all()
    assert abs(some[1::2].mean() - 0.3) < 0.02
    assert abs(more[1::2].mean() - 0.8) < 0.02
    assert not (some & ~more).any()


def plain_loss(
    config: Student, role: str, outputs_BC: torch.Tensor, rows: list[int], transfer_set: TransferSet
) -> torch.Tensor:
    """One model's loss, row by row."""
    weights = torch.ones(8) if transfer_set.weight_N is None else torch.from_numpy(transfer_set.weight_N)
    total = torch.zeros(())
    for out_C, row in zip(outputs_BC, rows, strict=True):
        says_C = torch.from_numpy(transfer_set.log_prob_NMC[row, 0])
        label = transfer_set.parent_label_N[row]
        alpha = 0.0 if role != "student" else 1.0 if row > 2 else config.alpha
        if transfer_set.is_regression:
            distance = {"mse": torch.nn.MSELoss(), "huber": torch.nn.HuberLoss()}[config.loss]
            soft, hard = distance(out_C, says_C), distance(out_C, torch.tensor([label])) if alpha < 1 else 0.0
        else:
            t = config.temperature if role == "student" else 1.0
            log_prob_C, target_C = (out_C / t).log_softmax(0), (says_C / t).log_softmax(0)
            soft = t**2 * (target_C.exp() * (target_C - log_prob_C)).sum()
            hard = -out_C.log_softmax(0)[label] if alpha < 1 else 0.0
            if config.class_weights == "balanced":
                hard = hard * (0.75 if label == 1 else 1.5)  # 3 / (2 * rows of the class)
        total = total + weights[row] * (alpha * soft + (1 - alpha) * hard)
    return total / weights[rows].sum()


ROWS = {"student": [0, 3, 4, 7], "baseline": [1, 0, 2, 2], "augmented_control": [6, 0, 4, 2]}


@pytest.mark.parametrize("weight_N", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(
    ("label_N", "knobs"),
    [
        (CLASS, {}),
        (CLASS, {"class_weights": "balanced"}),
        (NUMBER, {"loss": "mse"}),
        (NUMBER, {"loss": "huber"}),
    ],
    ids=["classes", "balanced", "mse", "huber"],
)
def test_the_packs_loss_and_gradient_are_those_of_a_plain_loop_over_rows(
    label_N: np.ndarray, knobs: dict[str, Any], weight_N: np.ndarray | None
) -> None:
    config = Student(alpha=0.6, temperature=2.0, replicas=1, **knobs)
    outputs = 1 if label_N is NUMBER else 2
    given = transfer(label_N, outputs, weight_N)
    members = members_of(config, given)
    rows_KB = torch.tensor([ROWS[member.role] for member in members])
    out_CKB = torch.randn(outputs, 3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss_K, grad_CKB = objective(config, members, given, "cpu")(out_CKB.detach(), rows_KB, torch.full((3, 4), 0.25))
    expected = [
        plain_loss(config, member.role, out_CKB[:, k].T, ROWS[member.role], given) for k, member in enumerate(members)
    ]
    torch.stack(expected).sum().backward()
    torch.testing.assert_close(loss_K, torch.stack(expected).detach())
    torch.testing.assert_close(grad_CKB, out_CKB.grad)


def test_balanced_weights_are_scikit_learns_and_1_on_average() -> None:
    label_N = np.random.default_rng(0).choice(4, 500, p=[0.7, 0.2, 0.08, 0.02])
    weight_C = balanced(label_N, 4).numpy()
    expected = compute_class_weight("balanced", classes=np.arange(4), y=label_N)
    np.testing.assert_allclose(weight_C, expected, rtol=1e-6)
    assert weight_C[label_N].mean() == pytest.approx(1)


def test_classes_cannot_be_weighed_where_the_target_is_a_number() -> None:
    config, given = Student(class_weights="balanced"), transfer(NUMBER, 1)
    with pytest.raises(ConfigError, match=r"student.class_weights: must be none where the target is a number"):
        objective(config, members_of(config, given), given, "cpu")


def test_class_weights_in_a_config_that_says_regression_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"class_weights: must be none where data.task is regression; got balanced"):
        Config.of({"data": {"task": "regression"}, "student": {"class_weights": "balanced"}})
