"""Every knob but the few of a whole run, typed and explained, in sections.

The defaults are the recommended recipe; `examples/article.yaml` shows another.
"""

from kd_ray.knobs.base import Section, Whole, knob, section
from kd_ray.knobs.data import Columns, Csv, Data, GeneratorOptions, Preprocess, Split
from kd_ray.knobs.export import Export
from kd_ray.knobs.track import Track
from kd_ray.knobs.training import Group, Model, Resources, SoftTargets, Student, TeacherModel, Teachers, Transfer
from kd_ray.knobs.tune import Tune

__all__ = [
    "Columns",
    "Csv",
    "Data",
    "Export",
    "GeneratorOptions",
    "Group",
    "Model",
    "Preprocess",
    "Resources",
    "Section",
    "SoftTargets",
    "Split",
    "Student",
    "TeacherModel",
    "Teachers",
    "Track",
    "Transfer",
    "Tune",
    "Whole",
    "knob",
    "section",
]
