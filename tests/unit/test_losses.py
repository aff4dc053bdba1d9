"""Losses against values worked out by hand, torch's own, and autograd."""

import math

import pytest
import torch
from torch.nn import functional

from kd_ray.losses import (
    DISTANCES,
    cross_entropy,
    distillation,
    huber,
    regression_distillation,
    reweighted,
    softened_divergence,
    squared_error,
)

K, B = 3, 5


def batch(classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits_CKB = 3 * torch.randn(classes, K, B, generator=rng, dtype=torch.float64)
    soft_CKB = torch.randn(classes, K, B, generator=rng, dtype=torch.float64).mul(2).softmax(0)
    label_KB = torch.randint(0, classes, (K, B), generator=rng)
    weight_KB = torch.rand(K, B, generator=rng, dtype=torch.float64)
    return logits_CKB, soft_CKB, label_KB, weight_KB / weight_KB.sum(-1, keepdim=True)


def test_cross_entropy_of_even_logits_is_log_of_the_classes() -> None:
    loss_K, grad_CKB = cross_entropy(torch.zeros(4, 1, 1), torch.tensor([[2]]), torch.ones(1, 1))
    assert loss_K.item() == pytest.approx(math.log(4))
    assert grad_CKB.flatten().tolist() == pytest.approx([0.25, 0.25, -0.75, 0.25])


def test_softened_divergence_worked_by_hand() -> None:
    # softmax((2 ln 3, 0) / 2) = (3/4, 1/4); KL((1/2, 1/2) || that) = ln 2 - ln 3 / 2 ... times T^2 = 4.
    logits = torch.tensor([2 * math.log(3), 0.0], dtype=torch.float64).view(2, 1, 1)
    soft = torch.full((2, 1, 1), 0.5, dtype=torch.float64)
    loss_K, grad = softened_divergence(logits, soft, torch.tensor([2.0]).double(), torch.ones(1, 1).double())
    divergence = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert loss_K.item() == pytest.approx(4 * divergence)
    assert grad.flatten().tolist() == pytest.approx([2 * 0.25, -2 * 0.25])


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
def test_divergence_equals_torchs_kl_div_with_batchmean(classes: int, temperature: float) -> None:
    logits_CKB, soft_CKB, _, _ = batch(classes)
    even_KB = torch.full((K, B), 1 / B, dtype=torch.float64)
    loss_K, _ = softened_divergence(logits_CKB, soft_CKB, torch.full((K,), temperature).double(), even_KB)
    for k in range(K):
        log_prob_BC = functional.log_softmax(logits_CKB[:, k].T / temperature, -1)
        expected = functional.kl_div(log_prob_BC, soft_CKB[:, k].T, reduction="batchmean") * temperature**2
        assert loss_K[k].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
def test_distillation_and_its_gradient_equal_torchs(classes: int, alpha: float) -> None:
    logits_CKB, soft_CKB, label_KB, weight_KB = batch(classes, seed=classes)
    temperature_K = torch.tensor([0.7, 1.0, 4.0], dtype=torch.float64)
    alpha_KB = torch.full((K, B), alpha, dtype=torch.float64)
    alpha_KB[:, 0] = 1.0
    loss_K, grad_CKB = distillation(
        logits_CKB, soft_CKB, label_KB, temperature_K=temperature_K, alpha_KB=alpha_KB, weight_KB=weight_KB
    )
    leaf = logits_CKB.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for k in range(K):
        t = temperature_K[k]
        log_prob_BC = functional.log_softmax(leaf[:, k].T / t, -1)
        soft_B = functional.kl_div(log_prob_BC, soft_CKB[:, k].T, reduction="none").sum(-1) * t**2
        hard_B = functional.cross_entropy(leaf[:, k].T, label_KB[k], reduction="none")
        expected = (weight_KB[k] * (alpha_KB[k] * soft_B + (1 - alpha_KB[k]) * hard_B)).sum()
        assert loss_K[k].item() == pytest.approx(expected.item())
        total = total + expected
    total.backward()
    torch.testing.assert_close(grad_CKB, leaf.grad)


def test_a_class_the_ensemble_rules_out_leaves_the_loss_finite() -> None:
    soft = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    loss_K, grad = softened_divergence(torch.tensor([50.0, -50.0]).view(2, 1, 1), soft, torch.ones(1), torch.ones(1, 1))
    assert loss_K.item() == pytest.approx(0.0, abs=1e-6)
    assert grad.isfinite().all()


def test_rows_of_no_weight_change_nothing() -> None:
    logits_CKB, soft_CKB, label_KB, weight_KB = batch(3)
    weight_KB[:, 2:] = 0
    other = logits_CKB.clone()
    other[:, :, 2:] = 7.0
    how = {"temperature_K": torch.ones(K).double(), "alpha_KB": torch.full((K, B), 0.5).double()}
    loss_K, grad = distillation(logits_CKB, soft_CKB, label_KB, weight_KB=weight_KB, **how)
    other_K, other_grad = distillation(other, soft_CKB, label_KB, weight_KB=weight_KB, **how)
    torch.testing.assert_close(loss_K, other_K)
    torch.testing.assert_close(grad[:, :, :2], other_grad[:, :, :2])
    assert (other_grad[:, :, 2:] == 0).all()


def test_alpha_1_does_not_look_at_the_label_and_alpha_0_not_at_the_ensemble() -> None:
    logits_CKB, soft_CKB, label_KB, weight_KB = batch(3)
    other_soft_CKB, other_label_KB = soft_CKB.roll(1, 0), (label_KB + 1) % 3
    for alpha, soft, label in ((1.0, soft_CKB, other_label_KB), (0.0, other_soft_CKB, label_KB)):
        how = {
            "temperature_K": torch.full((K,), 2.0).double(),
            "alpha_KB": torch.full((K, B), alpha).double(),
            "weight_KB": weight_KB,
        }
        for found, expected in zip(
            distillation(logits_CKB, soft, label, **how),
            distillation(logits_CKB, soft_CKB, label_KB, **how),
            strict=True,
        ):
            assert torch.equal(found, expected)


def test_a_student_that_agrees_with_the_ensemble_has_nothing_to_learn() -> None:
    logits_CKB, _, label_KB, weight_KB = batch(4)
    temperature_K = torch.tensor([0.5, 1.0, 9.0]).double()
    soft_CKB = (logits_CKB / temperature_K[:, None]).softmax(0)
    alpha_KB = torch.ones(K, B).double()
    loss_K, grad_CKB = distillation(
        logits_CKB, soft_CKB, label_KB, temperature_K=temperature_K, alpha_KB=alpha_KB, weight_KB=weight_KB
    )
    torch.testing.assert_close(loss_K, torch.zeros(K).double())
    torch.testing.assert_close(grad_CKB, torch.zeros_like(grad_CKB))


def test_a_loss_leaves_what_it_was_given_as_it_was() -> None:
    given = batch(3)
    before = [tensor.clone() for tensor in given]
    logits_CKB, soft_CKB, label_KB, weight_KB = given
    half_KB = torch.full((K, B), 0.5).double()
    distillation(
        logits_CKB, soft_CKB, label_KB, temperature_K=torch.ones(K).double(), alpha_KB=half_KB, weight_KB=weight_KB
    )
    assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))


def test_the_weight_of_a_class_multiplies_the_labels_part_alone() -> None:
    logits_CKB, soft_CKB, label_KB, weight_KB = batch(3, seed=4)
    temperature_K, alpha_KB = torch.full((K,), 2.0).double(), torch.full((K, B), 0.4).double()
    class_weight_C = torch.tensor([0.5, 1.0, 4.0]).double()
    loss_K, grad_CKB = distillation(
        logits_CKB,
        soft_CKB,
        label_KB,
        temperature_K=temperature_K,
        alpha_KB=alpha_KB,
        weight_KB=weight_KB,
        label_weight_KB=class_weight_C[label_KB],
    )
    leaf = logits_CKB.clone().requires_grad_()
    soft_K, _ = softened_divergence(leaf.detach(), soft_CKB, temperature_K, weight_KB)
    log_prob_CKB = (leaf / 2).log_softmax(0)
    soft = (functional.kl_div(log_prob_CKB, soft_CKB, reduction="none").sum(0) * 4 * weight_KB).sum(-1)
    torch.testing.assert_close(soft, soft_K)
    hard_KB = torch.stack(
        [functional.cross_entropy(leaf[:, k].T, label_KB[k], weight=class_weight_C, reduction="none") for k in range(K)]
    )
    expected_K = 0.4 * soft + 0.6 * (hard_KB * weight_KB).sum(-1)
    expected_K.sum().backward()
    torch.testing.assert_close(loss_K, expected_K.detach())
    torch.testing.assert_close(grad_CKB, leaf.grad)


def numbers(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    values_CKB, mean_KB, label_KB = (2 * torch.randn(K, B, generator=rng, dtype=torch.float64) for _ in range(3))
    weight_KB = torch.rand(K, B, generator=rng, dtype=torch.float64)
    return values_CKB[None], mean_KB, label_KB, weight_KB / weight_KB.sum(-1, keepdim=True)


def test_squared_error_and_huber_worked_by_hand() -> None:
    # Errors of 0.5 and -3 with weights 1/2: squares 0.25 and 9; Huber 0.125 and 3 - 0.5.
    values_CKB, target_KB = torch.tensor([[[1.5, -2.0]]]), torch.tensor([[1.0, 1.0]])
    weight_KB = torch.tensor([[0.5, 0.5]])
    loss_K, grad_CKB = squared_error(values_CKB, target_KB, weight_KB)
    assert loss_K.tolist() == pytest.approx([(0.25 + 9) / 2])
    assert grad_CKB.flatten().tolist() == pytest.approx([0.5, -3.0])
    loss_K, grad_CKB = huber(values_CKB, target_KB, weight_KB)
    assert loss_K.tolist() == pytest.approx([(0.125 + 2.5) / 2])
    assert grad_CKB.flatten().tolist() == pytest.approx([0.25, -0.5])


@pytest.mark.parametrize("delta", [0.3, 1.0, 5.0])
def test_huber_and_its_gradient_equal_torchs(delta: float) -> None:
    values_CKB, target_KB, _, weight_KB = numbers()
    loss_K, grad_CKB = huber(values_CKB, target_KB, weight_KB, delta)
    leaf = values_CKB.clone().requires_grad_()
    expected_K = (functional.huber_loss(leaf[0], target_KB, reduction="none", delta=delta) * weight_KB).sum(-1)
    expected_K.sum().backward()
    torch.testing.assert_close(loss_K, expected_K.detach())
    torch.testing.assert_close(grad_CKB, leaf.grad)


@pytest.mark.parametrize("distance", ["mse", "huber"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_distillation_of_a_regression_and_its_gradient_equal_torchs(distance: str, alpha: float) -> None:
    values_CKB, mean_KB, label_KB, weight_KB = numbers(seed=1)
    alpha_KB = torch.full((K, B), alpha, dtype=torch.float64)
    alpha_KB[:, 0] = 1.0
    loss_K, grad_CKB = regression_distillation(
        values_CKB, mean_KB, label_KB, distance=DISTANCES[distance], alpha_KB=alpha_KB, weight_KB=weight_KB
    )
    leaf = values_CKB.clone().requires_grad_()
    torchs = {"mse": functional.mse_loss, "huber": functional.huber_loss}[distance]
    soft_KB, hard_KB = (torchs(leaf[0], target, reduction="none") for target in (mean_KB, label_KB))
    expected_K = (weight_KB * (alpha_KB * soft_KB + (1 - alpha_KB) * hard_KB)).sum(-1)
    expected_K.sum().backward()
    torch.testing.assert_close(loss_K, expected_K.detach())
    torch.testing.assert_close(grad_CKB, leaf.grad)


def test_weights_of_rows_keep_their_ratios_and_sum_to_1_over_each_batch() -> None:
    weight_KB = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]])
    row_weight_KB = torch.tensor([[1.0, 3.0, 0.0, 4.0], [1.0, 3.0, 5.0, 5.0]])
    found_KB = reweighted(weight_KB, row_weight_KB)
    torch.testing.assert_close(found_KB, torch.tensor([[0.125, 0.375, 0.0, 0.5], [0.25, 0.75, 0.0, 0.0]]))


def test_a_batch_whose_rows_weigh_nothing_weighs_nothing() -> None:
    assert (reweighted(torch.full((1, 3), 1 / 3), torch.zeros(1, 3)) == 0).all()


def test_weights_of_a_batch_that_processes_share_sum_to_1_over_all_of_it() -> None:
    weight_KB = torch.full((2, 6), 1 / 6)
    row_weight_KB = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    whole_K1 = (weight_KB * row_weight_KB).sum(-1, keepdim=True)
    parts = [
        reweighted(weight_KB[:, part], row_weight_KB[:, part], lambda total_K1: total_K1.copy_(whole_K1))
        for part in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(torch.cat(parts, 1), reweighted(weight_KB, row_weight_KB))
