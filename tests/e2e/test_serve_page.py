"""The page at / in a real Chromium, by keyboard alone."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright
from server_process import ServerProcess

from hobbit_py.bundled import bundled_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEY = "speak-friend"
WAIT_MS = 20_000
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")

pytestmark = [
    pytest.mark.alone,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(bundled_model(), "--expert-memory", "8MiB", "--ctx", "512", "--alias", "mini") as process:
        yield process


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium refuses its own sandbox to root, as which tests run in containers.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"])
        yield browser
        browser.close()


def new_context(browser: Browser, scheme: Scheme = "light") -> BrowserContext:
    context = browser.new_context(color_scheme=scheme)
    context.set_default_timeout(WAIT_MS)
    return context


@pytest.fixture
def page(browser: Browser, server: ServerProcess) -> Iterator[Page]:
    """The page, with what a healthy one never does collected: errors, and requests to elsewhere."""
    context = new_context(browser)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(server.url) else faults.append(request.url))
    page.goto(server.url)
    yield page
    context.close()
    assert [fault for fault in faults if not fault.startswith("data:")] == []


def ask_for(page: Page, **options: object) -> None:
    """Adds options to what the page asks of the server, whose answers are else sampled and of any length."""

    def add(route: Route) -> None:
        route.continue_(post_data=json.dumps(json.loads(route.request.post_data or "") | options))

    page.route("**/v1/chat/completions", add)


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.className"))


def test_a_question_is_answered(page: Page) -> None:
    expect(page.locator("#model")).to_have_text("mini, exact", timeout=WAIT_MS)
    assert focused(page) == "message"
    ask_for(page, temperature=0.0, min_tokens=4)
    page.keyboard.type("What is a dog?")
    page.keyboard.press("Enter")
    turns = page.locator(".turn")
    expect(turns).to_have_count(2)
    expect(turns.nth(0)).to_have_text("YouWhat is a dog?")
    expect(page.locator("#stop")).to_be_disabled(timeout=WAIT_MS)
    answer = (turns.nth(1).text_content() or "").removeprefix("Model")
    assert re.search(r"\w", answer)
    expect(page.locator("#announcer")).to_have_text(answer)
    expect(page.locator("#speed-now")).to_have_text(re.compile(r"[\d.]+ tok/s"), timeout=WAIT_MS)
    expect(page.locator("#hits-now")).to_have_text(re.compile(r"\d+ %"))
    expect(page.locator("#read-now")).to_have_text(re.compile(r"0\.\d+ GB per token"))


def test_escape_stops_an_answer_and_the_next_is_given(page: Page, server: ServerProcess) -> None:
    ask_for(page, min_tokens=400)
    page.keyboard.type("Continue: Once upon a time")
    page.keyboard.press("Enter")
    expect(page.locator(".turn").nth(1)).to_have_text(re.compile(r"Model.{10}", re.DOTALL), timeout=WAIT_MS)
    page.keyboard.press("Escape")
    expect(page.locator("#announcer")).to_have_text("Stopped.")
    expect(page.locator("#send")).to_be_enabled()
    page.unroute_all()
    page.keyboard.type("What is a cat?")
    page.keyboard.press("Enter")
    expect(page.locator(".turn")).to_have_count(4)
    expect(page.locator("#stop")).to_be_disabled(timeout=WAIT_MS)
    assert server.metric('hobbit_requests_total{outcome="cancelled"}') >= 1


def test_the_heat_map_shows_what_the_server_says(page: Page, server: ServerProcess) -> None:
    server.client().completions.create(model="any", prompt="Once", max_tokens=4)
    layers = settled_layers(server)
    n_cells = sum(len(row) for row in layers)
    n_here = sum(row.count("3") for row in layers)
    assert 0 < n_here < n_cells
    page.wait_for_function("layers => state && state.layers.join() === layers.join()", arg=layers)
    expect(page.locator("#summary")).to_have_text(re.compile(rf"{n_here} of {n_cells} experts"))
    # The colour in the middle of each cell, against the style's.
    shown = page.evaluate(
        """() => {
            const heat = document.getElementById("heat"), copy = document.createElement("canvas");
            [copy.width, copy.height] = [heat.width, heat.height];
            const context = copy.getContext("2d", { willReadFrequently: true });
            const pixel = (x, y) => context.getImageData(x, y, 1, 1).data.join();
            const style = getComputedStyle(document.documentElement);
            const pixels = ["--absent", "--loading", "--lo", "--hi"].map((name) => {
                context.fillStyle = style.getPropertyValue(name);
                context.fillRect(0, 0, 1, 1);
                return pixel(0, 0);
            });
            context.drawImage(heat, 0, 0);
            const size = heat.width / state.layers[0].length;
            return state.layers.map((row, y) =>
                [...row].map((_, x) => pixels.indexOf(pixel((x + 0.5) * size, (y + 0.5) * size))).join(""));
        }"""
    )
    assert shown == layers


def settled_layers(server: ServerProcess) -> list[str]:
    """Where the experts are once nothing is being read ahead any more."""
    before: list[str] = []
    while (layers := server.get("/state").json()["layers"]) != before:
        before = layers
        time.sleep(0.1)
    return before


def test_axe_finds_no_fault(page: Page) -> None:
    expect(page.locator("#model")).to_have_text("mini, exact", timeout=WAIT_MS)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        result = Axe().run(page)
        assert result.violations_count == 0, result.generate_report()


def test_everything_is_reached_and_told_by_keyboard(page: Page) -> None:
    expect(page.locator("#model")).to_have_text("mini, exact", timeout=WAIT_MS)
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(focused(page))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        if reached[-1] == "heat":
            break
    assert reached == ["skip", "log", "message", "send", "clear", "heat"]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#cell")).to_have_text(re.compile(r"^Layer 1, expert 1: (absent|loading|high precision)\.$"))


def test_words_of_a_model_are_never_markup(page: Page) -> None:
    page.keyboard.type("<img src=x onerror=alert(1)>")
    page.keyboard.press("Enter")
    expect(page.locator(".turn").nth(0)).to_have_text("You<img src=x onerror=alert(1)>")
    page.keyboard.press("Escape")
    assert page.locator("#log img").count() == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_contrast(browser: Browser, server: ServerProcess, scheme: Scheme) -> None:
    """WCAG 2.1 AA: 4.5 to 1 for text, 3 to 1 between neighbouring states of the map that mean different things."""
    context = new_context(browser, scheme)
    page = context.new_page()
    page.goto(server.url)
    names = ["page", "panel", "text", "hint", "accent", "on-accent", "error", "absent", "lo", "hi"]
    hexes = page.evaluate(
        "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())", names
    )
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    context.close()
    colours = {
        name: tuple(int(text[i : i + 2], 16) for i in (1, 3, 5)) for name, text in zip(names, hexes, strict=True)
    }
    assert background == "rgb({}, {}, {})".format(*colours["page"])
    assert (luminance(colours["page"]) > 0.5) == (scheme == "light")
    for text, behind in [
        ("text", "page"),
        ("text", "panel"),
        ("hint", "page"),
        ("hint", "panel"),
        ("error", "page"),
        ("error", "panel"),
        ("on-accent", "accent"),
    ]:
        assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    assert contrast(colours["accent"], colours["page"]) >= 3
    assert contrast(colours["hi"], colours["absent"]) >= 3
    assert contrast(colours["hi"], colours["lo"]) >= 3


def test_small_windows_do_not_scroll_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    expect(page.locator("#model")).to_have_text("mini, exact", timeout=WAIT_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_key_is_asked_for(browser: Browser) -> None:
    with ServerProcess(bundled_model(), "--ctx", "512", "--api-key", KEY) as server:
        context = new_context(browser)
        page = context.new_page()
        page.goto(server.url)
        expect(page.locator("#connection")).to_have_text("This server asks for a key.")
        assert focused(page) == "key"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("The API key is wrong.")
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("")
        expect(page.locator("#model")).to_have_text("mini-mixtral-Q8_0, exact")
        context.close()


def rgb(text: str) -> tuple[int, ...]:
    """Of #rrggbb."""
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


def luminance(colour: tuple[int, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)
