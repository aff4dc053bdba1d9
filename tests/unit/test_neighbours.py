"""The nearest row of a pool against a plain search."""

import numpy as np
import pytest

from kd_ray.neighbours import Neighbours
from kd_ray.tables import Rows

IS_CODE_D = np.array([False, False, False, True, True])


def table(rows: int, seed: int = 0) -> Rows:
    """Three numbers and two codes of four levels."""
    rng = np.random.default_rng(seed)
    features_ND = np.hstack([rng.normal(size=(rows, 3)), rng.integers(0, 4, (rows, 2))]).astype(np.float32)
    return rows_of(features_ND)


def rows_of(features_ND: np.ndarray) -> Rows:
    count = len(features_ND)
    return Rows(
        row_id_N=np.arange(count),
        features_ND=features_ND.astype(np.float32),
        label_N=np.zeros(count, np.int64),
        weight_N=np.ones(count, np.float32),
    )


def plain_search(rows: Rows, at: int) -> int:
    x_ND, x_D = rows.features_ND, rows.features_ND[at]
    distance_N = ((x_ND[:, :3] - x_D[:3]) ** 2).sum(1) + (x_ND[:, 3:] != x_D[3:]).sum(1)
    distance_N[at] = np.inf
    return int(distance_N.argmin())


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_row_is_that_of_a_plain_search(seed: int) -> None:
    rows = table(2500, seed)
    found = Neighbours(rows, IS_CODE_D).of(rows.at(slice(900, 1300)))
    assert found.tolist() == [plain_search(rows, at) for at in range(900, 1300)]


def test_a_rows_nearest_is_the_same_in_any_company_and_order() -> None:
    rows = table(1500)
    every_N = Neighbours(rows, IS_CODE_D).of(rows)
    neighbours = Neighbours(rows, IS_CODE_D)
    for positions in (np.array([7]), np.arange(1499, 0, -3), np.array([3, 3, 1400, 3]), np.arange(1500)):
        assert np.array_equal(neighbours.of(rows.at(positions)), every_N[positions])


def test_a_row_outside_the_pool_finds_its_twin_there_and_one_inside_another() -> None:
    rows = table(40)
    neighbours = Neighbours(rows.at(slice(0, 20)), IS_CODE_D)
    twin = Rows(
        row_id_N=np.array([99]),
        features_ND=rows.features_ND[5:6],
        label_N=np.zeros(1, np.int64),
        weight_N=np.ones(1, np.float32),
    )
    assert neighbours.of(twin).tolist() == [5]
    assert neighbours.of(rows.at(slice(5, 6))).tolist() == [plain_search(rows.at(slice(0, 20)), 5)]


def test_of_rows_as_near_the_first_is_taken() -> None:
    features_ND = np.tile(np.array([[0.5, -1, 2, 1, 3]]), (3000, 1))
    found = Neighbours(rows_of(features_ND), IS_CODE_D).of(rows_of(features_ND).at(np.array([0, 1, 2999])))
    assert found.tolist() == [1, 0, 0]


def test_tables_of_numbers_alone_and_of_codes_alone_have_neighbours() -> None:
    numbers = rows_of(np.array([[0.0], [10.0], [11.0]]))
    assert Neighbours(numbers, np.array([False])).of(numbers).tolist() == [1, 2, 1]
    codes = rows_of(np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0]]))
    assert Neighbours(codes, np.array([True] * 3)).of(codes).tolist() == [2, 2, 1]
