"""Who trains what: pure decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.scheduling import MAX_PACK, Ask, PackQueue, packs


@given(count=st.integers(0, 700), actors=st.integers(1, 40), size=st.none() | st.integers(1, 50))
def test_packs_hold_every_member_once_and_none_is_empty(count: int, actors: int, size: int | None) -> None:
    made = packs(list(range(count)), actors, size)
    assert [member for pack in made for member in pack] == list(range(count))
    lengths = [len(pack) for pack in made]
    assert all(lengths)
    if size:
        assert max(lengths, default=0) <= size
    elif made:
        assert max(lengths) - min(lengths) <= 1
        assert max(lengths) <= MAX_PACK
        assert len(made) >= min(actors, count)


def test_a_dead_actors_unfinished_members_wait_again() -> None:
    queue = PackQueue.of([[0, 1, 2], [3]])
    pack = queue.take()
    assert pack == [0, 1, 2]
    queue.finished(1)
    assert queue.lost(pack) == []
    assert queue.take() == [0, 2]
    assert queue.take() == [3]
    assert queue.take() is None


def test_a_member_lost_three_times_is_given_up() -> None:
    queue = PackQueue.of([[7]])
    assert [queue.lost([7]) for _ in range(3)] == [[], [], [7]]


def test_a_pack_lost_after_all_its_members_were_written_is_done() -> None:
    queue = PackQueue.of([])
    queue.finished(0)
    assert queue.lost([0]) == []
    assert queue.take() is None


@pytest.mark.parametrize(
    ("ask", "fits"),
    [
        (Ask(cpus=1, gpus=0), 6),
        (Ask(cpus=0.5, gpus=0), 12),
        (Ask(cpus=3, gpus=0), 1),
        (Ask(cpus=1, gpus=1), 2),
        (Ask(cpus=1, gpus=0.5), 4),
        (Ask(cpus=5, gpus=0), 0),
        (Ask(cpus=0, gpus=0.1), 20),
        (Ask(cpus=0, gpus=0), 2),
    ],
)
def test_slots_are_counted_node_by_node(ask: Ask, fits: int) -> None:
    assert ask.slots([{"CPU": 4.0, "GPU": 2.0}, {"CPU": 2.0}]) == fits


def test_an_ask_says_what_it_asks_for() -> None:
    assert str(Ask(cpus=1, gpus=0.5)) == "1 CPU and 0.5 GPU"
    assert str(Ask(cpus=0, gpus=0)) == "nothing"
