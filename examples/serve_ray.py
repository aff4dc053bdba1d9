"""Serve a run's student with Ray Serve (pip install "ray[serve]"), as many replicas as asked for.

RUN=runs/default serve run examples.serve_ray:app
curl -d '[{"x0": 0.1, "x1": 0.2, ...}]' http://127.0.0.1:8000
"""

import os

from ray import serve
from starlette.requests import Request

from kd_ray import load_student


@serve.deployment(num_replicas=2)
class Student:
    def __init__(self, run: str) -> None:
        self.student = load_student(run, threads=1)

    async def __call__(self, request: Request) -> list[dict[str, float]]:
        rows = await request.json()
        table = {name: [row.get(name) for row in rows] for name in self.student.feature_names_in_}
        names = [str(name) for name in self.student.classes_]
        return [dict(zip(names, map(float, row), strict=True)) for row in self.student.predict_proba(table)]


app = Student.bind(os.path.abspath(os.environ["RUN"]))
