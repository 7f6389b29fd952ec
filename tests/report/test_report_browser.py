"""The page in a browser: nothing fails, nothing is fetched, what should be drawn is drawn, hostile text is inert."""

import json
import shutil

import pytest
from synthetic_runs import write_run

from gradledger.report import write_report

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip

HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>&\"'"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open a file; at the end nothing may have been logged as an error or asked of the network."""
    contexts, troubles = [], []

    def open_file(path, *, width=1280, height=900, **settings):
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: None if request.url == path.as_uri() else troubles.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert [trouble for trouble in troubles if not trouble.startswith(("data:", "blob:"))] == []


def draw_all(page):
    """Bring every chart to the screen, and wait until all are drawn."""
    for plot in page.locator("[data-chart]").all():
        plot.scroll_into_view_if_needed()
        plot.locator(".main-svg").first.wait_for()


def points(page, key):
    """The points of each trace of a chart, by name."""
    script = "key => document.querySelector(`[data-chart=${key}]`).data.map(trace => [trace.name, trace.y.length])"
    return dict(page.evaluate(script, key))


def test_every_chart_is_drawn_with_every_point(open_page, page_file):
    page = open_page(page_file)
    draw_all(page)
    micro_batches = 10 * (11 * 4 + 3)
    assert points(page, "loss") == {
        "micro-batches": micro_batches, "per update": 120, "moving average": 120, "validation": 10
    }  # fmt: skip
    assert points(page, "grad_norm") == {"before clipping": 120, "after clipping": 120}
    assert points(page, "lr") == {"rate": 120}
    assert set(points(page, "scores").values()) == {10}
    assert page.locator("h1").inner_text() == "In balance and learning."
    assert page.locator(".matrix tbody td").count() == 16


def test_ten_thousand_updates_are_all_drawn(open_page, tmp_path):
    run = write_run(tmp_path / "long", num_epochs=10, updates_per_epoch=1000, steps=2)
    page = open_page(write_report([run], tmp_path / "long.html"))
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    print(f"10,000 updates: the document was ready after {timing:.0f} ms")
    draw_all(page)
    assert points(page, "loss")["per update"] == 10_000


def test_toggles_change_what_is_drawn_and_say_so(open_page, page_file):
    page = open_page(page_file)
    draw_all(page)
    figure = page.locator("#chart-loss")
    micro, log = figure.locator("[data-micro]"), figure.locator("[data-log]")
    micro.click()
    page.wait_for_function("document.querySelector('[data-chart=loss]').data.length === 3")
    assert micro.get_attribute("aria-pressed") == "false"
    log.click()
    page.wait_for_function("document.querySelector('[data-chart=loss]').layout.yaxis.type === 'log'")
    assert log.get_attribute("aria-pressed") == "true"


def test_charts_zoom_by_button_and_back(open_page, page_file):
    page = open_page(page_file)
    draw_all(page)
    width = "(() => { const [a, b] = document.querySelector('[data-chart=loss]').layout.xaxis.range; return b - a; })()"
    whole = page.evaluate(width)
    page.locator("#chart-loss [data-chart-zoom=in]").click()
    page.wait_for_function(f"{width} < {whole * 0.51}")
    page.locator("#chart-loss [data-chart-zoom=all]").click()
    page.wait_for_function(f"Math.abs({width} - {whole}) < 1e-6")


def test_the_ledger_zooms_and_moves_by_mouse_and_by_key(open_page, page_file):
    page = open_page(page_file)
    windows = page.locator("svg.buckets g[data-window]")
    assert windows.count() == 8
    assert page.locator("[data-window='0'] .cup").count() == 8  # four poured, four tipped above
    page.locator("[data-zoom=out]").click()
    assert windows.count() == 16
    page.locator("[data-zoom=all]").click()
    assert page.locator("[data-range]").inner_text() == "windows 1–120 of 120"
    assert page.locator("[data-zoom=all]").is_enabled()
    picture = page.locator("svg.buckets")
    picture.focus()
    for _ in range(11):
        page.keyboard.press("ArrowRight")
    assert page.locator("[data-readout]").inner_text() == (
        "Update 12: micro-batches of 16 + 16 + 9 = 41 samples. Full to the brim, from empty: "
        "the gradient of the whole batch."
    )
    page.keyboard.press("End")
    assert page.locator("[data-readout]").inner_text().startswith("Update 120:")
    for _ in range(4):
        page.keyboard.press("+")
    assert windows.count() == 7


@pytest.mark.parametrize(
    ("fault", "words", "shape"),
    [
        ("never-zeroed", "Not zeroed: 64 samples of earlier updates are still in it.", ".stale"),
        ("unnormalized", "The gradient is 4 times that of the whole batch.", ".over"),
        ("zeroed-inside", "3 micro-batches zeroed away before the step.", ".spilled"),
    ],
)
def test_a_broken_ledger_shows_its_fault(open_page, runs_root, tmp_path, fault, words, shape):
    page = open_page(write_report([runs_root / fault], tmp_path / "page.html"))
    assert words in page.locator("[data-readout]").inner_text()
    assert page.locator(f"svg.buckets [data-window] {shape}").count() > 0
    assert page.locator("h1.level-error").count() == 1


def test_behind_each_chart_stands_its_table(open_page, page_file):
    page = open_page(page_file)
    for summary in page.locator("details[data-table] > summary").all():
        summary.click()
    rows = {
        key: page.locator(f"details[data-table={key}] tbody tr").count()
        for key in ("loss", "grad_norm", "lr", "scores", "ledger")
    }
    assert rows == {"loss": 120, "grad_norm": 120, "lr": 120, "scores": 10, "ledger": 120}


def test_several_runs_are_overlaid_and_compared(open_page, runs_root, tmp_path):
    page = open_page(write_report([runs_root / "compared"], tmp_path / "page.html"))
    draw_all(page)
    assert points(page, "scores") == {"accumulated": 4, "large": 4, "small": 4}
    assert page.locator("#comparison tbody tr").count() == 3
    page.locator("[data-track]").select_option(label="small · main")
    assert page.locator("[data-range]").inner_text() == "windows 1–8 of 192"


def test_hostile_text_is_inert_wherever_it_stands(open_page, tmp_path):
    name = HOSTILE.replace("/", "∕")  # a file name cannot hold a slash
    source = tmp_path / "source.py"
    source.write_text(f"# {HOSTILE}\n" + "x = 1" * 60 + "\n")
    run = write_run(tmp_path / name, class_names=[HOSTILE] * 4, config=f"name: {HOSTILE}\n", num_epochs=2)
    page = open_page(write_report([run], tmp_path / "run.html"))
    draw_all(page)
    assert page.evaluate("window.hacked") is None
    assert page.locator(".eyebrow").inner_text() == name
    assert page.locator(".matrix thead th").nth(1).inner_text() == HOSTILE
    assert page.locator("img").count() == 0

    finding = {"rule": HOSTILE, "code": HOSTILE, "severity": "error", "message": HOSTILE, "fix": HOSTILE,
               "location": {"file": str(source), "line": 1}}  # fmt: skip
    findings = tmp_path / "findings.json"
    findings.write_text(json.dumps({"version": 1, "findings": [finding], HOSTILE: HOSTILE}))
    page = open_page(write_report([findings], tmp_path / "findings.html"), width=390)
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert HOSTILE in page.locator(".source").inner_text()
    assert page.locator("img").count() == 0


def test_what_the_browser_may_run_is_named_by_its_hash(browser, page_file, tmp_path):
    """The guard behind the escaping: a script that slipped in is not run."""
    text = page_file.read_text(encoding="utf-8")
    smuggled = tmp_path / "smuggled.html"
    smuggled.write_text(text.replace("</main>", "<script>window.hacked=1</script></main>"), encoding="utf-8")
    context = browser.new_context()
    blocked = context.new_page()
    messages = []
    blocked.on("console", lambda message: messages.append(message.text))
    blocked.goto(smuggled.as_uri())
    assert blocked.evaluate("window.hacked") is None
    assert any("Content Security Policy" in message for message in messages)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_nothing_is_wider_than_the_screen(open_page, page_file, width, height, scheme):
    page = open_page(page_file, width=width, height=height, color_scheme=scheme)
    draw_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.dataset.theme") == scheme


def test_the_theme_is_chosen_by_button_and_charts_follow(open_page, page_file):
    page = open_page(page_file, color_scheme="light")
    draw_all(page)
    colour = "document.querySelector('[data-chart=lr]').data[0].line.color"
    before = page.evaluate(colour)
    page.locator("#theme").click()
    page.wait_for_function(f"{colour} !== '{before}'")
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const solid = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(getComputedStyle(at).backgroundColor);
    paint.clearRect(0, 0, 1, 1);
    for (const colour of layers.reverse()) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); }
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const poor = [];
  for (const node of document.querySelectorAll("main *, header *, footer *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.getClientRects().length || node.closest("svg, .js-plotly-plot, button:disabled")) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(solid(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${node.tagName}.${node.className}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(open_page, runs_root, tmp_path, scheme):
    page = open_page(write_report([runs_root / "never-zeroed"], tmp_path / "page.html"), color_scheme=scheme)
    draw_all(page)
    assert page.evaluate(CONTRAST) == []


def test_everything_that_acts_is_reached_by_key_and_has_a_name(open_page, page_file):
    page = open_page(page_file)
    draw_all(page)
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('button, select, [role=img], [role=application], [role=region]')]"
        ".filter((node) => !(node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.length))"
        ".map((node) => node.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.getAttribute('class') + document.activeElement.textContent.slice(0, 9)"
            )
        )
    for name in ("buckets", "quietDark", "Log scale", "All", "Table"):
        assert any(name in text for text in reached), name


def test_a_live_page_renews_itself_and_keeps_its_place(open_page, tmp_path):
    run = write_run(tmp_path / "run", num_epochs=3, finished=False)
    output = write_report([run], tmp_path / "page.html")
    page = open_page(output)
    assert "Running" in page.locator("h1").inner_text()
    assert page.locator(".live").count() == 1
    page.evaluate("scrollTo({ top: 600, behavior: 'instant' })")
    shutil.rmtree(run)
    write_report([write_run(run, num_epochs=3)], output)
    page.locator("h1", has_text="In balance").wait_for(timeout=60_000)
    assert page.locator(".live").count() == 0
    assert page.evaluate("scrollY") == 600


def test_it_prints_on_paper_without_its_controls(open_page, page_file):
    page = open_page(page_file)
    page.emulate_media(media="print")
    draw_all(page)
    assert not page.locator(".bar").is_visible()
    assert not page.locator("#chart-loss .controls").is_visible()
    assert len(page.pdf()) > 20_000
