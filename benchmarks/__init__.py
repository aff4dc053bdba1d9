"""Measures kd_ray against plain alternatives on the same cores: `python -m benchmarks`."""
