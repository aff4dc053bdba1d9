"""Whether a cluster grows."""

import pytest

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
