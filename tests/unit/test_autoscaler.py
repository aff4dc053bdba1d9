"""Whether a cluster grows."""

from dataclasses import dataclass

import pytest

from kd_ray.scheduling import Ask
from kd_ray.teachers import autoscaler
from kd_ray.teachers.autoscaler import grows


@pytest.mark.parametrize(
    ("type_of_node", "answer"),
    [
        ({}, False),
        ({"168bb7": "node_168bb7"}, False),
        ({"168bb7": ""}, False),
        ({"10.0.0.1": "head", "10.0.0.2": "gpu_worker"}, True),
        ({"168bb7": "node_168bb7", "9f": "gpu-group"}, True),
    ],
)
def test_a_cluster_grows_where_nodes_have_types_of_a_launchers_config(
    type_of_node: dict[str, str], answer: bool
) -> None:
    assert grows(type_of_node) == answer


@dataclass
class Joined:
    is_local: bool = False

    def ready(self) -> None:
        pass


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, float]]]:
    asked: list[list[dict[str, float]]] = []
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(autoscaler, "node_types", lambda: {"10.0.0.1": "head"})
    return asked


def test_a_cluster_that_grows_is_asked_once_and_told_at_the_end_however_that_comes(
    requests: list[list[dict[str, float]]],
) -> None:
    def interrupted() -> None:
        with autoscaler.asked_for(Ask(cpus=1, gpus=0.5), 3, Joined()) as has:
            assert has
            assert requests == [[{"CPU": 1, "GPU": 0.5}] * 3]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert requests[1:] == [[]]


@pytest.mark.parametrize(("is_local", "types"), [(True, {"10.0.0.1": "head"}), (False, {"a1": "node_a1"})])
def test_nothing_is_asked_of_a_private_node_or_a_cluster_that_stays_as_it_is(
    requests: list[list[dict[str, float]]], monkeypatch: pytest.MonkeyPatch, is_local: bool, types: dict[str, str]
) -> None:
    monkeypatch.setattr(autoscaler, "node_types", lambda: types)
    with autoscaler.asked_for(Ask(cpus=1, gpus=0), 3, Joined(is_local)) as has:
        assert not has
    assert requests == []
