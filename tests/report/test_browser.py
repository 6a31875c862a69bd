"""The page in a real browser: nothing is loaded, curves answer the pointer, both themes, a phone, and paper."""

import base64
import json
import re
import shutil

import pytest
from made_up import write_sweep

from sinkpretrain.cli.results import runs_of
from sinkpretrain.report import write_report
from sinkpretrain.runs import Run

selenium = pytest.importorskip("selenium", reason="the browser is driven by selenium: pip install 'sinkpretrain[dev]'")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
]
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
READABLE = 4.5  # contrast of text, WCAG 2.1 AA
CONTRAST = """
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!/rgba\\(.*, 0\\)|transparent/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
};
return [...document.querySelectorAll(arguments[0])].map((element) => {
  const style = getComputedStyle(element);
  const own = element.namespaceURI.includes("svg") ? style.fill : style.color;
  const [a, b] = [light(own), light(behind(element))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
});
"""
TEXTS = "h1, .question, .verdict, .warnings li, nav a, caption, th, td, .word, .note, .entry, figcaption, summary, pre"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("runs") / "sweep")


@pytest.fixture(scope="module")
def path(root, tmp_path_factory):
    return write_report(runs_of([root]), tmp_path_factory.mktemp("page") / "report.html", root)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def browser(started, path):
    """The page, light, on a screen of a desk."""
    emulate(started)
    opened(started, path)
    return started


def opened(browser, path):
    """Open the page and wait for its curves."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(path.as_uri())
    both = "return document.querySelectorAll('.chart .scatterlayer').length == 2"
    WebDriverWait(browser, 30).until(lambda browser: browser.execute_script(both))


def emulate(browser, *, width=1280, height=900, theme="light", media="", scripts=True):
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    if scripts:  # listeners are called with the next frame
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def click(browser, text, at=0):
    """Click the control or the legend entry with this text; `at` chooses between those of several charts."""
    from selenium.webdriver.common.by import By

    where = f"//*[self::button or self::label][normalize-space()='{text}']"
    element = browser.find_elements(By.XPATH, where)[at]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def drawn(browser, at=0):
    """What the chart draws: names of the lines in the drawing, tick labels, colours, and size."""
    return browser.execute_script(
        """
        const chart = document.querySelectorAll(".chart")[arguments[0]];
        const texts = (selector) => [...chart.querySelectorAll(selector)].map((one) => one.textContent);
        return {
          names: chart.data.map((trace) => trace.name),
          lines: chart.querySelectorAll(".scatterlayer .trace").length,
          x: chart.data.find((trace) => /mean/.test(trace.name)).x,
          ticks: texts(".xtick text"),
          titles: [...texts(".xtitle"), ...texts(".ytitle")],
          paper: chart._fullLayout.paper_bgcolor,
          line: chart.data[chart.data.length - 1].line.color,
          width: chart._fullLayout.width,
        };
        """,
        at,
    )


def test_nothing_is_loaded_and_nothing_goes_wrong(started, path):
    started.get("about:blank")
    for kind in ("browser", "performance"):
        started.get_log(kind)
    emulate(started)
    opened(started, path)
    click(started, "steps")
    messages = [json.loads(entry["message"])["message"] for entry in started.get_log("performance")]
    requests = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert path.as_uri() in requests
    assert [url[:40] for url in requests if url != path.as_uri() and not url.startswith("data:")] == []
    assert started.get_log("browser") == []
    assert started.execute_script("return document.querySelectorAll('.chart .scatterlayer .trace').length") > 10


def test_the_policy_of_the_page_refuses_other_hosts(browser):
    """Should a library ask for something: the browser does not."""
    outcome = browser.execute_async_script(
        """
        const done = arguments[0];
        fetch("http://127.0.0.1:9/").then(() => done("sent"), (error) => done(String(error)));
        """
    )
    assert outcome.startswith("TypeError")
    messages = [entry["message"] for entry in browser.get_log("browser") if "127.0.0.1:9" in entry["message"]]
    assert messages
    assert all("Content Security Policy" in message for message in messages)


def test_the_pointer_shows_a_runs_values(browser, root):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    click(browser, "the end, enlarged")
    run = Run(root / "softmax-lr0.004-s0")
    losses = {row["step"]: row["val/loss"] for row in run.metrics() if "val/loss" in row}
    chart = browser.find_element(By.CSS_SELECTOR, ".chart")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    x, y = browser.execute_script(
        """
        const chart = arguments[0];
        const trace = chart.data.find((one) => one.name === arguments[1]);
        const at = trace.x.indexOf(arguments[2]);
        const { xaxis, yaxis } = chart._fullLayout;
        const box = chart.getBoundingClientRect();
        const [x, y] = [xaxis._offset + xaxis.l2p(trace.x[at]), yaxis._offset + yaxis.l2p(trace.y[at])];
        return [x - box.width / 2, y - box.height / 2];
        """,
        chart,
        run.root.name,
        2048 * 900,
    )
    ActionChains(browser).move_to_element_with_offset(chart, round(x) - 3, round(y)).move_by_offset(3, 0).perform()
    shown = browser.find_element(By.CSS_SELECTOR, ".hoverlayer").text
    assert run.root.name in shown
    assert f"validation loss {float(f'{losses[900]:.6g}')} nats a token" in shown
    assert "step 900, 1,843,200 tokens, 72.5 s" in shown


def test_a_legend_entry_switches_a_variant_in_every_chart(browser):
    name = "sigmoid, lr 0.004 (chosen)"
    before = drawn(browser)
    assert sum("sigmoid-lr0.004" in one for one in before["names"]) == 3
    click(browser, name)
    for at in range(2):
        after = drawn(browser, at)
        assert not any("sigmoid-lr0.004" in one or one.startswith(name) for one in after["names"])
        assert after["lines"] == len(after["names"])
    assert drawn(browser)["lines"] == before["lines"] - 5  # three seeds, their mean and band
    off = "return [...document.querySelectorAll('[aria-pressed=false]')].map((one) => one.textContent)"
    assert browser.execute_script(off).count(name) == 2
    click(browser, name, at=1)  # the entry below the other chart
    assert drawn(browser) == before
    click(browser, "single seeds")
    assert not any("-s" in one for one in drawn(browser)["names"] if "mean" not in one and "band" not in one)
    click(browser, "single seeds")
    click(browser, "lowest to highest seed")
    assert not any("band" in one for one in drawn(browser)["names"])


def test_learning_rates_that_were_not_chosen_are_off_at_first(browser):
    assert not any("lr0.001" in one for one in drawn(browser)["names"])
    click(browser, "sigmoid, lr 0.001")
    assert any("sigmoid-lr0.001" in one for one in drawn(browser)["names"])


def test_the_horizontal_axis_can_be_changed(browser):
    tokens = drawn(browser)
    assert tokens["ticks"][0] == "0"
    assert tokens["ticks"][-1] == "2M"
    assert tokens["titles"][0] == "training input (tokens)"
    click(browser, "steps")
    steps = drawn(browser)
    assert steps["ticks"][-1] in ("1k", "1000")
    assert steps["titles"][0] == "training (optimizer steps)"
    assert [2048 * step for step in steps["x"]] == tokens["x"]
    click(browser, "seconds")
    seconds = drawn(browser)
    assert seconds["titles"][0] == "training time (seconds)"
    assert seconds["x"] != steps["x"]
    click(browser, "logarithmic")
    assert drawn(browser)["titles"][0] == "training time (seconds), logarithmic"
    assert "10" in drawn(browser)["ticks"]


def test_another_quantity_can_be_chosen(browser):
    from selenium.webdriver.support.ui import Select

    select = browser.find_element("css selector", ".chart-part select")
    assert drawn(browser)["titles"][1] == "validation loss (nats a token)"
    Select(select).select_by_visible_text("training loss")
    assert drawn(browser)["titles"][1] == "training loss (nats a token)"
    assert len(drawn(browser)["x"]) > 50
    assert "Chart of training loss" in browser.find_element("css selector", ".chart").get_attribute("aria-label")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_is_legible(browser, theme):
    emulate(browser, theme=theme)
    for texts in (TEXTS, ".chart text"):
        contrasts = browser.execute_script(CONTRAST, texts)
        assert len(contrasts) > 10
        assert min(contrasts) >= READABLE


def test_the_theme_changes_while_the_page_is_open(browser):
    light = drawn(browser)
    click(browser, "softmax, lr 0.004 (chosen)")
    emulate(browser, theme="dark")
    dark = drawn(browser)
    assert (light["paper"], dark["paper"]) == ("#ffffff", "#0d1117")
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    assert len(dark["names"]) < len(light["names"])  # what was switched off stays off
    emulate(browser, theme="light")
    assert drawn(browser)["paper"] == "#ffffff"


@pytest.mark.parametrize("width", [360, 400])
def test_a_phone_scrolls_tables_and_not_the_page(browser, path, width):
    emulate(browser, width=width, height=740)
    opened(browser, path)
    sizes = browser.execute_script(
        """
        const page = document.documentElement;
        const table = document.querySelector(".wide");
        const chart = document.querySelector(".chart").getBoundingClientRect();
        const entries = document.querySelector(".entries").getBoundingClientRect();
        table.scrollLeft = 200;
        const first = table.querySelector("tbody th").getBoundingClientRect();
        const widths = [page.scrollWidth, page.clientWidth, table.scrollLeft];
        return [...widths, chart.right, chart.bottom, entries.top, first.left];
        """
    )
    scrolled, client, moved, right, bottom, below, first = sizes
    assert scrolled <= client == width
    assert moved > 100
    assert right <= width
    assert below >= bottom - 1  # the legend is under the chart
    assert 0 <= first < 30  # the names of the rows stay


def test_on_paper_charts_are_white_and_of_a_fixed_size(browser):
    emulate(browser, theme="dark", media="print")
    chart = drawn(browser)
    assert (chart["paper"], chart["width"]) == ("#ffffff", 680)
    hidden = "return [...document.querySelectorAll('.controls, nav, .on-screen')].every((one) => !one.offsetParent)"
    assert browser.execute_script(hidden)
    heights = "return [...document.querySelectorAll(arguments[0])].map((one) => one.getBoundingClientRect().height)"
    assert min(browser.execute_script(heights, ".entry[aria-pressed=true]")) > 5
    assert max(browser.execute_script(heights, ".entry[aria-pressed=false]")) == 0  # what is not drawn
    assert min(browser.execute_script(CONTRAST, TEXTS)) >= READABLE
    emulate(browser, theme="dark")
    assert drawn(browser)["paper"] == "#0d1117"
    assert drawn(browser)["width"] > 1000


def test_it_prints(browser):
    emulate(browser, theme="dark")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type /Page\b", pdf)) <= 12
    assert drawn(browser)["paper"] == "#0d1117"  # as before


def test_without_scripts_there_is_a_figure(started, path):
    emulate(started, scripts=False)
    started.get(path.as_uri())
    image = started.find_element("css selector", "noscript figure img")
    assert image.size["height"] > 200
    assert "need scripts" in started.find_element("css selector", "noscript").text
    emulate(started)
    started.refresh()
    assert not started.find_elements("css selector", "noscript img")
