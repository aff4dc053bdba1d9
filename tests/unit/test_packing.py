"""A pack against separate torch networks, and a member against itself in other company."""

import numpy as np
import pytest
import torch

from kd_ray.feeds import Streams
from kd_ray.inputs import Encode
from kd_ray.models import MLP
from kd_ray.packing import PackedMLP

SPECS = [
    MLP.of(n_features=20, hidden=[256, 128, 64], n_classes=2, dropout=[0.3, 0.3, 0.0]),
    MLP.of(n_features=7, hidden=[37, 13], n_classes=3, dropout=[0.1, 0.5]),
    MLP.of(n_features=3, hidden=[], n_classes=4, dropout=[]),
    MLP.of(n_features=5, hidden=[16], n_classes=2, dropout=[], levels=[0, 0, 3, 40, 4]),
    MLP.of(n_features=3, hidden=[9, 4], n_classes=3, dropout=[0.2, 0.0], levels=[5, 30, 20], one_hot=4, embedding=6),
]


def packed(spec: MLP, seeds: list[int]) -> PackedMLP:
    pack = PackedMLP(spec, len(seeds))
    for k, seed in enumerate(seeds):
        pack.load(k, spec.initial_weights(Streams.of(seed).weights))
    return pack


def module(spec: MLP, pack: PackedMLP, k: int) -> torch.nn.Sequential:
    network = spec.module()
    network.load_state_dict(pack.weights(k))
    return network


def rows(spec: MLP, members: int, n_rows: int = 50) -> torch.Tensor:
    """Normal numbers, and codes that take every level."""
    x_KBD = torch.randn(members, n_rows, spec.n_features, generator=torch.Generator().manual_seed(1))
    for d, levels, *_ in (*spec.inputs.one_hot, *spec.inputs.embedded):
        x_KBD[..., d] = (x_KBD[..., d] * 1e4).round().abs() % levels
    return x_KBD


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_logits_are_those_of_the_plain_network(spec: MLP) -> None:
    pack, x_KBD = packed(spec, [0, 1, 2]), rows(spec, 3)
    logits_KBC = pack.forward(x_KBD)
    for k in range(3):
        torch.testing.assert_close(logits_KBC[k], module(spec, pack, k).eval()(x_KBD[k]))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_weights_come_out_as_they_went_in(spec: MLP) -> None:
    weights = spec.initial_weights(Streams.of(5).weights)
    pack = PackedMLP(spec, 2)
    pack.load(1, weights)
    assert weights.keys() == spec.module().state_dict().keys()
    for name, value in pack.weights(1).items():
        assert torch.equal(value, weights[name])
    assert sum(value.numel() for value in weights.values()) == spec.n_parameters


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gradients_with_dropout_are_autograds_of_each_network_alone(spec: MLP) -> None:
    pack, x_KBD = packed(spec, [0, 1, 2]), rows(spec, 3)
    grad_KBC = torch.randn(3, 50, spec.n_classes, generator=torch.Generator().manual_seed(2))
    logits_KBC = pack.forward(x_KBD, [Streams.of(9, k).dropout for k in range(3)])
    pack.backward(grad_KBC)
    for k in range(3):
        twin = Streams.of(9, k).dropout
        tensors = {name: value.requires_grad_() for name, value in pack.weights(k).items()}
        hidden = x_KBD[k]
        if not spec.inputs.is_plain:
            tables = {name.removeprefix("0."): tensors[name] for name in spec.inputs.table_names()}
            hidden = torch.func.functional_call(Encode(spec.inputs), tables, hidden)
        for layer, (weight, bias) in enumerate(spec.parameter_names()):
            hidden = torch.nn.functional.linear(hidden, tensors[weight], tensors[bias])
            if layer < len(spec.hidden):
                hidden = hidden.relu()
                if rate := spec.dropout[layer]:
                    words = twin.bit_generator.random_raw(-(-hidden.numel() // 4))
                    bits = np.frombuffer(words.tobytes(), np.int16)[: hidden.numel()].reshape(hidden.shape)
                    keep = torch.from_numpy(bits >= round(rate * 65536) - 32768)
                    hidden = hidden * keep / (1 - rate)
        torch.testing.assert_close(logits_KBC[k], hidden)
        hidden.backward(grad_KBC[k])
        grads = PackedMLP(spec, 3)
        grads.flat_P.copy_(pack.grad_P)
        for name, value in grads.weights(k).items():
            torch.testing.assert_close(value, tensors[name].grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_members_gradient_is_the_same_bits_in_any_pack(spec: MLP) -> None:
    def gradient(seeds: list[int], of: int) -> dict[str, torch.Tensor]:
        pack = packed(spec, seeds)
        x_KBD = rows(spec, 1).expand(len(seeds), -1, -1).contiguous()
        pack.backward(pack.forward(x_KBD, [Streams.of(9, seed).dropout for seed in seeds]))
        pack.flat_P.copy_(pack.grad_P)
        return pack.weights(seeds.index(of))

    alone = gradient([4], of=4)
    for company in ([0, 4], [4, 1, 2], list(range(12))):
        for name, value in gradient(company, of=4).items():
            assert torch.equal(value, alone[name]), (company, name)


def test_dropout_keeps_the_asked_share_and_the_mean() -> None:
    spec = MLP.of(n_features=1, hidden=[1000], n_classes=2, dropout=[0.3])
    pack = PackedMLP(spec, 1)
    weights = spec.initial_weights(Streams.of(0).weights)
    pack.load(0, {name: torch.ones_like(value) for name, value in weights.items()})
    pack.forward(torch.ones(1, 200, 1), [Streams.of(1).dropout])
    hidden = pack._seen[1]
    assert (hidden > 0).float().mean().item() == pytest.approx(0.7, abs=0.005)
    assert hidden.mean().item() == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_rows_logits_are_the_same_bits_in_any_company(spec: MLP) -> None:
    pack, x_BD = packed(spec, [0, 1, 2]), rows(spec, 1, 1500)[0]
    every_KBC = pack.logits(x_BD)
    for start, stop in ((0, 1), (7, 600), (511, 513), (1333, 1500)):
        assert torch.equal(pack.logits(x_BD[start:stop]), every_KBC[:, start:stop])


@pytest.mark.parametrize("hidden", [[1], [1, 3], [4, 1]], ids=str)
def test_the_weights_given_out_stay_as_they_were_when_training_goes_on(hidden: list[int]) -> None:
    pack = PackedMLP(MLP.of(n_features=1, hidden=hidden, n_classes=2, dropout=[]), 2)
    given = pack.weights(1)
    pack.flat_P.fill_(1.0)
    assert all((value == 0).all() for value in given.values())
