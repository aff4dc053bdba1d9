"""Figures of a page: each is looked up by its key, so that what is shown is what evaluation.json says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kd_ray.wording import LABELS

Say = Callable[[Any], str]


@dataclass(frozen=True)
class Figure:
    """`key` is the path in evaluation.json (or in bundle, latency, record), with dots; `text` is what is read."""

    key: str
    value: float | None
    text: str


class Figures:
    """`root` is evaluation.json's content and, under names of their own, what else has figures."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root

    def value(self, key: str) -> Any:
        """Return what stands at `key`, None where there is nothing."""
        found: Any = self._root
        for part in key.split("."):
            if isinstance(found, dict):
                found = found.get(part)
            elif isinstance(found, list):
                found = found[int(part)]
            else:
                return None
        return found

    def __call__(self, key: str, say: Say | None = None) -> Figure:
        """Without `say` the key's last part, a metric, tells how the value is said."""
        value = self.value(key)
        say = say or LABELS[key.rpartition(".")[2]][1]
        return Figure(key, value, "–" if value is None else say(value))


def count(value: float) -> str:
    return f"{value:,.0f}"


def times(value: float) -> str:
    return f"{value:,.0f}×" if value >= 10 else f"{value:.1f}×"


def percent(value: float) -> str:
    return f"{100 * value:z.0f} %".replace("-", "−")


def percent_1(value: float) -> str:
    return f"{100 * value:.1f} %"


def two_decimals(value: float) -> str:
    return f"{value:z.2f}".replace("-", "−")


def three_digits(value: float) -> str:
    return f"{value:.3g}"


def size(value: float) -> str:
    """Bytes with the unit that leaves few digits, of 1000."""
    return _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")))


def duration(value: float) -> str:
    """Seconds with the unit that leaves few digits."""
    return _scaled(value, ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")))


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    unit, name = next((each for each in units if value >= each[0]), units[-1])
    digits = value / unit
    return f"{digits:,.0f} {name}" if digits >= 100 or (unit == 1 and name == "B") else f"{digits:.3g} {name}"


def signed(say: Say) -> Say:
    return lambda value: ("−" if value < 0 else "+") + say(abs(value))
