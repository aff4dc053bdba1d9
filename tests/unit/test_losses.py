"""Losses against values worked out by hand, torch's own, and autograd."""

import math

import pytest
import torch
from torch.nn import functional

from kd_ray.losses import cross_entropy, distillation, softened_divergence

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
