"""Matplotlib figures as SVG inside a page: its CSS gives the colours, so that they suit light, dark and print."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.backends.backend_svg
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

_NAMES = ("ink", "faint", "ensemble", "student", "baseline", "augmented_control", "teacher", "variant")
COLOURS = {name: f"#0101{number:02x}" for number, name in enumerate(_NAMES, 1)}
"""Colours that stand for the page's CSS variables of these names."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kd_ray",
    "text.parse_math": False,
    "font.size": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["faint"],
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.6,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"), COLOURS["ink"]),
}
WIDTH, HEIGHT = 4.4, 3.1


def draw(name: str, label: str, paint: Callable[[Any], None], *, height: float = HEIGHT) -> Markup:
    """Return the figure that `paint` draws; `name` is its own on the page, `label` says it in words."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Glyphs that matplotlib's font lacks are the reader's font's to show.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(out.getvalue(), name, label)


def _inline(text: str, name: str, label: str) -> Markup:
    """Take what a file needs off, and make ids the page's own and colours its variables."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<= id=")(?=[^"]*")|(?<=href="#)|(?<=url\(#)', f"{name}-", text)
    text = re.sub(r'style="[^"]*"', lambda found: _styled(found[0]), text)
    view = re.search(r'viewBox="[^"]*"', text)
    body = re.sub(r">\s+<", "><", re.sub(r"^<svg[^>]*>", "", text))
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view[0] if view else ""} role="img"'
    return Markup(f'{head} aria-label="{escape(label)}">{body}')


def _styled(style: str) -> str:
    for name, colour in COLOURS.items():
        style = style.replace(colour, f"var(--{name.replace('_', '-')})")
    style = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", style)
    return re.sub(r"font-family: [^;\"]*;? ?", "", style)


def log_axis(axis: Any, say: Callable[[float], str]) -> None:
    """Ticks of a logarithmic axis in plain words."""
    axis.set_major_locator(LogLocator(numticks=5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: say(value)))
    axis.set_minor_formatter(NullFormatter())
