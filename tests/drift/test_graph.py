"""`throughline drift graph`: graph files are checked, shown and drawn; a teacher extracts one out of chains."""

import csv
import json
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.chains.plain_fold import read_journal
from tests.chat_server import ServerSettings, running_server
from tests.drift.conftest import Undrawn
from tests.drift.teachers import lists_relations, relations_of
from tests.forks import typed

from throughline.chains.graph_files import read_graph
from throughline.cli.main import main
from throughline.drawn.concepts import CLASSES, GRAPH, family_of

VESSELS = """
categories: {parts: [handle, basin], "looks <&>": [steam]}
classes:
  cup: {handle: 1, basin: 1}
  bowl: {handle: -1, basin: 1, steam: 0}
"""


def extraction(url: str, undrawn: Undrawn, out: Path) -> list[str]:
    words = ["drift", "graph", str(undrawn.store), "--teacher", url, "--teacher-model", "seer"]
    return [*words, "--out", str(out), "--at-once", "2"]


def accepted_chains(store: Path) -> list[str]:
    journal = read_journal(store)
    accepted = {(v.key, v.sample_id) for v in journal.verdicts if v.rule == "correct" and v.accepted}
    return [c.text for c in journal.candidates if (c.key, c.sample_id) in accepted]


def test_a_graph_file_is_summed_up_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "graph.yaml").write_text(VESSELS)
    figure = tmp_path / "graph.svg"
    assert main(["drift", "graph", str(tmp_path / "graph.yaml"), "--figure", str(figure)]) == 0
    said = capsys.readouterr().out
    assert "2 classes, 3 attributes" in said
    assert [line.split() for line in said.splitlines() if line.strip().startswith(("bowl", "cup"))] == [
        ["bowl", "1", "1", "cup", "handle"],
        ["cup", "2", "0", "bowl", "handle"],
    ]
    first = figure.read_text()
    drawn = {text.strip() for text in ElementTree.fromstring(first).itertext()}
    assert {"cup", "bowl", "handle", "basin", "steam", "parts", "looks <&>"} <= drawn
    (tmp_path / "graph.yaml").write_text(VESSELS.replace("steam: 0", "steam: -1"))
    assert main(["drift", "graph", str(tmp_path / "graph.yaml"), "--figure", str(figure)]) == 0
    assert figure.read_text().count("<use") == first.count("<use") + 1, "another attribute is crossed"


def test_a_bad_graph_is_refused_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "graph.yaml").write_text("classes:\n  cup: {handle: 1}\n  bowl: {handle: 1}\n")
    assert main(["drift", "graph", str(tmp_path / "graph.yaml")]) == 1
    assert "graph.yaml, line 2" in capsys.readouterr().err


def test_the_exact_graph_of_drawn_images_can_be_written(tmp_path: Path) -> None:
    assert main(["drift", "graph", "drawn", "--out", str(tmp_path / "graph.yaml")]) == 0
    assert read_graph(tmp_path / "graph.yaml") == GRAPH


def test_a_graph_is_not_written_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", "graph", "drawn", "--out", str(tmp_path / "graph.csv")]) == 1
    assert "a graph is written as YAML" in capsys.readouterr().err
    assert not (tmp_path / "graph.csv").exists()


def test_a_store_needs_a_teacher(undrawn: Undrawn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", "graph", str(undrawn.store)]) == 2
    assert "add --teacher URL" in capsys.readouterr().err


def test_a_teacher_extracts_a_graph_with_its_evidence(
    undrawn: Undrawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "graph.csv"
    with running_server(ServerSettings(says=lists_relations)) as server:
        assert main(extraction(server.url, undrawn, out)) == 0
        requests = server.stats()["requests"]
        assert main(extraction(server.url, undrawn, out)) == 0
        assert server.stats()["requests"] == requests, "a recorded answer was asked for again"
    chains = accepted_chains(undrawn.store)
    assert f"{len(chains)} of {len(chains)} answers read" in capsys.readouterr().out
    stated = Counter((r["class"], r["attribute"], r["relation"]) for text in chains for r in relations_of(text))
    rows = list(csv.DictReader(out.open()))
    assert {(row["class"], row["attribute"], sign) for row in rows for sign in "+-" if row[NAMES[sign]] != "0"} == {
        *stated
    }
    for row in rows:
        edge = row["class"], row["attribute"]
        assert [int(row["required"]), int(row["excluded"])] == [stated[*edge, "+"], stated[*edge, "-"]]
        enough = max(stated[*edge, "+"], stated[*edge, "-"]) >= 2
        assert (row["sign"] != "0") == enough, "in chains that are right, nothing contradicts itself"
    graph = read_graph(out)
    deciding = {label: family_of(label).deciding for label in CLASSES}
    known = [label for label in graph.signs if deciding[label] in graph.signs[label]]
    assert len(known) > 8
    assert all(graph.signs[label][deciding[label]] == GRAPH.signs[label][deciding[label]] for label in known)


NAMES = {"+": "required", "-": "excluded"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('[{"class": "cup", "attribute": "Handles", "relation": "?"}]', "no answer is a list of relations"),
        ("A cup has a handle.", "no answer is a list of relations"),
    ],
)
def test_answers_that_are_no_list_make_no_graph(
    undrawn: Undrawn, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str, said: str
) -> None:
    message = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
    with running_server(ServerSettings(always=(200, {"choices": [message]}))) as server:
        assert main(extraction(server.url, undrawn, tmp_path / "graph.csv")) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "graph.csv").exists()


def test_thin_and_contradictory_evidence_leaves_an_edge_free_and_says_so(
    undrawn: Undrawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relations = [("cup", "a Handle", "+"), ("bowl", "a handle", "-"), ("bowl", "steam", "+"), ("bowl", "Steam", "-")]
    answer = [{"class": label, "attribute": name, "relation": sign} for label, name, sign in relations]
    answer.append({"class": "teapot", "attribute": "lid", "relation": "+"})
    message = {"message": {"role": "assistant", "content": json.dumps(answer)}, "finish_reason": "stop"}
    out = tmp_path / "graph.csv"
    with running_server(ServerSettings(always=(200, {"choices": [message]}))) as server:
        words = extraction(server.url, undrawn, out)
        assert main(words) == 0
        said = capsys.readouterr().out
        assert main([*words, "--least", "1000"]) == 1, "no edge is left"
    assert "1 contradictory" in said and "2 set" in said
    assert "unknown classes (teapot)" in said
    assert "3 with too few chains" in capsys.readouterr().out
    assert {row["sign"] for row in csv.DictReader(out.open())} == {"0"}


@pytest.mark.slow
def test_a_killed_extraction_goes_on_and_asks_nothing_twice(undrawn: Undrawn, tmp_path: Path) -> None:
    out, log = tmp_path / "graph.csv", tmp_path / "log.jsonl"
    known_at_kill = []
    with running_server(ServerSettings(says=lists_relations, log=log, latency=0.15)) as server:
        for _ in range(3):
            before = server.stats()["answered"]
            process = typed(extraction(server.url, undrawn, out), tmp_path / "said")
            deadline = time.monotonic() + 60
            while server.stats()["answered"] < before + 4 and time.monotonic() < deadline:
                time.sleep(0.02)
            process.kill()
            process.join()
            known_at_kill.append(len(read_journal(tmp_path / "graph.csv.answers").candidates))
        last = typed(extraction(server.url, undrawn, out), tmp_path / "said")
        last.join(120)
        assert last.exitcode == 0, (tmp_path / "said").read_text()
        assert main(extraction(server.url, undrawn, tmp_path / "undisturbed.csv")) == 0
    assert 0 < known_at_kill[0] < known_at_kill[-1] < len(accepted_chains(undrawn.store))
    assert out.read_text() == (tmp_path / "undisturbed.csv").read_text()
    asked = Counter(json.loads(line)["digest"] for line in log.read_text().splitlines() if '"answered"' in line)
    # once by the undisturbed run; of the killed one only what was under way may have been sent twice
    assert sum(asked.values()) - 2 * len(asked) <= 3 * 2
