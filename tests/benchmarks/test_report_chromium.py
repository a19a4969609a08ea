"""The page as a browser shows it."""

import io
import itertools

import chromium
import pytest
import records
from PIL import Image

from levit.benchmarks.report import write_html
from levit.benchmarks.report.figures import figure, interval_text
from levit.benchmarks.report.series import panels
from levit.benchmarks.report.tables import protocol_tables
from levit.benchmarks.summary import comparisons, summaries

pytestmark = pytest.mark.chromium

# Every protocol, and more engines than fit without care.
RECORD = records.build(rounds=6)
CONTEXT = records.context()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_html(RECORD, path, CONTEXT)
    return path


@pytest.fixture
def opened(page, path):
    page.emulate()
    page.open(path)
    return page


def test_tables_say_what_was_measured(opened):
    items = summaries(RECORD)
    shown = opened.ask(
        "return [...document.querySelectorAll('#accuracy tbody tr')].map("
        "row => [...row.children].map(cell => cell.innerText.trim()))"
    )
    expected = protocol_tables(items, CONTEXT)["paper"].rows
    model, found = "", []
    for cells in shown:
        if len(cells) == 1:
            model = cells[0]
        else:
            found.append((model, *cells))
    assert found == [tuple(row) for row in expected]
    ours = next(s for s in items if s.contender.kind == "ours" and s.images_per_s)
    assert interval_text(ours.images_per_s) in found[0]
    folded = opened.ask(
        "const d = document.querySelector('#latency details'), t = d.querySelector('table');"
        "const hidden = !t.checkVisibility(); d.querySelector('summary').click();"
        "return [hidden, t.checkVisibility()]"
    )
    assert folded == [True, True]
    verdicts = opened.ask(
        "return [...document.querySelectorAll('#ratios tbody td:last-child')].map(c=>c.textContent)"
    )
    assert len(verdicts) == len(comparisons(RECORD))
    assert set(verdicts) <= {"faster", "slower", "equal", "cannot tell", "smaller", "larger"}
    reasons = opened.ask("return document.querySelector('#refused').innerText")
    for _, reason in records.SPECIAL_REASONS.values():
        assert reason in reasons


def test_every_curve_is_drawn(opened):
    expected = panels(summaries(RECORD), CONTEXT)
    shown = opened.ask(
        "return [...document.querySelectorAll('svg.accuracy')].map(svg => ({"
        "title: svg.querySelector('title').textContent,"
        "curves: [...svg.querySelectorAll('g.curve')].map("
        "g => g.querySelectorAll('path.mark').length),"
        "box: svg.getBoundingClientRect().toJSON()}))"
    )
    assert [p["title"].split(", ", 1)[1] for p in shown] == [p.title for p in expected]
    for found, panel in zip(shown, expected, strict=True):
        assert sorted(found["curves"]) == sorted(len(c.points) for c in panel.curves)
        assert found["box"]["width"] > 300
    assert sum(len(p["curves"]) for p in shown) > 20
    # Nearest to the upper right on its axes is where x grows with speed, y shrinks with top-1.
    points = opened.ask(
        "return [...document.querySelectorAll('svg.accuracy')[0].querySelectorAll("
        "'g.ours path.mark')].map(p => { const b = p.getBoundingClientRect();"
        "return [b.x + b.width / 2, b.y + b.height / 2] })"
    )
    ours = next(c for c in expected[0].curves if c.ours)
    assert len(points) == len(ours.points) == 5
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        assert x1 > x0
        assert y1 > y0


@pytest.mark.parametrize("width", [1280, 375])
def test_no_text_covers_another(page, path, width):
    page.emulate(width=width)
    page.open(path)
    overlaps = page.ask(
        """
        const found = [];
        for (const svg of document.querySelectorAll('svg.plot')) {
          const frame = svg.getBoundingClientRect();
          const texts = [...svg.querySelectorAll('text')].map(
            t => ({text: t.textContent, box: t.getBoundingClientRect()}));
          for (const [i, a] of texts.entries()) {
            if (a.box.left < frame.left - 1 || a.box.right > frame.right + 1
                || a.box.top < frame.top - 1 || a.box.bottom > frame.bottom + 1)
              found.push(['outside', svg.getAttribute('class'), a.text]);
            for (const b of texts.slice(i + 1))
              if (a.box.left < b.box.right - 1 && b.box.left < a.box.right - 1
                  && a.box.top < b.box.bottom - 3 && b.box.top < a.box.bottom - 3)
                found.push(['overlap', a.text, b.text]);
          }
        }
        return found"""
    )
    assert overlaps == []


def _luminance(colour):
    channels = [int(c) / 255 for c in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one, other):
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _colours(page):
    return page.ask(
        """
        const style = (what, name) => getComputedStyle(document.querySelector(what))[name];
        return {page: style('body', 'backgroundColor'), card: style('.card', 'backgroundColor'),
                ink: style('body', 'color'), soft: style('.note', 'color'),
                ours: style('.curve.ours .line', 'stroke'),
                levit: style('.a-levit:not(.ours) .line', 'stroke'),
                efficientnet: style('.a-efficientnet .line', 'stroke'),
                deit: style('.a-deit .line', 'stroke'),
                resnet: style('.a-resnet .mark', 'stroke'),
                label: style('svg .tick', 'fill'), bar: style('.row:not(.ours) .bar', 'fill'),
                ours_bar: style('.row.ours .bar', 'fill')}"""
    )


def test_light_and_dark_are_both_readable(page, path):
    page.emulate(scheme="light")
    page.open(path)
    light = _colours(page)
    page.emulate(scheme="dark")
    dark = _colours(page)
    assert _luminance(light["page"]) > 0.8
    assert _luminance(dark["page"]) < 0.02
    for colours in (light, dark):
        assert _contrast(colours["ink"], colours["page"]) >= 12
        assert _contrast(colours["soft"], colours["page"]) >= 4.5
        assert _contrast(colours["label"], colours["card"]) >= 4.5
        for curve in ("ours", "levit", "efficientnet", "deit", "resnet"):
            assert _contrast(colours[curve], colours["card"]) >= 4.5, curve
        assert colours["ours"] == colours["ours_bar"]
        assert len({colours[c] for c in ("ours", "levit", "efficientnet", "deit", "resnet")}) == 5
        assert _contrast(colours["bar"], colours["card"]) >= 2
    assert all(light[name] != dark[name] for name in light)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_stages_can_be_told_apart(page, path, scheme):
    page.emulate(scheme=scheme)
    page.open(path)
    pieces, keys, card = page.ask(
        "const colour = (what, name) => [...document.querySelectorAll(what)].map("
        "e => getComputedStyle(e)[name]);"
        "return [colour('#end-to-end .row:not(.ours) .stage', 'fill').slice(0, 4),"
        "colour('#end-to-end .key', 'backgroundColor'), colour('.card', 'backgroundColor')[0]]"
    )
    assert pieces == keys
    assert len(set(pieces)) == 4
    for one, other in itertools.pairwise(pieces):
        assert _contrast(one, other) >= 1.5
    assert all(_contrast(colour, card) >= 1.5 for colour in pieces)


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_the_page_never_scrolls_sideways(page, path, width):
    page.emulate(width=width)
    page.open(path)
    assert page.ask("return window.innerWidth") == width
    assert page.ask("return document.documentElement.scrollWidth") <= width
    beyond = page.ask(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll table')"
        "&& !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 0.5)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert beyond == []
    wide = page.ask(
        "return [...document.querySelectorAll('.scroll')].filter("
        "e => e.scrollWidth > e.clientWidth + 1).length"
    )
    assert wide > 0 if width < 400 else True
    # Text of figures stays legible.
    sizes = page.ask(
        "return [...document.querySelectorAll('svg.rows, svg.accuracy')].map(svg =>"
        "11 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"
    )
    assert min(sizes) > (8 if width >= 375 else 6.5)


def test_nothing_is_loaded_and_nothing_complains(opened, path):
    assert opened.requests() == [path.as_uri()]
    assert opened.log("browser") == []
    assert opened.ask("return performance.getEntriesByType('resource').length") == 0
    assert opened.ask("return document.scripts.length") == 0
    assert opened.ask("return document.compatMode") == "CSS1Compat"


def test_readers_of_the_markup_find_everything(opened):
    broken = opened.ask(
        """
        const all = what => [...document.querySelectorAll(what)];
        const ids = all('[id]').map(e => e.id);
        return {
          twice: ids.filter((id, i) => ids.indexOf(id) !== i),
          dangling: all('[aria-labelledby]').flatMap(e =>
            e.getAttribute('aria-labelledby').split(' ').filter(id =>
              !document.getElementById(id)?.textContent.trim())),
          links: all('nav a').filter(a => !document.querySelector(a.getAttribute('href'))).length,
          scopes: all('th:not([scope])').length,
          captions: all('table').filter(t => !t.caption?.textContent).length,
          described: all('svg.plot').filter(s => !s.querySelector('title')?.textContent
            || !s.querySelector('desc')?.textContent || s.getAttribute('role') !== 'img').length,
          plots: all('svg.plot').length,
          headings: all('h1').length,
          language: document.documentElement.lang}"""
    )
    assert broken.pop("plots") > 30
    assert broken == {
        "twice": [],
        "dangling": [],
        "links": 0,
        "scopes": 0,
        "captions": 0,
        "described": 0,
        "headings": 1,
        "language": "en",
    }


def test_hostile_names_are_text(page, tmp_path):
    record = records.build(models=("levit_128s", "levit_256"), rounds=3, hostile=True)
    path = tmp_path / "hostile.html"
    write_html(record, path, records.context(hostile=True))
    page.emulate(width=375)
    page.open(path)  # an alert would make this and what follows fail
    assert page.ask("return document.querySelectorAll('script, img, [onerror]').length") == 0
    assert page.ask("return document.styleSheets.length") == 1
    assert page.requests() == [path.as_uri()]
    assert page.log("browser") == []
    text = page.ask("return document.body.innerText")
    assert text.count("<script>alert(1)</script>") > 10
    assert "&lt;|$x^2$" in text
    assert page.ask("return document.documentElement.scrollWidth") <= 375
    assert page.ask("return document.querySelectorAll('section').length") >= 9


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screenshot_shows_something(page, path, scheme):
    page.emulate(scheme=scheme, height=1500)
    page.open(path)
    picture = Image.open(io.BytesIO(page.picture())).convert("RGB")
    assert picture.size == (1280, 1500)
    colours = {c: n for n, c in picture.getcolors(1 << 24)}
    assert len(colours) > 200
    page_colour = picture.getpixel((2, 2))
    assert (min(page_colour) > 200) == (scheme == "light")
    assert 0.2 < colours[page_colour] / (1280 * 1500) < 0.95
    accent = (0xC2, 0x41, 0x0C) if scheme == "light" else (0xFF, 0x91, 0x52)
    assert colours.get(accent, 0) > 500


def test_it_prints(opened):
    folded = "return [...document.querySelectorAll('details table')].map(t=>t.checkVisibility())"
    assert not any(opened.ask(folded))
    opened.devtools("Emulation.setEmulatedMedia", media="print")
    try:
        # On paper there is nothing to unfold.
        assert all(opened.ask(folded))
    finally:
        opened.devtools("Emulation.setEmulatedMedia", media="")
    found = opened.devtools("Page.printToPDF", printBackground=True)
    assert found["data"].startswith("JVBERi0")  # %PDF-


def test_a_run_with_next_to_nothing(page, tmp_path):
    record = records.build(models=("levit_128s",), engines=("levit-onnx",), protocols=("paper",))
    path = tmp_path / "small.html"
    write_html(record, path)
    page.emulate(width=375)
    page.open(path)
    # One of ours, and the paper's.
    assert page.ask("return document.querySelectorAll('svg.accuracy').length") == 2
    assert page.ask("return document.documentElement.scrollWidth") <= 375
    speed = next(s.images_per_s for s in summaries(record) if s.images_per_s)
    assert figure(speed.median) in page.ask("return document.querySelector('main').innerText")
