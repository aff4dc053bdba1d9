"""Faults by the hundred, each with an oracle: `python -m tests.chaos [NAME ...] [--seed S] [--count N]`."""
