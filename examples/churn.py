"""A table as teams have them: 8 numbers, 6 categories (one of 5,000 levels), a tenth of all cells missing, 3 % churn.

`kd-ray run examples/churn.yaml` makes it by calling `table`; `python examples/churn.py churn.parquet` writes it.
"""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LEVELS = {"plan": 4, "channel": 5, "device": 7, "region": 12, "segment": 30, "merchant": 5_000}
CHURN = 0.03
MISSING = 0.1


def table(rows: int = 200_000, seed: int = 0) -> pa.Table:
    """Return `rows` customers; who churns depends on numbers, on categories, and on pairs of them."""
    rng = np.random.default_rng(seed)
    z_N8 = rng.normal(size=(rows, 8))
    codes = {name: _zipf(rng, levels, rows) for name, levels in LEVELS.items()}
    effect = {name: rng.normal(size=levels) for name, levels in LEVELS.items()}
    slope_PR = rng.normal(size=(LEVELS["plan"], LEVELS["region"]))
    score_N = (
        0.9 * z_N8[:, 0]
        + 0.8 * np.abs(z_N8[:, 1])
        - 0.9 * z_N8[:, 2] * z_N8[:, 3]
        + 0.6 * np.sin(2 * z_N8[:, 4])
        + 0.7 * effect["merchant"][codes["merchant"]]
        + 0.6 * effect["segment"][codes["segment"]]
        + 0.5 * effect["device"][codes["device"]]
        + 0.7 * slope_PR[codes["plan"], codes["region"]] * z_N8[:, 5]
        + 0.4 * effect["channel"][codes["channel"]] * z_N8[:, 6]
    )
    score_N += rng.logistic(size=rows) * 0.7
    churned_N = score_N > np.quantile(score_N, 1 - CHURN)
    numbers = {
        "tenure_days": np.round(400 * np.exp(0.8 * z_N8[:, 0])),
        "monthly_spend": np.round(30 * np.exp(0.6 * z_N8[:, 1]), 2),
        "balance": np.round(1_000 * z_N8[:, 2], 2),
        "score": np.round(500 + 80 * z_N8[:, 3]),
        "usage": z_N8[:, 4],
        "calls": z_N8[:, 5],
        "latency_ms": np.exp(3 + z_N8[:, 6]),
        "age": np.round(45 + 12 * z_N8[:, 7]),
    }
    columns = {name: pa.array(values, mask=rng.random(rows) < MISSING) for name, values in numbers.items()}
    for name, code_N in codes.items():
        words = pa.array([f"{name}_{level}" for level in range(LEVELS[name])])
        columns[name] = pa.array(words.take(pa.array(code_N)).to_numpy(False), mask=rng.random(rows) < MISSING)
    return pa.table({"customer_id": np.arange(rows), **columns, "churned": np.where(churned_N, "yes", "no")})


def _zipf(rng: np.random.Generator, levels: int, rows: int) -> np.ndarray:
    """Draw levels, the first ones far more often, as shops and products are."""
    share_L = 1 / np.arange(1, levels + 1) ** 0.8
    return rng.choice(levels, rows, p=share_L / share_L.sum())


if __name__ == "__main__":
    pq.write_table(table(), sys.argv[1])
