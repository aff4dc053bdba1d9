"""The page of a run in a real browser: it is read on a screen and on a phone, and asks nobody for anything."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_run import REGRESSION, SCRIPT, at, classification, config_of, export, made_run, search

from kd_ray import report
from kd_ray.rundir import RunDir
from kd_ray.search import LEADERBOARD

pytestmark = pytest.mark.e2e

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
DRIVEN_BY = ("chromium", "chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium: pip install selenium")
    missing = [program for program in DRIVEN_BY if not shutil.which(program)]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def written(run: RunDir) -> str:
    report.write(config_of(run), run, None, lambda *_: None, "print")  # type: ignore[arg-type]
    return f"file://{run.path(report.FILE)}"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, dict[str, Any]]]:
    """The address of each page and the figures that it must show."""
    storage = tmp_path_factory.mktemp("runs with a space")
    names = [f"{SCRIPT} of a class with a name that is far too long for a phone, number {c}" for c in range(12)]
    exported = made_run(storage, name="exported", task=classification(*names), rows=300)
    plain, many = (
        made_run(storage, name="numbers", task=REGRESSION, rows=3000),
        made_run(storage, name="many", task=classification(*map(str, range(30))), rows=300),
    )
    export(exported, exported.read_json("evaluation.json")["metrics"]["student"])
    search(exported, {"student.temperature": [1.0, 2.0, 5.0], "student.alpha": [n / 100 for n in range(40)]})
    runs = (exported, plain, many)
    found = {run.name: (written(run), root(run)) for run in runs}
    page = Path(str(storage)) / "compared.html"
    page.write_text(report.compare(list(runs)))
    return found | {"compared": (f"file://{page}", {"runs": [root(run) for run in runs]})}


def root(run: RunDir) -> dict[str, Any]:
    beside = {
        "bundle": "export/bundle.json",
        "latency": "export/latency.json",
        "record": "run.json",
        "search": LEADERBOARD,
    }
    files = {name: run.read_json(path) for name, path in beside.items() if run.exists(path)}
    return {**run.read_json("evaluation.json"), **files}


def show(browser: Any, address: str, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(address)


def luminance(colour: str) -> float:
    red, green, blue = (float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


NAMES = ("exported", "numbers", "many", "compared")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_asked_for_and_nothing_is_complained_of(
    browser: Any, pages: dict[str, tuple[str, dict[str, Any]]], name: str
) -> None:
    address, _ = pages[name]
    browser.get_log("performance")
    browser.get_log("browser")
    show(browser, address, 1280)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    page = address.replace(" ", "%20")
    assert [url for url in sent if url != page and not url.startswith("data:")] == []
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.scripts.length") == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_figures_that_are_seen_are_those_of_the_files(
    browser: Any, pages: dict[str, tuple[str, dict[str, Any]]], name: str
) -> None:
    address, files = pages[name]
    show(browser, address, 1280)
    shown = browser.execute_script(
        "return [...document.querySelectorAll('[data-key]')].map(e => [e.dataset.key, e.dataset.value, e.textContent])"
    )
    assert len(shown) > 40
    for key, value, text in shown:
        assert json.loads(value) == at(files, key), key
        assert text, key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_width_in_light_and_dark(
    browser: Any, pages: dict[str, tuple[str, dict[str, Any]]], name: str, width: int, scheme: str, tmp_path: Path
) -> None:
    show(browser, pages[name][0], width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    style = "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    back, ink = (luminance(colour) for colour in browser.execute_script(style))
    assert (back > 0.9 and ink < 0.2) if scheme == "light" else (back < 0.1 and ink > 0.8)
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
    picture = tmp_path / f"{name}-{width}-{scheme}.png"
    picture.write_bytes(base64.b64decode(taken["data"]))
    assert picture.stat().st_size > 20_000


@pytest.mark.parametrize("name", NAMES)
def test_the_page_prints_on_white_paper(
    browser: Any, pages: dict[str, tuple[str, dict[str, Any]]], name: str, tmp_path: Path
) -> None:
    show(browser, pages[name][0], 1280, "dark")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    pdf = base64.b64decode(printed["data"])
    (tmp_path / "page.pdf").write_bytes(pdf)
    assert pdf.startswith(b"%PDF")
    dark_media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark_media)
    back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert luminance(back) > 0.99
