"""On the path of a cluster's workers while storage operations are counted: patches them before they do any."""

import os
import sys
from pathlib import Path


class _AtImport:
    """Patches once kd_ray's run directory is imported: before that there is nothing to count."""

    def find_spec(self, name, path=None, target=None):
        if name == "kd_ray.ensemble" and "kd_ray.rundir" in sys.modules:
            sys.meta_path.remove(self)
            from tests.chaos.operations import CONTROL, install

            install(Path(os.environ[CONTROL]))


if "KD_RAY_CHAOS_CONTROL" in os.environ:
    sys.meta_path.insert(0, _AtImport())
