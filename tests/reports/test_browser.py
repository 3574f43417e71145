"""The page in a real browser, from a file, with and without JavaScript: whole, readable, and silent on the network."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from reports.page import render
from tests.reports import _runs

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium and its driver are not installed"),
    pytest.mark.timeout(600),
]

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with everything on it: both engines, two inputs, failures, blocks."""
    records = [*_runs.two_engines(), *_runs.shape((64,), (128,)), *_runs.blocks(2)]
    return render(_runs.write(tmp_path_factory.mktemp("browser"), records)).page


def start(profile, *, javascript: bool):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    service = webdriver.ChromeService(executable_path=DRIVER, env={**os.environ, "NO_PROXY": "*"})
    return webdriver.Chrome(options=options, service=service)


@pytest.fixture(scope="module", params=[True, False], ids=["javascript", "no javascript"])
def browser(request, page, tmp_path_factory):
    driver = start(tmp_path_factory.mktemp("profile"), javascript=request.param)
    try:
        probe = tmp_path_factory.mktemp("probe") / "probe.html"
        probe.write_text("<title>off</title><script>document.title = 'on'</script>")
        driver.get(probe.as_uri())
        assert driver.title == ("on" if request.param else "off"), "guard: the setting switches scripts"
        driver.get(page.as_uri())
        yield driver
    finally:
        driver.quit()


def width(browser, pixels: int) -> None:
    size = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 700}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_the_page_loads_without_errors_and_asks_for_nothing_else(browser, page):
    """Only the file itself and its inlined images may be loaded."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in sent if each["documentURL"] == page.as_uri()]
    assert page.as_uri() in asked, "guard: the log does see requests"
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    assert browser.get_log("browser") == []


def test_the_headline_and_its_table_are_visible(browser):
    width(browser, 1200)
    heading = browser.find_element("css selector", "h1")
    assert heading.is_displayed()
    assert "as fast as end-to-end training" in heading.text
    table = browser.find_element("css selector", "#results table")
    assert table.is_displayed()
    assert "single_step" in table.text
    assert table.size["height"] > 200


@pytest.mark.parametrize("pixels", [400, 768, 1200])
def test_nothing_sticks_out_sideways(browser, pixels):
    """Wide tables and figures scroll inside their own box."""
    width(browser, pixels)
    metrics = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})
    assert metrics["cssContentSize"]["width"] <= pixels
    assert browser.find_element("css selector", "h1").size["width"] <= pixels


def test_wide_tables_do_scroll_in_their_box_on_a_narrow_screen(browser):
    """Guard: without a table wider than the screen the test above would hold on anything."""
    width(browser, 400)
    box = browser.find_element("css selector", "#results .scroll")
    table = box.find_element("css selector", "table")
    assert table.size["width"] > box.size["width"]


def test_all_images_are_decoded(browser):
    images = browser.find_elements("css selector", "img")
    assert len(images) > 8
    for image in images:
        assert int(image.get_property("naturalWidth")) > 0
        assert image.get_property("complete")


def test_it_prints(browser):
    """The printed page holds all sections; a scrolling box must not cut its table off."""
    width(browser, 1200)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    assert len(printed["data"]) > 100_000
