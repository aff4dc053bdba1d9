"""Knobs of what is handed over."""

from typing import Annotated

from pydantic import Field

from kd_ray.knobs.base import Number, Section, Share, knob


class Export(Section):
    int8: bool = knob(True, "a variant with weights of 8 bits", "true or false")
    pruning: list[Annotated[Number, Field(gt=0, lt=1)]] = knob(
        [0.5],
        "for each a variant without that share of the student's hidden units, trained on",
        "a list of numbers in (0, 1)",
    )
    fine_tuning: Share = knob(
        0.1,
        "how long a pruned student trains on",
        "a share of student.epochs in (0, 1), or a whole number of epochs",
        gt=0,
    )
    tolerance: Number = knob(
        0.005,
        "accuracy (of a regression, share of the RMSE) that a variant may lose on the validation rows, or without any "
        "on the training rows, to be recommended",
        "a number >= 0",
        ge=0,
    )
    latency: bool = knob(True, "time the exported student, its variants and the ensemble", "true or false")
