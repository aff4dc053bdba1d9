"""Optuna names the combinations: the same ones for the same seed and scores, so that a search can be taken up."""

import warnings
from typing import Any

import numpy as np

from kd_ray.errors import ConfigError
from kd_ray.search import Combination, rounded


def check_installed() -> None:
    """Raise ConfigError where Optuna is missing."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError(
            "tune.search: optuna needs the package optuna: pip install 'kd-ray[optuna]', or use grid or random"
        ) from None


class Tpe:
    """A tree-structured Parzen estimator (Bergstra et al. 2011) that is asked for many before it is told."""

    def __init__(self, space: dict[str, Any], seed: int, *, higher_is_better: bool) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the constant liar is experimental
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._space = space
        self._study = optuna.create_study(direction="maximize" if higher_is_better else "minimize", sampler=sampler)
        self._asked: list[Any] = []
        self._failed = optuna.trial.TrialState.FAIL

    def ask(self) -> Combination:
        trial = self._study.ask()
        self._asked.append(trial)
        return {name: _suggested(trial, name, values) for name, values in self._space.items()}

    def tell(self, asked: int, score: float | None) -> None:
        """Say what the combination asked for as the `asked`-th scored; None where it diverged."""
        if score is None or not np.isfinite(score):
            self._study.tell(self._asked[asked], state=self._failed)
        else:
            self._study.tell(self._asked[asked], score)


def _suggested(trial: Any, name: str, values: Any) -> Any:
    if isinstance(values, list):
        return values[trial.suggest_categorical(name, list(range(len(values))))]
    low, high = float(values["low"]), float(values["high"])
    return rounded(name, trial.suggest_float(name, low, high, log=bool(values.get("log"))))
