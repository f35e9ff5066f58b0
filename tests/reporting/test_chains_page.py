"""The page of a chain store: what it shows of which images, that filters find it, and that nothing a teacher wrote
is ever more than text."""

import itertools
import json
import re
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.chains.plain_fold import read_journal
from tests.reporting.test_page import Reader

from browser import BROWSER, Browser
from throughline.chains.formats import FIVE_STAGE, Chain, render_chain
from throughline.chains.journal import JournalWriter
from throughline.chains.records import (
    Candidate,
    Record,
    Usage,
    Verdict,
    candidate_key,
    classes_sha256,
    make_header,
    prompt_sha256,
)
from throughline.chains.rules import RULES
from throughline.chains.verdicts import verdicts_on
from throughline.core.errors import ThroughlineError
from throughline.core.settings import WordingSettings
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, Sample
from throughline.questions.question_set import make_question_set
from throughline.reporting.chains_page import write_chains_page

pytestmark = pytest.mark.slow

CLASSES = ("cat", "cup", "dog")
DOMAINS = ("photo", "sketch")
PROMPTS = make_question_set(CLASSES)
OUTSIDE = "elsewhere.example"
"""The one host that any of the attacks names."""
RUN = "document.title='ran'"
HOSTILE = (
    "<SUMMARY>ring \x07, nul \x00, \u202ebackwards\u202c\u2028next</SUMMARY>"
    f"<!--<script></script><script>{RUN}</script><img src=http://{OUTSIDE}/x.png onerror={RUN}>"
    f'<svg onload="{RUN}"></svg>{{{{ 7 * 7 }}}} &amp; "\'\\'
)


def chain(label: str) -> str:
    return render_chain(Chain(FIVE_STAGE, ("Look.", "A thing.", "It has a rim.", "It fits.", label)))


def other(label: str) -> str:
    return CLASSES[CLASSES.index(label) - 1]


def attempts(sample: Sample) -> list[tuple[str, str]]:
    """(text, finish reason) of the candidates of an image: by its number, the same in every domain and class."""
    right, wrong = chain(sample.label), chain(other(sample.label))
    return [
        [(right, "stop")],
        [(wrong, "stop"), (right, "stop")],
        [(right[:60], "length"), (wrong, "stop")],
        [("connection refused", "error")],
        [("I am sorry, but I cannot help.", "stop"), (HOSTILE, "stop")],
    ][int(Path(sample.id).stem)]


def candidate(sample: Sample, number: int, text: str, finish_reason: str = "stop", **changes: Any) -> Candidate:
    asked = prompt_sha256(PROMPTS.reasoning)
    plain = {
        "key": candidate_key(sample.image_sha256, asked, "teacher-1", {}, 0, number),
        "sample_id": sample.id,
        "image_sha256": sample.image_sha256,
        "domain": sample.domain,
        "classes_sha256": classes_sha256(CLASSES),
        "format": "five_stage",
        "source": "endpoint",
        "model": "teacher-1",
        "prompt_sha256": asked,
        "candidate": number,
        "text": text,
        "finish_reason": finish_reason,
        "usage": Usage(prompt_tokens=812, completion_tokens=90, cost=0.0021),
    }
    return Candidate(**{**plain, **changes})


def judged(made: Candidate, label: str) -> list[Verdict]:
    return [] if made.failed else [*verdicts_on(made, RULES, FIVE_STAGE, CLASSES, label)]


def lines_of(images: ImageSet) -> list[Record]:
    lines: list[Record] = [make_header(CLASSES, FIVE_STAGE, PROMPTS.texts)]
    for sample in images.samples:
        for number, (text, finish) in enumerate(attempts(sample)):
            made = candidate(sample, number, text, finish)
            lines += [made, *judged(made, sample.label)]
    return lines


def write(store: Path, lines: list[Record], shard: int = 0) -> Path:
    with JournalWriter(store / f"journal-{shard}.jsonl", flush_every=100_000) as writer:
        writer.write(*lines)
    return store


def embedded(page: Path) -> Any:
    """The page's data as a browser would take it: up to the first end of a script."""
    [block] = re.findall(r'<script type="application/json" id="chains">(.*?)</script', page.read_text(), re.DOTALL)
    return json.loads(block)


def made_up(count: int, domain: str = "photo") -> list[Sample]:
    return [Sample(f"{domain}/cat/{n}.png", Path("none"), domain, ("cat",), f"{domain} {n}") for n in range(count)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("images")
    for number, (domain, label, index) in enumerate((d, c, i) for d in DOMAINS for c in CLASSES for i in range(5)):
        path = root / domain / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 20), (number * 8, 80, 160)).save(path)
    return read_images(root)


@pytest.fixture(scope="module")
def store(images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("runs") / "my store", lines_of(images))


@pytest.fixture(scope="module")
def page(store: Path, images: ImageSet) -> Path:
    path = store.parent / "page.html"
    write_chains_page(store, path, images)
    return path


# ---- what is in the file


def test_every_image_is_there_with_all_that_was_written_about_it(page: Path, images: ImageSet, store: Path) -> None:
    cards = embedded(page)
    assert [card["id"] for card in cards] == sorted(sample.id for sample in images.samples)
    assert {card["id"]: card["labels"] for card in cards} == {s.id: [s.label] for s in images.samples}
    assert all(card["picture"].startswith("data:image/jpeg;base64,") and not card["notes"] for card in cards)
    shown = {c["key"]: [(v["rule"], v["outcome"], v["accepted"]) for v in c["verdicts"]] for card in cards
             for c in card["candidates"]}  # fmt: skip
    journal = read_journal(store)
    assert shown == {
        c.key: [(v.rule, v.outcome, v.accepted) for v in journal.verdicts if v.key == c.key] for c in journal.candidates
    }
    first = cards[0]["candidates"][0]
    assert [stage for stage, _ in first["parts"]] == list(FIVE_STAGE.stages)
    assert (first["model"], first["finish"], first["usage"]) == ("teacher-1", "stop", [812, 90, 0.0021])


def test_the_summary_counts_what_is_shown(store: Path, images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    summary = write_chains_page(store, path, images)
    assert (summary.images, summary.images_in_store, summary.candidates, summary.problems) == (30, 30, 6 * 8, 0)
    assert "All 30 images of the store." in path.read_text()


def test_the_same_store_gives_the_same_bytes_and_no_path(page: Path, store: Path, images: ImageSet) -> None:
    again = page.with_name("again.html")
    write_chains_page(store, again, images)
    assert again.read_bytes() == page.read_bytes()
    text = page.read_text()
    assert str(store.parent) not in text and str(images.root) not in text and "Reasoning chains in my store" in text


def test_the_page_asks_nobody_for_anything(page: Path) -> None:
    reader = Reader(page.read_text())
    assert reader.faults == [] and reader.open == []
    for tag, attributes in reader.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert not any(name.startswith("on") or name in ("src", "href", "action") for name in attributes), tag
    policy = next(a for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'") and "unsafe-inline'; script" in str(policy)


def test_what_a_teacher_wrote_cannot_leave_its_block(page: Path) -> None:
    text = page.read_text()
    assert len(re.findall("<script", text)) == len(re.findall("</script", text)) == 2
    assert not set("\x00\x07\u2028\u202e") & set(text)
    hostile = next(c for card in embedded(page) if card["id"] == "photo/cat/4.png" for c in card["candidates"][1:])
    [stage, said], [none, rest] = hostile["parts"]
    assert (stage, none) == ("SUMMARY", None)
    assert said == "ring ⟨U+0007⟩, nul ⟨U+0000⟩, ⟨U+202E⟩backwards⟨U+202C⟩\u2028next"
    assert rest == HOSTILE.split("</SUMMARY>")[1]


def test_the_lines_of_several_files_are_merged_as_the_journal_merges_them(images: ImageSet, tmp_path: Path) -> None:
    """A failure answered later, a copy, a contradiction, a verdict taken back, a verdict read before its candidate."""
    one, two, three = images.samples[:3]
    failed, answered = candidate(one, 0, "time-out", "error"), candidate(one, 0, chain("cat"))
    twice, contradiction = candidate(two, 0, chain("cat")), candidate(two, 0, chain("dog"))
    [early, *_] = judged(candidate(three, 0, chain("cat")), "cat")
    back = judged(answered, "cat")[2].model_copy(update={"accepted": False})
    lines = [failed, early, twice, twice, *judged(answered, "cat")]
    store = write(
        write(tmp_path / "store", lines), [answered, back, contradiction, candidate(three, 0, chain("cat"))], 1
    )
    write_chains_page(store, tmp_path / "page.html", images)
    journal = read_journal(store)
    found = {card["id"]: card["candidates"] for card in embedded(tmp_path / "page.html")}
    assert {name: [c["key"] for c in made] for name, made in found.items()} == {
        c.sample_id: [c.key] for c in journal.candidates
    }
    for stands in journal.candidates:
        [shown] = found[stands.sample_id]
        assert shown["parts"][-1] == ["CONCLUSION", "cat"] and not shown["failed"] and not stands.failed
        accepted = {v.rule: v.accepted for v in journal.verdicts if v.key == stands.key}
        assert {v["rule"]: v["accepted"] for v in shown["verdicts"]} == accepted
    assert [found[s.id][0]["contradicted"] for s in (one, two, three)] == [False, True, False]


def test_a_megabyte_is_shortened_with_a_note(images: ImageSet, tmp_path: Path) -> None:
    million = 1 << 20
    made = candidate(images.samples[0], 0, "x" * million, model="m" * million, finish_reason="stop" * million)
    store = write(
        tmp_path / "store", [make_header(("cat",), FIVE_STAGE, make_question_set(["c" * million]).texts), made]
    )
    write_chains_page(store, tmp_path / "page.html", images)
    [shown] = embedded(tmp_path / "page.html")[0]["candidates"]
    assert shown["characters"] == million and len(shown["parts"][0][1]) < 5000
    assert (tmp_path / "page.html").stat().st_size < 100_000


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    lines = [candidate(sample, 0, "x" * 200_000) for sample in made_up(100)]
    store = write(tmp_path / "store", lines)
    tracemalloc.start()
    write_chains_page(store, tmp_path / "page.html", None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (store / "journal-0.jsonl").stat().st_size > 20e6
    assert peak < 6e6


def test_without_its_images_the_page_says_so(store: Path, tmp_path: Path) -> None:
    write_chains_page(store, tmp_path / "page.html", None)
    assert "pictures and classes are missing" in (tmp_path / "page.html").read_text()
    assert all(card["picture"] is None and card["labels"] == [] for card in embedded(tmp_path / "page.html"))


def test_an_image_that_is_gone_or_changed_is_named(images: ImageSet, tmp_path: Path) -> None:
    here, gone = images.samples[0], made_up(1, "elsewhere")[0]
    lines: list[Record] = [candidate(gone, 0, "a"), candidate(here, 0, "a", image_sha256="of another file")]
    write_chains_page(write(tmp_path / "store", lines), tmp_path / "page.html", images)
    first, second = embedded(tmp_path / "page.html")
    assert "not in the image folder" in first["notes"][0] and first["picture"] is None
    assert "has changed" in second["notes"][0] and second["picture"]


def test_lines_that_cannot_be_used_are_counted(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "journal-0.jsonl"
    copy.write_bytes((store / "journal-0.jsonl").read_bytes() + b'no JSON\n\xff\xfe\n{"schema":1,"kind":"song"}\n')
    assert write_chains_page(copy, tmp_path / "page.html", None).problems == 3
    assert "3 lines of the store could not be used" in (tmp_path / "page.html").read_text()


def test_a_store_without_candidates_is_the_users_fault(tmp_path: Path) -> None:
    store = write(tmp_path / "store", [make_header(CLASSES, FIVE_STAGE, PROMPTS.texts)])
    with pytest.raises(ThroughlineError, match="has no candidate"):
        write_chains_page(store, tmp_path / "page.html", None)
    with pytest.raises(ThroughlineError, match="cannot read the journal"):
        write_chains_page(tmp_path / "none", tmp_path / "page.html", None)
    with pytest.raises(ThroughlineError, match="cannot write"):
        write_chains_page(store, tmp_path, None)
    assert not (tmp_path / "page.html").exists()


def test_progress_is_told_by_lines(tmp_path: Path) -> None:
    store = write(tmp_path / "store", [candidate(sample, 0, "a") for sample in made_up(2500)])
    lines: list[int] = []
    write_chains_page(store, tmp_path / "page.html", None, limit=3, on_progress=lines.append)
    assert lines == [1000, 2000]


# ---- which images are shown when there are more than the page takes


def kinds(page: Path) -> Counter[tuple[str, str]]:
    """Images by domain and by their number, which decides what was written about them."""
    return Counter((card["domain"], Path(card["id"]).stem) for card in embedded(page))


def test_a_sample_is_spread_over_domains_and_outcomes(store: Path, images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert write_chains_page(store, path, images, limit=8).images == 8
    # accepted (numbers 0 and 1), another class (2), failed (3), a fault of form (4): one of each in each domain
    found = Counter((domain, number.replace("1", "0")) for domain, number in kinds(path))
    assert found == {(domain, number): 1 for domain in DOMAINS for number in "0234"}
    assert "8 of 30 images" in path.read_text()


def test_a_sample_does_not_depend_on_the_order_of_lines(images: ImageSet, tmp_path: Path) -> None:
    header, *lines = lines_of(images)
    forwards = write(tmp_path / "one", [header, *lines])
    backwards = write(write(tmp_path / "two", lines[20:][::-1], 0), [*lines[:20][::-1], header], 1)
    chosen = []
    for store in (forwards, backwards):
        write_chains_page(store, tmp_path / "page.html", None, limit=11)
        chosen.append(embedded(tmp_path / "page.html"))
    assert chosen[0] == chosen[1] and len(chosen[0]) == 11


def test_ids_that_are_no_utf8_or_no_path_do_not_stop_the_page(images: ImageSet, tmp_path: Path) -> None:
    here = images.samples[0]
    ids = ["../../etc/passwd", "/etc/passwd", "half \\ud800 a pair", "d/" * 5000, f"photo/../{here.id}"]
    lines = [json.loads(candidate(here, 0, "a").line()) for _ in ids]
    rows = [json.dumps({**line, "sample_id": "ID"}).replace("ID", id) for line, id in zip(lines, ids, strict=True)]
    (tmp_path / "journal-0.jsonl").write_text("\n".join(rows))
    for limit in (3, 4):
        page = write_chains_page(tmp_path, tmp_path / "page.html", images, limit=limit)
        assert (page.images, page.problems) == (limit, 1), "half a character is no line of a journal"
    cards = embedded(tmp_path / "page.html")
    assert all(card["picture"] is None and len(card["id"]) < 400 for card in cards)


@pytest.mark.slow
def test_a_small_domain_leaves_its_room_to_the_others(tmp_path: Path) -> None:
    samples = made_up(2, "tiny") + made_up(12_340, "huge") + made_up(3, "small")
    store = write(tmp_path / "store", [candidate(sample, 0, "a") for sample in samples])
    write_chains_page(store, tmp_path / "page.html", None, limit=500)
    assert Counter(card["domain"] for card in embedded(tmp_path / "page.html")) == {"tiny": 2, "small": 3, "huge": 495}
    assert "500 of 12,345 images" in (tmp_path / "page.html").read_text()


# ---- in a browser


class Cards(HTMLParser):
    """The cards of a page as the browser left it: sample id → the candidates shown, each with its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.shown: dict[str, dict[int, str]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self.words: dict[tuple[str, str], str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.inside.append((tag, dict(attrs).get("class") or ""))
            self.words[self.inside[-1]] = ""

    def handle_endtag(self, tag: str) -> None:
        ended = self.inside.pop()
        if ended == ("p", "id") and self.inside[-1] == ("div", "about"):
            self.name = self.words[ended]
            self.shown[self.name] = {}
        if ended == ("section", "entry"):
            number = re.match(r"candidate (\d+) ", self.words[ended])
            assert number
            self.shown[self.name][int(number[1])] = self.words[ended]

    def handle_data(self, data: str) -> None:
        for element in set(self.inside):
            self.words[element] += data

    @property
    def count(self) -> str:
        return self.words["output", ""]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if BROWSER is None:
        pytest.skip("no headless browser on this machine")
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Callable[..., Cards]:
    """Opens a page with what stands after its "#", and reads what the browser made of it."""

    def opened(page: Path, view: str = "") -> Cards:
        # a copy: to another view of the page that is open, a browser only scrolls
        browser.open(Path(shutil.copy(page, tmp_path / f"opened-{next(numbers)}.html")), view=view)
        return Cards(browser.evaluate("document.documentElement.outerHTML"))

    numbers = itertools.count()
    return opened


def expected(images: ImageSet, wanted: Callable[[Sample, int, str, str], bool]) -> dict[str, set[int]]:
    """Sample id → candidate numbers, worked out from what was written."""
    found: dict[str, set[int]] = {}
    for sample in images.samples:
        for number, (text, finish) in enumerate(attempts(sample)):
            if wanted(sample, number, text, finish):
                found.setdefault(sample.id, set()).add(number)
    return found


FIRST_PAGE = 24
VIEWS: dict[str, Callable[[Sample, int, str, str], bool]] = {
    "domain=sketch&class=cup": lambda sample, *_: sample.domain == "sketch" and sample.label == "cup",
    "verdict=accepted": lambda sample, _, text, __: text == chain(sample.label),
    "rule=consistent&verdict=accepted&candidate=1": lambda _, number, text, __: number == 1 and "CONCLUSION" in text,
    "verdict=rejected&outcome=ok&domain=photo": lambda sample, _, text, __: (
        sample.domain == "photo" and text == chain(other(sample.label))
    ),
    "outcome=truncated": lambda *made: made[3] == "length",
    "request=failed&verdict=none": lambda *made: made[3] == "error",
    "search=I+CANNOT++help": lambda _, __, text, ___: "I cannot help" in text,
    "search=photo%2Fdog": lambda sample, *_: sample.id.startswith("photo/dog"),
    "search=no+such+words&domain=gone": lambda *_: False,
}


def play(browser: Browser, steps: str) -> list[tuple[str, str, dict[str, list[int]]]]:
    """What a reader saw who did these steps: `see()` notes the address, the count and the candidates shown."""
    rows: list[tuple[str, str, dict[str, list[int]]]] = browser.evaluate(f"""(async () => {{
const seen = [];
const form = document.querySelector("form");
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const numbers = (card) => [...card.querySelectorAll("h4")].map((title) => parseInt(title.textContent.slice(10)));
const see = () => seen.push([location.hash, form.querySelector("output").textContent, Object.fromEntries(
  [...document.querySelectorAll(".card")].map((card) => [card.querySelector(".id").textContent, numbers(card)]))]);
const enter = async (name, value) => {{
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("input", {{bubbles: true}}));
  await wait(400);
}};
{steps}
return seen;
}})()""")
    return rows


def test_what_a_teacher_wrote_stays_text_in_a_browser(
    opened: Callable[..., Cards], page: Path, images: ImageSet
) -> None:
    shown = opened(page, "candidate=1&open=yes&search=photo/cat/4")
    assert shown.words["title", ""] == "my store · chains · Throughline"
    said = shown.shown["photo/cat/4.png"][1]
    assert HOSTILE.split("</SUMMARY>")[1] in said and "nul ⟨U+0000⟩" in said
    tags = Counter(tag for tag, _ in shown.tags)
    assert tags["script"] == 2 and tags["img"] == 1 and tags["svg"] == 0
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)


def test_names_of_another_hand_stay_text_too(opened: Callable[..., Cards], browser: Browser, tmp_path: Path) -> None:
    """Ids, domains, models, finish reasons, rules, questions and folder names come from files as well."""
    attack = f"</script><img src=http://{OUTSIDE}/y.png onerror={RUN}>__proto__"
    label = attack.replace("/", "")
    root = tmp_path / "images"
    (root / "photo" / label).mkdir(parents=True)
    Image.new("RGB", (24, 20), "red").save(root / "photo" / label / "0.png")
    images = read_images(root)
    prompts = make_question_set([label], wording=WordingSettings(label=attack + "{options}"))
    asked = prompt_sha256(prompts.reasoning)
    names = {"domain": attack, "model": attack, "source": attack, "finish_reason": attack, "prompt_sha256": asked}
    lines: list[Record] = [make_header([label], FIVE_STAGE, prompts.texts)]
    for sample in (*images.samples, Sample(attack, root, "photo", ("x",), "none")):
        made = candidate(sample, 0, attack, **names)
        lines += [made, Verdict(key=made.key, sample_id=sample.id, rule=attack, outcome="ok", accepted=False)]
    store = write(tmp_path / attack.replace("/", ""), lines)
    write_chains_page(store, tmp_path / "page.html", images)
    shown = opened(tmp_path / "page.html", f"open=yes&rule={attack}&domain={attack}")
    assert set(shown.shown) == {attack, images.samples[0].id}
    assert all(made[0].count(attack) >= 4 for made in shown.shown.values())
    assert shown.words["title", ""].startswith(label) and attack in shown.words["pre", "question"]
    assert Counter(tag for tag, _ in shown.tags)["img"] == 1
    assert browser.requests == []


def test_a_request_would_have_been_noticed(
    opened: Callable[..., Cards], browser: Browser, page: Path, tmp_path: Path
) -> None:
    """The two tests above can fail: the same attack in a page of no care reaches out."""
    careless = tmp_path / "careless.html"
    careless.write_text(f"<title>quiet</title><output></output>{HOSTILE.split('<!--<script>')[1]}")
    assert opened(careless).words["title", ""] == "ran"
    assert set(browser.requests) == {f"http://{OUTSIDE}/x.png"}
    opened(page)
    assert browser.requests == []


def test_a_view_in_the_address_shows_its_cards(opened: Callable[..., Cards], page: Path, images: ImageSet) -> None:
    view = "rule=consistent&verdict=accepted&candidate=1"
    shown = opened(page, view)
    wanted = expected(images, VIEWS[view])
    assert {name: set(made) for name, made in shown.shown.items()} == wanted
    assert shown.count == f"{len(wanted)} of 30 images, {len(wanted)} of 48 candidates"
    accepted = shown.shown["photo/cat/1.png"][1]
    assert "✓ format" in accepted and "✓ correct" in accepted and "REFLECTION" in accepted
    assert "✗ correct another class" in shown.shown["photo/cat/2.png"][1]
    assert "finish reason stop · 812 prompt tokens · 90 completion tokens · $0.00210" in accepted


def test_every_filter_and_the_search_find_what_they_should(
    opened: Callable[..., Cards], browser: Browser, page: Path, images: ImageSet
) -> None:
    opened(page)
    views = json.dumps([f"#{view}" for view in VIEWS])
    steps = f"for (const view of {views}) {{ location.hash = view; await wait(50); see(); }}"
    rows = play(browser, steps)
    assert len(rows) == len(VIEWS)
    for (view, wants), (address, count, shown) in zip(VIEWS.items(), rows, strict=True):
        wanted = expected(images, wants)
        numbers = sum(map(len, wanted.values()))
        assert address == f"#{view}"
        assert count == f"{len(wanted)} of 30 images, {numbers} of 48 candidates", view
        assert {name: set(made) for name, made in shown.items()} == wanted, view


def test_choosing_and_typing_write_the_address_and_back_goes_back(
    opened: Callable[..., Cards], browser: Browser, page: Path, images: ImageSet
) -> None:
    opened(page)
    steps = """
      see();
      document.getElementById("next").click(); await wait(50); see();
      history.back(); await wait(200); see();
      await enter("domain", "sketch"); see();
      await enter("search", "It has a RIM"); see();
      form.querySelector("[type=reset]").click(); await wait(50); see();
    """
    first, second, back, sketch, searched, cleared = play(browser, steps)
    names = sorted(sample.id for sample in images.samples)
    assert list(first[2]) == list(back[2]) == list(cleared[2]) == names[:FIRST_PAGE]
    assert list(second[2]) == names[FIRST_PAGE:] and second[0] == "#page=2"
    assert list(sketch[2]) == names[15:] and sketch[0] == "#domain=sketch&page=1"
    assert searched[0] == "#search=It+has+a+RIM&domain=sketch&page=1"
    assert set(searched[2]) == set(
        expected(images, lambda sample, _, text, __: sample.domain == "sketch" and "It has a rim" in text)
    )
    assert cleared[0] == "#page=1"


@pytest.mark.slow
def test_a_page_of_500_images_holds_24_cards_at_a_time(opened: Callable[..., Cards], tmp_path: Path) -> None:
    lines = [candidate(sample, n, chain("cat")) for sample in made_up(600) for n in range(4)]
    store = write(tmp_path / "store", lines)
    summary = write_chains_page(store, tmp_path / "page.html", None)
    assert (summary.images, summary.candidates) == (500, 2000)
    shown = opened(tmp_path / "page.html", "page=999")
    assert len(shown.shown) == 500 % FIRST_PAGE and shown.words["span", ""].endswith("page 21 of 21")
    assert len(opened(tmp_path / "page.html").shown) == FIRST_PAGE
