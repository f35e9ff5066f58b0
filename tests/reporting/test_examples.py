"""Three held-out images stand beside the card with the full method's chains: always the same, and as in the folder."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from throughline.core.files import read_json_lines, write_json_lines
from throughline.reporting.gallery import make_examples
from throughline.reporting.groups import groups
from throughline.reporting.page import write_page
from throughline.runs.reader import read_run

if TYPE_CHECKING:
    from tests.reporting.conftest import FakeRun

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


def examples_of(page: str) -> tuple[str, list[str]]:
    """The text above the cards, and that of each card, with one space for any number."""
    ((block,),) = (re.findall(r'<aside class="examples">(.*?)</aside>', page, re.DOTALL),)
    title, *cards = (" ".join(re.sub("<[^>]+>", " ", part).split()) for part in block.split('<article class="card">'))
    return html.unescape(title), [html.unescape(card) for card in cards]


def written(fake: FakeRun, method: str) -> list[dict[str, Any]]:
    """The method's chains of seed 0 about the images whose ids have the smallest SHA-256, from the files."""
    folders = (fake.folder / "units").glob(f"{method}-*-0-*")
    lines = [line for folder in folders for line in read_json_lines(folder / "predictions.jsonl")]
    chains = [line for line in lines if line["answer"] == "reasoning"]
    return sorted(chains, key=lambda line: hashlib.sha256(line["sample_id"].encode()).digest())[:3]


@pytest.mark.parametrize(
    ("methods", "method"),
    [
        (("zero_shot", "cls", "mtct", "mtct_sarr"), "mtct_sarr"),
        (("zero_shot", "cls", "reasoning", "mtct"), "mtct"),
    ],
)
def test_the_chains_of_the_fullest_method_are_those_of_the_folder(
    make_run: Callable[..., FakeRun], methods: tuple[str, ...], method: str
) -> None:
    fake = make_run(methods=methods, seeds=(0, 1))
    page = write_page(fake.folder, fake.images).read_text()
    title, cards = examples_of(page)
    assert title.startswith(f"Chains of {method} about 3 held-out images") and "smallest SHA-256" in title
    assert page.count('<img src="data:image/jpeg') == 3
    for line, card in zip(written(fake, method), cards, strict=True):
        right = "✓ right" if line["predicted"] in line["labels"] else "✗ wrong"
        assert card.startswith(f"{line['labels'][0]} · concluded: {line['predicted'] or 'no class'} {right}")
        assert f"{line['sample_id']}, seed 0" in card
        for text in re.findall(r">([^<>]+)</[A-Z]+>", line["text"]):
            assert text in card


def test_no_method_is_shown_before_the_full_one(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("mtct", "mtct_sarr"), seeds=(0,), targets=("sketch",))
    path = fake.folder / "results.jsonl"
    named = {"mtct": "dpo_symmetric", "mtct_sarr": "mtct_sarr"}
    write_json_lines(path, [{**row, "method": named[row["method"]]} for row in read_json_lines(path)])
    (group,) = groups(read_run(fake.folder))
    assert [*group.setups] == ["mtct_sarr", "dpo_symmetric"]
    shown = make_examples(group, None)
    assert shown is not None and shown.setup == "mtct_sarr"


def test_other_answers_change_no_image(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(seeds=(0,))
    before = [line["sample_id"] for line in written(fake, "mtct_sarr")]
    for path in (fake.folder / "units").glob("mtct_sarr-*/predictions.jsonl"):
        rows = read_json_lines(path)
        write_json_lines(path, [{**row, "predicted": None, "outcome": "truncated", "text": "x" * 700} for row in rows])
    page = write_page(fake.folder).read_text()
    _, cards = examples_of(page)
    assert [re.search(r"\S+\.png", card)[0] for card in cards] == before  # type: ignore[index]
    assert all("no picture" in card and "no class ✗ wrong truncated" in card and "chain xxx" in card for card in cards)


def test_a_run_in_which_nobody_wrote_a_chain_has_none(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("zero_shot", "cls"), seeds=(0,))
    for path in (fake.folder / "units").glob("*/predictions.jsonl"):
        write_json_lines(path, [row for row in read_json_lines(path) if row["answer"] != "reasoning"])
    assert '<aside class="examples">' not in write_page(fake.folder, fake.images).read_text()
