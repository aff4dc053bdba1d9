"""The nearest other row of a pool, found exactly.

Axes: N rows asked for, B rows of a block, P rows of the pool, C rows of a part of it, D features.
"""

from functools import cached_property

import numpy as np
import torch

from kd_ray import tables
from kd_ray.tables import Rows

_ROWS_AT_ONCE, _POOL_AT_ONCE = 256, 1024  # a block of distances then stays in a core's cache


class Neighbours:
    """Nearest rows in `pool`; each row that is asked for is looked for once, however often it is asked for."""

    def __init__(self, pool: Rows, is_code_D: np.ndarray) -> None:
        self._pool, self._is_code_D = pool, is_code_D
        self._known = np.empty(0, np.int64)

    def of(self, rows: Rows) -> np.ndarray:
        """Return for each row the position of the pool's row nearest to it, itself left out; the first of equals.

        The distance is Euclidean in numbers, squared, and 1 for each code that differs. Every row is compared with
        every row of the pool: 160,000 rows of 8 numbers and 6 codes against 65,536 take half a minute on one core.
        """
        most = int(rows.row_id_N.max(initial=-1)) + 1
        if most > len(self._known):
            self._known = np.pad(self._known, (0, most - len(self._known)), constant_values=-1)
        id_X, first_X = np.unique(rows.row_id_N, return_index=True)
        new_X = self._known[id_X] < 0
        if new_X.any():
            self._known[id_X[new_X]] = self._search(rows.at(first_X[new_X]))
        return np.asarray(self._known[rows.row_id_N])

    @cached_property
    def _parts(self) -> list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """The pool in parts: first position, numbers, their squared lengths, codes."""
        number_PD, code_PD = _halves(self._pool.features_ND, self._is_code_D)
        starts = range(0, len(number_PD), _POOL_AT_ONCE)
        parts = zip(
            starts,
            number_PD.split(_POOL_AT_ONCE),
            number_PD.square().sum(1).split(_POOL_AT_ONCE),
            code_PD.split(_POOL_AT_ONCE),
            strict=True,
        )
        return [(first, number_CD, length_C, code_CD.T.contiguous()) for first, number_CD, length_C, code_CD in parts]

    def _search(self, rows: Rows) -> np.ndarray:
        """Blocks are padded to as many rows, so that a distance is the same bits in whatever company a row comes."""
        own_N = torch.from_numpy(tables.positions(self._pool.row_id_N, rows.row_id_N))
        found_N = np.empty(len(own_N), np.int64)
        for start in range(0, len(own_N), _ROWS_AT_ONCE):
            block_BD = rows.features_ND[start : start + _ROWS_AT_ONCE]
            missing = _ROWS_AT_ONCE - len(block_BD)
            halves = _halves(np.pad(block_BD, ((0, missing), (0, 0))), self._is_code_D)
            own_B = torch.nn.functional.pad(own_N[start : start + _ROWS_AT_ONCE], (0, missing), value=-1)
            found_N[start : start + _ROWS_AT_ONCE] = self._block(*halves, own_B)[: len(block_BD)]
        return found_N

    def _block(self, number_BD: torch.Tensor, code_BD: torch.Tensor, own_B: torch.Tensor) -> np.ndarray:
        near_B = torch.full((len(own_B),), torch.inf)
        found_B = torch.zeros(len(own_B), dtype=torch.int64)
        differs = torch.empty(len(own_B), _POOL_AT_ONCE)
        for first, number_CD, length_C, code_DC in self._parts:
            # A row's own length is the same for all of the pool, and left out.
            distance_BC = torch.addmm(length_C, number_BD, number_CD.T, alpha=-2)
            differs_BC = differs[:, : len(length_C)]
            for code_B1, code_C in zip(code_BD.T.unsqueeze(-1), code_DC, strict=True):
                # Into floats and not into booleans: nine times as fast.
                distance_BC += torch.ne(code_B1, code_C, out=differs_BC)
            own = (own_B >= first) & (own_B < first + len(length_C))
            distance_BC[own, own_B[own] - first] = torch.inf
            least_B, at_B = distance_BC.min(1)
            found_B = torch.where(least_B < near_B, at_B + first, found_B)
            near_B = torch.minimum(least_B, near_B)
        return found_B.numpy()


def _halves(features_ND: np.ndarray, is_code_D: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers and codes."""
    number_ND, code_ND = (np.ascontiguousarray(features_ND[:, which]) for which in (~is_code_D, is_code_D))
    return torch.from_numpy(number_ND), torch.from_numpy(code_ND)
