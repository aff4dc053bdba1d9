"""The user's own torch modules as members."""

import numpy as np
import pytest
import torch

from kd_ray import modules
from kd_ray.errors import ConfigError, DivergedError
from kd_ray.feeds import Feed
from kd_ray.knobs import Group
from kd_ray.tables import Rows
from kd_ray.training import Recipe

RNG = np.random.default_rng(5)
RECIPE = Recipe(epochs=3, steps=5, batch_size=16, learning_rate=1e-2, weight_decay=1e-3)


def group(estimator: str, **parameters: object) -> Group:
    return Group(kind="torch", estimator=estimator, parameters=parameters)


def rows(labels: np.ndarray) -> Rows:
    count = len(labels)
    return Rows(
        row_id_N=np.arange(count),
        features_ND=RNG.normal(size=(count, 4)).astype(np.float32),
        label_N=labels,
        weight_N=RNG.uniform(0.5, 2, count).astype(np.float32),
    )


@pytest.mark.parametrize("is_regression", [False, True])
def test_training_is_the_plain_loop_over_the_same_batches(is_regression: bool) -> None:
    labels = RNG.normal(size=70).astype(np.float32) if is_regression else RNG.integers(0, 3, 70)
    table, outputs = rows(labels), 1 if is_regression else 3
    torch.manual_seed(0)
    ours = modules.make(group("torch.nn.Linear", in_features=4, out_features=outputs), 4, outputs)
    plain = torch.nn.Linear(4, outputs)
    plain.load_state_dict(ours.state_dict())
    losses = list(modules.train(ours, table, np.arange(70), np.random.default_rng(1), RECIPE, "teacher 0", "cpu"))
    adam = torch.optim.Adam(plain.parameters(), lr=1e-2, weight_decay=1e-3)
    for batch in Feed(np.arange(70), 16, np.random.default_rng(1)).take(15):
        at = batch[batch >= 0]
        out, weight = plain(torch.from_numpy(table.features_ND[at])), torch.from_numpy(table.weight_N[at])
        label = torch.from_numpy(labels[at])
        if is_regression:
            loss = (out[:, 0] - label) ** 2
        else:
            loss = torch.nn.functional.cross_entropy(out, label, reduction="none")
        adam.zero_grad()
        ((loss * weight).sum() / weight.sum()).backward()
        adam.step()
    assert len(losses) == 3
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    np.testing.assert_allclose(
        modules.says(ours, table.features_ND, 9), plain(torch.from_numpy(table.features_ND)).detach(), atol=1e-6
    )


def test_a_module_that_takes_the_sizes_is_told_them() -> None:
    made = modules.make(group("tests.unit.test_modules.Sized"), 4, 3)
    assert type(made).__name__ == "Sized"
    assert (made.n_features, made.n_outputs) == (4, 3)


class Sized(torch.nn.Module):
    def __init__(self, n_features: int, n_outputs: int) -> None:
        super().__init__()
        self.n_features, self.n_outputs = n_features, n_outputs


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (group("torch.nn.Nothing"), "torch.nn has no 'Nothing'"),
        (group("nowhere.Net"), "nowhere.Net cannot be imported"),
        (group("Net"), "must be an import path"),
        (group("torch.nn.Linear", inputs=3), "torch.nn.Linear: parameters: "),
        (group("collections.Counter"), "must make a torch.nn.Module; it made Counter"),
        (group("torch.nn.Linear", in_features=4, out_features=9), r"into 3 x 3 numbers; got torch.Size\(\[3, 9\]\)"),
    ],
)
def test_what_is_no_fitting_module_is_named(wrong: Group, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        modules.check(wrong, 4, 3)


def test_a_module_that_diverges_is_named_with_its_epoch() -> None:
    table = rows(np.full(70, 1e30, np.float32))
    module = modules.make(group("torch.nn.Linear", in_features=4, out_features=1), 4, 1)
    with pytest.raises(DivergedError, match=r"teacher 3 \(torch\): diverged in epoch 1"):
        list(modules.train(module, table, np.arange(70), np.random.default_rng(1), RECIPE, "teacher 3 (torch)", "cpu"))
