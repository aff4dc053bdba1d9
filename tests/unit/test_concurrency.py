"""Slow calls at once."""

import threading
import time

import pytest

from kd_ray.concurrency import in_order


def test_results_come_in_the_order_of_the_items_however_long_each_takes() -> None:
    waits = [0.03, 0.0, 0.02, 0.0, 0.01]

    def do(number: int) -> int:
        time.sleep(waits[number % 5])
        return number * number

    assert list(in_order(do, range(40), threads=4)) == [n * n for n in range(40)]


def test_no_more_run_ahead_than_twice_the_threads() -> None:
    begun: list[int] = []
    results = in_order(lambda n: begun.append(n) or n, iter(range(1000)), threads=3)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(begun) <= 6
    results.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_a_calls_exception_reaches_who_takes_the_results() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda n: 1 // n, [2, 1, 0, 5]))
