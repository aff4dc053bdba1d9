"""What is said of nodes that lack something: pure, of findings made by hand."""

import pytest

from kd_ray import __version__
from kd_ray.errors import KdRayError, ResourceError, StorageError, UserError
from kd_ray.nodes import Seen, unsafe_switch, verdict


def said(*seen: Seen, is_local: bool = True) -> KdRayError | None:
    return verdict(list(seen), "/shared/runs/x", is_local=is_local)


def test_nodes_that_have_everything_are_fine() -> None:
    assert said(Seen(node="a"), Seen(node="b")) is None


def test_nodes_that_do_not_see_the_storage_are_named_and_what_to_do() -> None:
    error = said(Seen(node="a"), Seen(node="b", storage_error="no such file"), Seen(node="c", storage_error="denied"))
    assert isinstance(error, StorageError)
    assert "every node must see /shared/runs/x; not seen from b (no such file), c (denied): mount one folder" in str(
        error
    )
    assert "s3://" in str(error)


def test_of_a_bucket_it_says_access() -> None:
    assert "give every node access to it" in str(said(Seen(node="b", storage_error="403"), is_local=False))


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (
            Seen(node="b", import_error="No module named 'torch'"),
            "not on b (No module named 'torch'): install it there",
        ),
        (Seen(node="b", version="0.0.9"), f"must be {__version__} on every node as it is here; b (has 0.0.9)"),
        (Seen(node="b", silent="no answer"), "these do not: b (no answer)"),
    ],
)
def test_a_node_without_this_kd_ray_is_named(seen: Seen, says: str) -> None:
    error = said(Seen(node="a"), seen)
    assert isinstance(error, ResourceError)
    assert says in str(error)


def test_a_node_where_data_files_may_run_code_is_refused() -> None:
    error = said(Seen(node="b", unsafe="RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE"))
    assert isinstance(error, UserError)
    assert "b (RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE)" in str(error)


def test_of_many_nodes_five_are_named() -> None:
    error = said(*(Seen(node=f"n{i}", storage_error="no") for i in range(100)))
    assert "n4 (no) and 95 more" in str(error)
    assert "n5" not in str(error)


@pytest.mark.parametrize(
    ("value", "is_set"), [("1", True), ("true", True), ("0", False), ("", False), ("False", False)]
)
def test_a_switch_counts_where_it_is_on(value: str, is_set: bool) -> None:
    name = "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR"
    assert unsafe_switch({name: value, "OTHER": "1"}) == (name if is_set else "")
