"""Who trains what: pure decisions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.errors import DivergedError, TeacherFailedError
from kd_ray.scheduling import (
    DAY_SECONDS,
    MAX_LOSSES,
    MAX_PACK,
    Ask,
    Footprint,
    PackQueue,
    packs,
    patience,
    useful_actors,
    verdict,
)

DIED = TeacherFailedError("died")


@given(count=st.integers(0, 2000), actors=st.integers(1, 40), size=st.none() | st.integers(1, 50))
def test_packs_hold_every_member_once_and_none_is_empty(count: int, actors: int, size: int | None) -> None:
    made = packs(list(range(count)), actors, size)
    assert [member for pack in made for member in pack] == list(range(count))
    lengths = [len(pack) for pack in made]
    assert all(lengths)
    assert max(lengths, default=0) <= (size or MAX_PACK)
    if not size:
        assert len(made) >= min(actors, count)
        falling = lengths[: -min(actors, count)] if count else []
        assert falling == sorted(falling, reverse=True)


@given(count=st.integers(1, 64), actors=st.integers(2, 40))
def test_few_members_are_cut_into_equal_parts_one_an_actor(count: int, actors: int) -> None:
    lengths = [len(pack) for pack in packs(list(range(count)), actors)]
    assert len(lengths) == min(actors, count)
    assert max(lengths) - min(lengths) <= 1


def test_many_members_are_cut_into_packs_that_halve() -> None:
    lengths = [len(pack) for pack in packs(list(range(1000)), 2)]
    assert lengths == [250, 250, 125, 125, 63, 63, 31, 31, 31, 31]


@pytest.mark.parametrize("slow", [2, 3, 4])
def test_a_slow_actor_costs_little_where_equal_parts_would_wait_for_it(slow: int) -> None:
    """A plain simulation: each pack goes to whoever is free first; one actor of four takes `slow` times as long."""
    free = [0.0] * 4
    for pack in packs(list(range(4000)), 4):
        who = min(range(4), key=free.__getitem__)
        free[who] += len(pack) * (slow if who == 0 else 1)
    ideal = 4000 / (3 + 1 / slow)
    assert max(free) < 1.1 * ideal < 0.7 * 1000 * slow


def test_a_dead_actors_unfinished_members_wait_again() -> None:
    queue = PackQueue.of([[0, 1, 2], [3]])
    pack = queue.take()
    assert pack == [0, 1, 2]
    queue.finished(1)
    queue.lost(pack, DIED)
    assert queue.take() == [0, 2]
    assert queue.take() == [3]
    assert queue.take() is None
    assert not queue.failed


def test_a_member_lost_three_times_alone_has_failed() -> None:
    queue = PackQueue.of([[7]])
    for _ in range(MAX_LOSSES):
        assert not queue.failed
        queue.lost(queue.take() or [], DIED)
    assert queue.failed == {7: DIED}
    assert queue.is_over


def test_a_pack_lost_after_all_its_members_were_written_is_done() -> None:
    queue = PackQueue.of([])
    queue.finished(0)
    queue.lost([0], DIED)
    assert queue.take() is None


@given(count=st.integers(1, 256), poison=st.integers(0, 255))
def test_one_that_kills_its_actor_is_found_and_the_others_are_trained(count: int, poison: int) -> None:
    poison %= count
    queue = PackQueue.of([list(range(count))], allowed=1)
    losses = 0
    while pack := queue.take():
        if poison in pack:
            queue.lost(pack, DIED)
            losses += 1
        else:
            for member in pack:
                queue.finished(member)
    assert set(queue.failed) == {poison}
    assert queue.done == set(range(count)) - {poison}
    assert losses <= MAX_LOSSES + math.ceil(math.log2(count))


def test_a_pack_that_goes_with_its_nodes_stays_whole_for_long_but_not_for_ever() -> None:
    queue = PackQueue.of([[0, 1, 2, 3]])
    for _ in range(11):
        pack = queue.take() or []
        assert pack == [0, 1, 2, 3]
        queue.lost(pack, DIED, with_node=True)
    queue.lost(queue.take() or [], DIED, with_node=True)
    assert queue.take() == [0, 1]


def test_a_pack_too_large_for_memory_is_halved_and_a_single_member_fails() -> None:
    queue = PackQueue.of([[0, 1, 2]], allowed=3)
    sizes = []
    while pack := queue.take():
        sizes.append(len(pack))
        queue.too_large(pack, DIED)
    assert sizes == [3, 2, 1, 1, 1]
    assert set(queue.failed) == {0, 1, 2}


def test_of_a_pack_that_does_not_fit_an_actor_takes_what_does() -> None:
    queue = PackQueue.of([[0, 1, 2, 3, 4]])
    assert queue.take(lambda pack: 3) == [0, 1, 2]
    assert queue.take(lambda pack: 0) == [3]
    assert queue.take() == [4]


def test_no_pack_is_given_out_after_more_failures_than_allowed() -> None:
    queue = PackQueue.of([[2], [3]], allowed=1)
    queue.fail(0, DIED)
    assert queue.take() == [2]
    queue.fail(1, DIED)
    assert queue.take() is None
    assert queue.is_over


def test_a_failed_member_does_not_wait_again_when_its_pack_is_lost() -> None:
    queue = PackQueue.of([[0, 1]], allowed=1)
    pack = queue.take() or []
    queue.fail(0, DivergedError("teacher 0: diverged"))
    queue.lost(pack, DIED)
    assert queue.take() == [1]


def test_failures_within_the_allowance_end_nothing() -> None:
    assert verdict({}, 0, 3) is None
    assert verdict({1: DIED}, 1, 3) is None


def test_an_ensemble_without_members_is_none() -> None:
    assert isinstance(verdict({0: DIED, 1: DIED}, 5, 2), TeacherFailedError)


def test_failures_beyond_the_allowance_are_all_named() -> None:
    failed = {n: DivergedError(f"teacher {n}: diverged in epoch 1") for n in (5, 2, 9)}
    error = verdict(failed, 2, 12)
    assert isinstance(error, DivergedError)
    assert str(error).splitlines() == [
        "3 of 12 teachers failed, teachers.allow_failures is 2:",
        "teacher 2: diverged in epoch 1",
        "teacher 5: diverged in epoch 1",
        "teacher 9: diverged in epoch 1",
    ]
    many = verdict(dict.fromkeys(range(13), DIED), 0, 20)
    assert isinstance(many, TeacherFailedError)
    assert str(many).splitlines()[-1] == "and teachers 10, 11, 12"


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


def test_an_asks_memory_is_its_share_of_the_node_where_that_is_least() -> None:
    nodes = [{"CPU": 4.0, "memory": 16e9}, {"CPU": 1.0, "memory": 8e9}, {"CPU": 0.0, "memory": 1e9}]
    assert Ask(cpus=1, gpus=0).memory(nodes) == 4e9
    assert Ask(cpus=2, gpus=0).memory(nodes) == 8e9
    assert Ask(cpus=1, gpus=0).memory([{"CPU": 1.0}]) == math.inf


def test_an_ask_says_what_it_asks_for() -> None:
    assert str(Ask(cpus=1, gpus=0.5)) == "1 CPU and 0.5 GPU"
    assert str(Ask(cpus=0, gpus=0)) == "nothing"


def test_a_members_bytes_are_those_counted_by_hand() -> None:
    """1,000 rows of 3 features, layers 3-4-2, 26 weights, batches of 10: 100 steps an epoch."""
    made = Footprint.of(rows=1000, features=3, layers=[(3, 4), (4, 2)], parameters=26, batch_size=10)
    activations = 10 * 4 * (3 + 3 + 3 * 6)
    batches = 100 * 10 * 8
    assert made == Footprint(rows=1000 * (3 * 4 + 8), device=16 * 26 + activations + batches, host=24 * 1000)


def test_a_pack_is_sized_by_the_scarcer_of_the_devices_memory_and_its_hosts() -> None:
    made = Footprint(rows=1e9, device=1e8, host=1e9)
    assert made.fits(host=math.inf, device=10e9) == 70
    assert made.fits(host=20e9, device=80e9) == 15
    assert made.fits(host=20e9) == 12
    assert made.fits(host=1.0) == 1
    assert made.fits(host=math.inf, device=math.inf) == MAX_PACK


def test_an_actor_is_waited_for_by_the_work_it_has_and_by_the_slowest_so_far() -> None:
    assert patience(work=None, slowest=None) == DAY_SECONDS
    assert patience(work=4000 * 6 * 46_658, slowest=None) == 300
    assert patience(work=1e8 * 100 * 46_658, slowest=None) == pytest.approx(4_665_800)
    assert patience(work=None, slowest=60.0) == 1200


def test_as_many_actors_are_useful_as_small_packs_can_be_made() -> None:
    assert useful_actors([1000]) == 63
    assert useful_actors([12, 1, 1]) == 3
