"""Pairs about images that were not drawn differ in exactly what the graph says. The drawn world without its scenes
stands for such images; the scenes, which only the tests have, say what is true."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from tests.chat_server import ServerSettings, running_server
from tests.drift.conftest import Undrawn
from tests.drift.teachers import rewrites
from tests.forks import typed

from throughline.chains.concepts import ConceptGraph
from throughline.chains.formats import FIVE_STAGE
from throughline.chains.graph_files import write_graph
from throughline.chains.pairs import FILE, Pair, read_pairs
from throughline.chains.parsing import parse_chain
from throughline.cli.main import main
from throughline.drawn.concepts import CLASSES, contrast_of
from throughline.drawn.counterfactuals import counterfactual
from throughline.teaching import endpoint

SOURCES = "perception,random_image,random_answer,mask,crop,noise"


def typing(undrawn: Undrawn, out: Path, *more: str) -> list[str]:
    words = ["drift", "pairs", str(undrawn.images.root), "--out", str(out)]
    return [*words, "--graph", str(undrawn.graph), "--chains", str(undrawn.store), *more]


@pytest.fixture(scope="module")
def made(undrawn: Undrawn, tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    out = tmp_path_factory.mktemp("pairs") / "pairs"
    assert main(typing(undrawn, out, "--source", SOURCES)) == 0
    return read_pairs(out, undrawn.images)


def of(pairs: list[Pair], source: str) -> list[Pair]:
    return [pair for pair in pairs if pair.source == source]


def test_a_perception_pair_shows_a_near_image_that_differs_in_what_decides(undrawn: Undrawn, made: list[Pair]) -> None:
    pairs = of(made, "perception")
    assert len(pairs) > 0.8 * len(undrawn.images.samples)
    contrasts = 0
    for pair in pairs:
        own, other = (undrawn.scenes[side.sample.id] for side in (pair.chosen, pair.rejected))
        assert pair.chosen.sample.domain == pair.rejected.sample.domain
        assert own.cls != other.cls == pair.rejected.label
        assert {*pair.changed} <= {*own.parts} ^ {*other.parts}, "the scenes differ in what the chains say"
        assert 1 <= len(pair.changed) <= (pair.distance or 0)
        contrasts += other.cls == contrast_of(own.cls)
    assert contrasts > 0.9 * len(pairs), "the nearest class is that of the same family"


def test_rivals_need_no_scene(made: list[Pair]) -> None:
    for source in ("random_image", "random_answer", "mask", "crop", "noise"):
        pairs = of(made, source)
        assert len(pairs) == len({pair.chosen.sample.id for pair in made})
        assert all(pair.verdict is None for pair in pairs)
        assert all(
            (pair.rejected.label == pair.chosen.label) == (source in ("mask", "crop", "noise")) for pair in pairs
        )


@pytest.mark.slow
def test_a_killed_command_leaves_nothing_and_then_makes_the_same_pairs(
    undrawn: Undrawn, made: list[Pair], tmp_path: Path
) -> None:
    out = tmp_path / "pairs"
    words = typing(undrawn, out, "--source", SOURCES)
    process = typed(words, tmp_path / "said")
    deadline = time.monotonic() + 60
    while not (tmp_path / ".pairs.partial").exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not out.exists()
    assert main(words) == 0
    assert [pair.identity for pair in read_pairs(out, undrawn.images)] == [pair.identity for pair in made]


def test_a_teacher_rewrites_chains_and_one_that_changes_too_much_or_too_little_makes_no_pair(
    undrawn: Undrawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, log = tmp_path / "pairs", tmp_path / "log.jsonl"
    with running_server(ServerSettings(says=rewrites, log=log)) as server:
        asked = ["--source", "thinking,thinking", "--teacher", server.url, "--teacher-model", "seer"]
        assert main(typing(undrawn, out, *asked)) == 0
    pairs = read_pairs(out, undrawn.images)
    assert len(pairs) > 2 and len({pair.chosen.sample.id for pair in pairs}) == len(pairs), "named twice, made once"
    for pair in pairs:
        own, scene, text = pair.chosen.sample, undrawn.scenes[pair.chosen.sample.id], pair.rejected.chain or ""
        other = counterfactual(scene)
        assert pair.rejected.sample == own and own.label == "bowl" and "i find a handle" in text
        assert {*pair.changed} == {*scene.parts} ^ {*other.parts}
        assert parse_chain(text, FIVE_STAGE, CLASSES).label == other.cls == pair.rejected.label
        assert (pair.distance, pair.verdict) == (1, "graph")
    said = capsys.readouterr().out
    assert re.search(r"thinking: \d+ images without a pair: the new chain concludes otherwise", said)
    assert re.search(r"thinking: \d images without a pair: its attributes are not those intended", said)
    prompts = [json.loads(line)["body"]["messages"][0]["content"][0]["text"] for line in log.read_text().splitlines()]
    assert len({*prompts}) == len(prompts), "nothing is asked twice"
    assert any("Change these attributes alone, wherever they are mentioned: handle is there." in p for p in prompts)


def test_a_teacher_who_is_not_asked_is_left_in_order(
    undrawn: Undrawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = []

    def opened(**options: Any) -> Any:
        clients.append(openai.DefaultAsyncHttpx2Client(**options))
        return clients[-1]

    with monkeypatch.context() as patched:
        patched.setattr(endpoint, "openai", SimpleNamespace(**{**vars(openai), "DefaultAsyncHttpx2Client": opened}))
        asked = ["--source", "random_answer", "--teacher", "http://127.0.0.1:9/v1", "--teacher-model", "seer"]
        assert main(typing(undrawn, tmp_path / "pairs", *asked)) == 0
    assert [client.is_closed for client in clients] == [True]


def test_the_model_keeps_pairs_whose_chain_it_finds_likelier_with_the_true_image(
    undrawn: Undrawn, made: list[Pair], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.mllm import reference

    from throughline.domains.views import load_sample
    from throughline.mllm.chat import user_turn
    from throughline.mllm.load import load_mllm
    from throughline.questions.question_set import make_question_set

    out = tmp_path / "pairs"
    assert main(typing(undrawn, out, "--source", "perception", "--model", str(tiny_checkpoint))) == 0
    kept = {pair.chosen.sample.id: pair for pair in read_pairs(out, undrawn.images)}
    pairs, mllm = of(made, "perception"), load_mllm(str(tiny_checkpoint))
    question = user_turn(make_question_set(undrawn.images.classes).reasoning)
    assert 0 < len(kept) < len(pairs)
    for pair in pairs[::5]:
        sides, chain = (pair.chosen, pair.rejected), pair.chosen.chain or ""
        monkeypatch.setattr(reference, "image_of", lambda place, *_, sides=sides: load_sample(sides[place].sample))
        spoken = [reference.Spoken(question, [(place, 0, 0)], chain) for place in (0, 1)]
        nlls = [reference.nll_alone(mllm.model, mllm.chat.processor, "internvl", one) for one in spoken]
        assert (pair.chosen.sample.id in kept) == bool(nlls[0].sum() < nlls[1].sum())
    assert all(pair.verdict == "graph and model" for pair in kept.values())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--graph", "GRAPH"], "add --chains STORE"),
        (["--chains", "STORE"], "add --graph FILE"),
        (["--chains", "STORE", "--graph", "GRAPH"], "need a teacher who rewrites chains"),
        (["--chains", "STORE", "--graph", "SMALL", "--source", "perception"], "the graph has no class boat"),
        (["--chains", "STORE", "--graph", "GRAPH", "--source", "deciding_mask"], "need the scene of a drawn image"),
    ],
)
def test_what_pairs_need_is_said_in_a_line(
    undrawn: Undrawn, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    small = tmp_path / "small.yaml"
    write_graph(small, ConceptGraph({"cup": {"handle": 1}, "bowl": {"handle": -1}}))
    named = {"GRAPH": str(undrawn.graph), "STORE": str(undrawn.store), "SMALL": str(small)}
    words = ["drift", "pairs", str(undrawn.images.root), "--out", str(tmp_path / "pairs")]
    assert main([*words, *(named.get(word, word) for word in more)]) != 0
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1
    assert not (tmp_path / "pairs").exists()


def test_pairs_are_seen_side_by_side(undrawn: Undrawn, made: list[Pair], tmp_path: Path) -> None:
    out, page = tmp_path / "pairs", tmp_path / "page.html"
    assert main(typing(undrawn, out, "--source", SOURCES)) == 0
    view = ["chains", "view", str(out), str(page)]
    assert main([*view, "--images", str(undrawn.images.root), "--limit", "2"]) == 0
    text = page.read_text()
    shown = Counter(re.findall(r"<h3>(\w+)", text))
    assert {source: shown[source] for source in SOURCES.split(",")[1:]} == dict.fromkeys(SOURCES.split(",")[1:], 2)
    assert shown["perception"] <= 2 and text.count("<article") == shown.total()
    assert text.count('<img src="data:image/jpeg') == 2 * shown.total()
    assert "<mark>" in text
    assert main(view) == 2, "it does not know where the images are"
    row = json.loads((out / FILE).read_text().splitlines()[0])
    (out / FILE).write_text(json.dumps({**row, "chosen": "<script>alert(1)</script>"}) + "\n")
    assert main([*view, "--images", str(undrawn.images.root)]) == 0
    assert "<script>" not in page.read_text()
