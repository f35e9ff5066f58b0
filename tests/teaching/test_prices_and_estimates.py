"""What a build costs: whose price counts, and how an estimate turns from a rule of thumb into a measurement."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.records import Usage
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.questions.sampler import Reply
from throughline.teaching.building import build_chains
from throughline.teaching.estimate import estimate
from throughline.teaching.plan import BuildPlan
from throughline.teaching.prices import Price, price_of, read_prices
from throughline.teaching.prompt import teacher_prompt
from throughline.teaching.teachers import Brief, Request

CLASSES = ("cat", "dog")
PRICE = Price(prompt=2.0, completion=10.0)


def test_a_dated_model_costs_what_its_name_costs_and_a_small_one_does_not() -> None:
    assert price_of("gpt-4o-2024-08-06") == price_of("gpt-4o")
    assert price_of("gpt-4o-mini") != price_of("gpt-4o")
    assert price_of("gpt-4o-mini-2024-07-18") == price_of("gpt-4o-mini")
    assert price_of("my-own") is None and price_of("gpt-4o-audio") is None


def test_the_users_price_stands_above_ours(tmp_path: Path) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text("gpt-4o: {prompt: 1, completion: 3}\nmy-own: {prompt: 0, completion: 0}\n")
    own = read_prices(table)
    assert price_of("gpt-4o-2024-08-06", own) == Price(prompt=1, completion=3)
    assert price_of("my-own", own) == Price(prompt=0, completion=0)
    assert Price(prompt=1, completion=3).of(2_000_000, 1_000_000) == 5.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("gpt-4o: 3", "gpt-4o"),
        ("gpt-4o: {prompt: -1, completion: 2}", r"gpt-4o\.prompt"),
        ("gpt-4o: {prompt: 1}", r"gpt-4o\.completion"),
        ("gpt-4o: {prompt: 1, completion: 2, image: 3}", r"gpt-4o\.image"),
        ("a: [", "cannot read the prices"),
        ("", "write lines such as"),
    ],
)
def test_a_table_that_is_none_is_told_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text(text)
    with pytest.raises(ThroughlineError, match=complaint) as raised:
        read_prices(table)
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("images")
    for number in range(20):
        path = root / "photo" / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (600, 400), (number, 0, 0)).save(path)
    return read_images(root)


class Half:
    """Right about cats at once, about dogs never."""

    batch = at_once = 1

    def __init__(self, brief: Brief) -> None:
        self.brief = brief

    async def write(self, requests: list[Request]) -> list[Reply]:
        stages = " ".join(f"<{name}> x </{name}>" for name in FIVE_STAGE.stages[:-1])
        usage = Usage(prompt_tokens=500, completion_tokens=200)
        return [Reply(f"{stages} <CONCLUSION> cat </CONCLUSION>", "stop", usage) for _ in requests]


def test_an_estimate_without_answers_spans_fewest_to_most_and_says_so(images: ImageSet, tmp_path: Path) -> None:
    plan, brief = BuildPlan(images, FIVE_STAGE, candidates=4), Brief("endpoint", "m", "x" * 400, {"image_side": 1024})
    found = estimate(plan, brief, tmp_path / "none", PRICE)
    assert (found.images, found.requests, found.expected_requests, found.measured) == (20, (20, 80), None, 0)
    # 100 tokens of text; an image of 600 x 400 is two tiles by one of 512 pixels
    assert found.prompt_tokens == pytest.approx(100 + 85 + 2 * 170)
    assert found.cost(20) == pytest.approx(20 * (525 * 2 + found.completion_tokens * 10) / 1e6)
    assert not (tmp_path / "none").exists()
    assert replace(found, price=None).cost(20) is None


def test_an_estimate_after_a_limit_uses_what_was_measured(images: ImageSet, tmp_path: Path) -> None:
    brief = Brief("endpoint", "m", teacher_prompt(CLASSES, FIVE_STAGE), {"image_side": 1024})
    few = BuildPlan(replace(images, samples=images.samples[:4] + images.samples[10:14]), FIVE_STAGE, candidates=4)
    build_chains(few, Half(brief), tmp_path)
    found = estimate(replace(few, images=images), brief, tmp_path, PRICE)
    assert (found.images, found.requests) == (12, (12, 48)), "four have a chain, four have used up their candidates"
    assert (found.prompt_tokens, found.completion_tokens, found.measured) == (500, 200, 20)
    share = 4 / 20
    assert found.expected_requests == round(12 * sum((1 - share) ** k for k in range(4)))


def test_the_teachers_question_has_the_options_and_every_stage(tmp_path: Path) -> None:
    question = teacher_prompt(("alarm_clock", "cup"), FIVE_STAGE)
    assert question.startswith(
        "What type of object is in this photo? Choose from the following options: alarm clock, cup"
    )
    assert [question.count(f"<{name}>") for name in FIVE_STAGE.stages] == [1] * 5
    own = tmp_path / "own.txt"
    own.write_text("Pick one: {options}\n{stages}")
    assert teacher_prompt(("cup",), FIVE_STAGE, own).startswith("Pick one: cup\n<SUMMARY>")
    own.write_text("Pick one.")
    with pytest.raises(ThroughlineError, match=r"no \{options\}"):
        teacher_prompt(("cup",), FIVE_STAGE, own)
