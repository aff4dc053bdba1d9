"""Every error that kd_ray raises on purpose.

    KdRayError                    a sentence for a person; never a traceback
    ├── UserError                 the user can mend it: exit code 2
    │   ├── ConfigError           a knob is unknown, of the wrong type or out of range
    │   ├── DataError             the data cannot be learned from
    │   ├── ResourceError         the cluster cannot give what a stage asks for
    │   ├── StorageError          the storage cannot be read or written
    │   ├── DivergedError         a loss became NaN or infinite
    │   ├── DamagedError          files of a run are not what was written: kd-ray run makes them anew
    │   └── RunBusyError          another process is writing this run
    └── RunError                  the run cannot go on: exit code 1
        ├── TeacherFailedError    a member failed by itself, or lost its actor too often
        ├── LabellingError        a file of the soft targets lost its worker too often
        └── ManifestError         files on disk are not what their manifest says

Each is built from its message alone, so that it survives pickling on its way out of a Ray worker.
"""


class KdRayError(Exception):
    """Base of the tree; `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(KdRayError):
    exit_code = 2


class ConfigError(UserError):
    pass


class DataError(UserError, ValueError):
    pass


class ResourceError(UserError):
    pass


class StorageError(UserError):
    pass


class DivergedError(UserError):
    pass


class DamagedError(UserError):
    pass


class RunBusyError(UserError):
    pass


class RunError(KdRayError):
    pass


class TeacherFailedError(RunError):
    pass


class LabellingError(RunError):
    pass


class ManifestError(RunError):
    pass
