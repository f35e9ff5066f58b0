"""The report as a reader has it, in a headless Chromium: nothing is asked of the network, nothing complained of, every
control works, five thousand images stay quick, and what a model wrote stays text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.reporting.analysis_fixture import HOSTILE, write_full_analysis
from tests.reporting.asked import write_asked
from tests.reporting.conftest import ATTACK, CLASSES, FakeRun, chain, line, write_run

from browser import BROWSER, Browser
from throughline.core.files import write_atomically, write_json, write_json_lines
from throughline.reporting.page import write_page
from throughline.reporting.side_by_side import write_side_by_side
from throughline.runs.reader import Run, read_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no headless browser on this machine"),
]
UNFOLD = "document.querySelectorAll('#why details').forEach((part) => { part.open = true; })"
Answers = dict[tuple[str, str, str], Any]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    made = write_run(tmp_path_factory.mktemp("run"), seeds=(0, 1))
    write_full_analysis(read_run(made.folder))
    return made


@pytest.fixture(scope="module")
def run(fake: FakeRun) -> Run:
    return read_run(fake.folder)


@pytest.fixture(scope="module")
def page(fake: FakeRun) -> Path:
    return write_page(fake.folder, fake.images)


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.open(page)
    browser.evaluate(UNFOLD)
    return browser


def choose(browser: Browser, form: str, **values: str) -> Any:
    """Sets fields as a reader does; gives what the form's output says."""
    return browser.evaluate(
        f"""(() => {{ const form = document.querySelector({json.dumps(form)} + " form");
        for (const [name, value] of Object.entries({json.dumps(values)})) {{
          const field = form.elements[name];
          const option = [...(field.options ?? [])].find((one) => one.text === value || one.value === value);
          field.value = option ? option.value : value;
          field.dispatchEvent(new Event("input", {{bubbles: true}}));
        }}
        return form.querySelector("output").textContent; }})()"""
    )


def entries_of(run: Run) -> dict[tuple[str, str], Answers]:
    """Sample and method → its answers, of the seed that the gallery shows."""
    found: dict[tuple[str, str], Answers] = {}
    for one in {r.unit: r for r in run.results if r.seed == 0}.values():
        for said in run.units[one.unit].predictions():
            found.setdefault((said.sample_id, one.method), {})[said.domain, said.labels[0], said.answer] = said
    return found


def test_nothing_is_asked_for_and_nothing_complained_of(opened: Browser) -> None:
    opened.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    assert opened.requests == [] and opened.complaints == []
    assert opened.evaluate("document.querySelectorAll('figure.plot svg').length") == 15


def test_a_fault_and_a_request_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    careless = tmp_path / "careless.html"
    careless.write_text(f"<body>{HOSTILE.removeprefix('</script>')}<script>null.nothing</script>")
    browser.open(careless)
    assert browser.requests == ["https://elsewhere.example/x.png"]
    assert "1" in browser.complaints and any("null" in complaint for complaint in browser.complaints)


def test_what_a_model_wrote_stays_text(opened: Browser) -> None:
    choose(opened, ".gallery", method="all", verdict="wrong")
    opened.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    shown = opened.evaluate("document.querySelector('.cards').textContent")
    assert ATTACK in shown and "{{ 7 * 7 }}" in shown
    tokens = opened.evaluate("[...document.querySelectorAll('.token')].map((one) => one.textContent)")
    assert HOSTILE in tokens
    bare = opened.evaluate("document.querySelectorAll('main img:not([src^=\"data:image/jpeg\"])').length")
    scripts = opened.evaluate("document.querySelectorAll('script:not([type])').length")
    assert (bare, scripts) == (0, 1)
    assert opened.requests == [] and opened.complaints == []


WANTED: tuple[dict[str, str], ...] = (
    {"method": "mtct_sarr"},
    {"domain": "sketch", "label": "cup"},
    {"method": "cls", "verdict": "every path right"},
    {"method": "cls", "verdict": "some path wrong", "paths": "agree"},
    {"paths": "disagree", "label": "boat"},
)


def test_every_filter_finds_what_it_should(opened: Browser, run: Run) -> None:
    every = dict.fromkeys(("method", "domain", "label", "verdict", "paths"), "all")
    for wanted in WANTED:
        expected = set()
        for (sample_id, method), answers in entries_of(run).items():
            (domain, label, _), *_ = answers
            classes = {one.predicted for one in answers.values()}
            right = "every path right" if all(one.correct for one in answers.values()) else "some path wrong"
            agree = "agree" if len(classes) == 1 and None not in classes else "disagree"
            facts = {"method": method, "domain": domain, "label": label, "verdict": right, "paths": agree}
            if all(facts[name] == value for name, value in wanted.items()):
                expected.add(sample_id)
        assert expected
        assert choose(opened, ".gallery", **(every | wanted)) == f"{len(expected)} of 60 images"
        shown = opened.evaluate("[...document.querySelectorAll('.gallery .id')].map((one) => one.textContent)")
        assert len(shown) == min(24, len(expected)) and set(shown) <= expected


def test_pages_turn_and_clear_brings_everything_back(opened: Browser) -> None:
    choose(opened, ".gallery", method="all")
    first = opened.evaluate("document.querySelector('.gallery .id').textContent")
    opened.evaluate("document.querySelector('.gallery .next').click()")
    assert opened.evaluate("document.querySelector('.where').textContent") == "page 2 of 3"
    assert opened.evaluate("document.querySelector('.gallery .id').textContent") != first
    choose(opened, ".gallery", label="cup", domain="sketch")
    cleared = """new Promise((done) => { document.querySelector(".gallery [type=reset]").click();
      setTimeout(() => done(document.querySelector(".gallery output").textContent), 50); })"""
    assert opened.evaluate(cleared) == "60 of 60 images"


def test_pointing_at_a_token_or_reaching_it_by_key_tells_its_probabilities(opened: Browser) -> None:
    told = "document.querySelector('#shading output').textContent"
    opened.point_at(".token")
    assert opened.evaluate(told) == "“<SUMMARY”: 0.125 (base), 0.875 (mtct)"
    opened.evaluate("document.querySelector('#shading select[name=by]').focus()")
    opened.press("Tab")
    opened.press("ArrowRight")
    assert opened.evaluate("document.activeElement.textContent") == " a"
    assert opened.evaluate(told) == "“a”: 0.500 (base), 0.750 (mtct)"
    opened.press("End")
    assert opened.evaluate(told) == f"“{HOSTILE}”: 0.063 (base), 0.188 (mtct)"
    assert opened.complaints == []


def test_chains_are_shaded_by_either_state(opened: Browser) -> None:
    unexpected = "[...document.querySelectorAll('.tokens')[0].children].map((one) => one.style.cssText)"
    assert opened.evaluate(unexpected)[0] == "--unexpected: 0.125;"
    choose(opened, "#shading", by="before training")
    assert opened.evaluate(unexpected)[0] == "--unexpected: 0.875;"
    columns = opened.evaluate("[...document.querySelectorAll('.column h3')].map((one) => one.textContent)")
    assert columns == ["A teacher's chains base to mtct", "The model's own chains base to mtct"]
    choose(opened, "#shading", fold="sketch, seed 1")
    assert opened.evaluate("document.querySelectorAll('.shaded').length") == 4


def test_the_confusion_table_follows_its_fields(opened: Browser, run: Run) -> None:
    told = choose(opened, ".confusion", target="sketch", method="cls", answer="label")
    units = {r.unit for r in run.results if (r.method, r.target) == ("cls", "sketch")}
    said = [p for name in units for p in run.units[name].predictions() if p.answer == "label"]
    assert told == f"{sum(p.correct for p in said)} of {len(said)} right"
    rows = opened.evaluate(
        "[...document.querySelectorAll('.confusion tbody tr')].map((row) => [...row.cells].map((c) => c.textContent))"
    )
    classes = [*sorted(CLASSES), None]
    assert [row[0] for row in rows] == classes[:-1]
    for row in rows:
        counts = [sum(p.labels == (row[0],) and p.predicted == name for p in said) for name in classes]
        assert [int(cell or 0) for cell in row[1:]] == counts


CUT = """((right) => {
  const names = (element) => `${element.localName} ${element.textContent.trim().slice(0, 40)}`;
  const seen = [...document.querySelectorAll("body *:not(svg *, script, style, noscript, option)")]
    .filter((element) => element.checkVisibility() && element.getBoundingClientRect().width);
  const scrolls = (box) => box && getComputedStyle(box).overflowX === "auto";
  const outside = seen.filter((element) => {
    const region = element.parentElement.closest(".scroll, pre");
    const box = element.getBoundingClientRect();
    return !scrolls(region) && !element.matches(".skip") && (box.right > right + 0.5 || box.left < -0.5);
  });
  const clipped = seen.filter((element) => !scrolls(element) && element.scrollWidth > element.clientWidth + 1
    && element.clientWidth && getComputedStyle(element).overflowX !== "visible" && element.localName !== "select");
  const lost = [...document.querySelectorAll(".plot svg text")].filter((text) => {
    const [own, all] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
    return all.width && (own.left < all.left - 1 || own.right > all.right + 1 || own.top < all.top - 1
      || own.bottom > all.bottom + 1);
  });
  return [...outside, ...clipped, ...lost].map(names);
})(RIGHT)"""
"""What is seen and stands beyond the right edge, is clipped by its own box, or leaves its figure."""

A4 = 703
"""Pixels between margins of 12 mm."""


@pytest.mark.parametrize("width", [360, 390, 768, 1400])
def test_nothing_is_cut(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width, height=844)
    every_sheet = "document.querySelectorAll('.sheet').forEach((sheet) => { sheet.hidden = false; })"
    for prepare, scheme in (("0", "light"), (UNFOLD, "light"), (every_sheet, "light"), ("0", "dark")):
        browser.emulate(scheme=scheme)
        browser.evaluate(prepare)
        assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
        assert browser.evaluate(CUT.replace("RIGHT", str(width))) == []
    browser.emulate()


def test_nothing_is_cut_of_a_run_that_only_asks(browser: Browser, tmp_path: Path) -> None:
    levels = ("clean", "luminance_checkerboard-3", "occlusion_grey-0.5")
    rates = {(model, level): 0.5 for model in ("smol", "OpenGVLab/InternVL3-1B-hf") for level in levels}
    write_asked(tmp_path / "run", rates, dataset="iwildcam_v2.0_processed", pictures=tmp_path / "images")
    page = write_page(tmp_path / "run", tmp_path / "images")
    for scheme in ("light", "dark"):
        browser.emulate(scheme=scheme)
        browser.open(page, width=1200)
        browser.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        browser.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
        assert browser.requests == [] and browser.complaints == []
        assert browser.evaluate("document.querySelectorAll('.changed img').length") >= 4
        assert browser.evaluate("document.scrollingElement.scrollWidth") <= 1200
        assert browser.evaluate(CUT.replace("RIGHT", "1200")) == []
    browser.emulate()


def test_in_print_everything_stands_on_the_page(browser: Browser, page: Path) -> None:
    browser.open(page, width=A4)
    browser.emulate(media="print")
    assert browser.evaluate("document.querySelectorAll('#why > details[open]').length") == 0
    unseen = (
        "[...document.querySelectorAll('figure, .confusion table, .tokens')].filter((e) => !e.checkVisibility()).length"
    )
    cut, hidden = browser.evaluate(CUT.replace("RIGHT", str(A4))), browser.evaluate(unseen)
    browser.emulate()
    assert (cut, hidden) == ([], 0)
    assert browser.evaluate(unseen) > 20, "on the screen they are folded"


def test_printing_opens_what_is_folded_and_folds_it_again(browser: Browser, page: Path) -> None:
    browser.open(page)
    states = """["beforeprint", "afterprint"].map((name) => { dispatchEvent(new Event(name));
      return document.querySelectorAll("details:not([open])").length; })"""
    before = browser.evaluate("document.querySelectorAll('details:not([open])').length")
    assert before > 10 and browser.evaluate(states) == [0, before]


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_who_won_is_on_the_first_screen(browser: Browser, page: Path, width: int, height: int) -> None:
    browser.open(page, width=width, height=height)
    bottoms = """[".verdict strong", ".chance", ".best"].map(
      (name) => document.querySelector(name).getBoundingClientRect().bottom)"""
    assert max(browser.evaluate(bottoms)) < height
    assert browser.evaluate("document.querySelector('.verdict').textContent").endswith("better")
    top = browser.evaluate("document.querySelector('.sheet:not([hidden]) tbody').getBoundingClientRect().top")
    assert top < height or width < 600


@pytest.mark.parametrize(("width", "beside"), [(1400, True), (390, False)])
def test_three_images_with_chains_stand_beside_the_card_or_under_it(
    browser: Browser, page: Path, width: int, beside: bool
) -> None:
    browser.open(page, width=width, height=900)
    card, chains, pictures = browser.evaluate(
        """[...[".overview", ".examples"].map((name) => document.querySelector(name).getBoundingClientRect().toJSON()),
        [...document.querySelectorAll(".examples img")].filter((image) => image.naturalWidth).length]"""
    )
    assert pictures == 3 and browser.complaints == []
    assert (chains["left"] >= card["right"], chains["top"] >= card["bottom"]) == (beside, not beside)


def test_one_table_is_shown_of_the_path_and_split_chosen(opened: Browser) -> None:
    shown = """[...document.querySelectorAll(".sheet")].filter((sheet) => sheet.checkVisibility())
      .map((sheet) => [sheet.dataset.answer, sheet.dataset.split])"""
    assert opened.evaluate("document.querySelectorAll('.sheet').length") == 9
    assert opened.evaluate(shown) == [["label", "all"]]
    assert choose(opened, ".switched", answer="likelihood", split="out") == "likelihood path, split out"
    assert opened.evaluate(shown) == [["likelihood", "out"]]


def test_a_link_into_a_folded_part_opens_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    opens = """new Promise((done) => { addEventListener("hashchange", () => setTimeout(() =>
      done(document.getElementById("chains").open))); location.hash = "chains"; })"""
    assert browser.evaluate(opens) is True


def test_only_what_scrolls_is_a_stop_for_tab(browser: Browser, page: Path) -> None:
    stops = "document.querySelectorAll('.scroll[tabindex]').length"
    scrolling = "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth).length"
    browser.open(page, width=1600)
    wide, boxes = browser.evaluate(stops), browser.evaluate("document.querySelectorAll('.scroll').length")
    assert wide == browser.evaluate(scrolling) < boxes / 4
    browser.open(page, width=360, height=740)
    assert browser.evaluate(stops) == browser.evaluate(scrolling) > wide


def test_in_print_the_controls_are_gone_and_figures_fit(browser: Browser, page: Path) -> None:
    browser.open(page, width=700)
    browser.emulate(media="print", scheme="dark")
    seen = browser.evaluate(
        """[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector("nav")).display,
        Math.max(...[...document.querySelectorAll(".plot svg")].map((one) => one.getBoundingClientRect().right))]"""
    )
    browser.emulate()
    assert seen[:2] == ["rgb(255, 255, 255)", "none"] and 0 < seen[2] <= 700


def test_several_runs_open_without_a_word(browser: Browser, fake: FakeRun, tmp_path: Path) -> None:
    other = write_run(tmp_path, seeds=(0, 1), methods=("cls",))
    browser.open(write_side_by_side([fake.folder, other.folder]))
    assert browser.requests == [] and browser.complaints == []
    assert browser.evaluate("document.querySelectorAll('section').length") > 6


# ---- five thousand images


def write_large_run(root: Path, images: int, methods: tuple[str, ...]) -> FakeRun:
    fake = FakeRun(root / "runs" / "large", root / "images", methods)
    lines: list[dict[str, Any]] = []
    for place, method in enumerate(methods):
        name = f"{method}-photo-0"
        description = {"dataset": "drawn", "targets": ["photo"], "method": method, "model": "pocket", "seed": 0}
        rows = []
        for number in range(images):
            label = CLASSES[number % 3]
            for path, answer in enumerate(("label", "reasoning", "likelihood")):
                predicted = CLASSES[(number + (number * (place + 3) + path) % 7 // 5) % 3]
                row = {"sample_id": f"photo/{label}/{number:05d}.png", "domain": "photo", "labels": [label]}
                text = chain(predicted) if answer == "reasoning" else predicted
                rows.append({**row, "answer": answer, "predicted": predicted, "outcome": "ok", "text": text})
        made = [line(name, description, "all", answer, rows) for answer in ("label", "reasoning", "likelihood")]
        folder = fake.folder / "units" / name
        write_json(folder / "unit.json", description)
        write_json(folder / "metrics.json", made)
        write_json_lines(folder / "predictions.jsonl", rows)
        write_atomically(folder / "done", "done")
        lines += made
    write_json_lines(fake.folder / "results.jsonl", lines)
    return fake


def test_five_thousand_images_are_there_at_once_and_filtered_at_once(browser: Browser, tmp_path: Path) -> None:
    fake = write_large_run(tmp_path, 5000, ("zero_shot", "cls"))
    page = write_page(fake.folder)
    # the first paint comes while the rest is still read; whole means that every script has run
    painted = """new Promise((done) => new PerformanceObserver((list) => {
      for (const entry of list.getEntriesByName("first-contentful-paint")) {
        done([entry.startTime, performance.getEntriesByType("navigation")[0].loadEventEnd]);
      }}).observe({type: "paint", buffered: true}))"""
    filtered = """Math.max(...Object.entries({label: 1, verdict: "wrong", paths: "disagree", method: ""}).map(
      ([name, value]) => {
        const form = document.querySelector(".gallery form");
        const begun = performance.now();
        form.elements[name].value = value;
        form.elements[name].dispatchEvent(new Event("input", {bubbles: true}));
        document.querySelector(".gallery").getBoundingClientRect();
        return performance.now() - begun;
      }))"""
    browser.open(page)
    first, whole = browser.evaluate(painted)
    slowest = browser.evaluate(filtered)
    assert choose(browser, ".gallery", label="all", verdict="all", paths="all") == "5,000 of 5,000 images"
    assert browser.evaluate("document.querySelectorAll('.gallery .card').length") == 24
    print(f"first paint {first:.0f} ms, whole page {whole:.0f} ms, slowest filter {slowest:.0f} ms")
    assert 0 < first <= whole and slowest > 0  # how fast is no matter of a test
