"""`throughline chains` as a user types it: what is printed, what is written, how mistakes are told."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.chains.plain_fold import read_journal
from tests.chat_server import FaultPlan, RunningServer, ServerSettings, running_server

from throughline.cli.main import main
from throughline.domains.folders import read_images
from throughline.drawn.world import write_world

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chains") / "world"
    write_world(root, per_class=1, seed=2, styles=("photo", "sketch"))
    return root


@pytest.fixture(scope="module")
def store(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chains") / "store"
    assert main(["chains", "build", str(world), "--teacher", "drawn", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def server(world: Path) -> Iterator[RunningServer]:
    labels = {sample.image_sha256: sample.label for sample in read_images(world).samples}
    with running_server(ServerSettings(labels=labels)) as running:
        yield running


def chains(*words: object) -> int:
    return main(["chains", *map(str, words)])


def test_a_drawn_world_gets_its_chains_and_again_nothing_is_asked(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chains("build", world, "--teacher", "drawn", "--out", tmp_path) == 0
    told = capsys.readouterr().out
    assert "of 24 images have an accepted chain" in told
    assert all(f"{rule} " in told.partition("accepted by rule: ")[2] for rule in ("format", "consistent", "correct"))
    before = (tmp_path / "journal-0.jsonl").read_bytes()
    assert chains("build", world, "--teacher", "drawn", "--out", tmp_path, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["answers"] == 0 and again["cached"] == before.count(b'"kind":"candidate"')
    assert (tmp_path / "journal-0.jsonl").read_bytes() == before


def test_a_limit_is_spread_over_domains_and_classes(world: Path, tmp_path: Path) -> None:
    assert chains("build", world, "--teacher", "drawn", "--out", tmp_path, "--limit", 15) == 0
    ids = {c.sample_id for c in read_journal(tmp_path).candidates}
    assert len(ids) == 15 and {name.split("/")[0] for name in ids} == {"photo", "sketch"}
    assert len({name.split("/")[1] for name in ids}) == 12


def test_a_limited_build_says_what_all_images_would_take(
    world: Path, server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--teacher", server.url, "--model", "gpt-4o", "--limit", 6]
    assert chains("build", world, "--out", tmp_path, *words) == 0
    told = capsys.readouterr().out.partition("estimate for all 24 images")[2]
    assert "images that need chains: 18 of 24" in told and "mean of 6 answers" in told and "cost: $" in told


def test_an_endpoint_is_asked_with_the_parameters_given(
    world: Path, server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--teacher", server.url, "--model", "gpt-4o", "--param", "temperature=null", "--param", "top_p=0.9"]
    assert chains("build", world, "--out", tmp_path, *words) == 0
    assert "24 of 24 images have an accepted chain" in capsys.readouterr().out
    candidate = read_journal(tmp_path).candidates[0]
    assert candidate.params == {
        "top_p": 0.9,
        "max_tokens": 1024,
        "seed": True,
        "image_side": 1024,
        "format": "five_stage",
    }
    assert candidate.usage and candidate.usage.cost and candidate.created and candidate.created.endswith("Z")
    assert chains("build", world, "--out", tmp_path, *words, "--at-once", 2, "--timeout", 7, "--json") == 0
    assert json.loads(capsys.readouterr().out)["answers"] == 0, "how fast it is asked is no part of a request"


def test_a_build_stops_at_its_cost_with_exit_code_3(
    world: Path, server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", world, "--teacher", server.url, "--model", "gpt-4o", "--out", tmp_path, "--at-once", 1]
    assert chains(*words, "--max-cost", 0.005) == 3
    assert "stopped at --max-cost $0.0050" in capsys.readouterr().err
    spent = sum(c.usage.cost or 0 for c in read_journal(tmp_path).candidates if c.usage)
    assert 0.003 < spent <= 0.005 + 0.003
    assert chains(*words) == 0


@pytest.mark.slow
def test_ctrl_c_waits_for_what_is_under_way(world: Path, tmp_path: Path) -> None:
    """What was sent may be billed: its answer is written down before the build ends, with exit code 3."""
    labels = {sample.image_sha256: sample.label for sample in read_images(world).samples}
    with running_server(ServerSettings(labels=labels, latency=1.0)) as server:
        command = [sys.executable, "-m", "throughline.cli.main", "chains", "build", str(world), "--out", str(tmp_path)]
        command += ["--teacher", server.url, "--model", "m", "--at-once", "4"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)  # noqa: PLW1509
        deadline = time.monotonic() + 60
        while server.stats()["now"] < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        sent = server.stats()["requests"]
    assert process.returncode == 3, told
    assert "waiting for 4 answers that may cost money" in told and "images not done yet" in told
    assert len(read_journal(tmp_path).candidates) == sent < 24
    assert (tmp_path / "in-flight-0.txt").read_text().split() == ["lost", "0"]


def heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_build_in_which_everything_failed_says_why_and_exits_with_1(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "m", "--attempts", 1, "--limit", 3, "--out", tmp_path]
    with running_server(ServerSettings(faults=FaultPlan(errors_500=1.0))) as server:
        assert chains("build", world, "--teacher", server.url, *words) == 1
    told = capsys.readouterr().out
    assert "0 of 3 images have an accepted chain; 3 failed" in told and "3 times: given up after 1 attempts" in told


def answering(text: object, reason: str = "stop", **message: object) -> tuple[int, object]:
    return 200, {"choices": [{"message": {"content": text, **message}, "finish_reason": reason}]}


def test_a_teacher_of_whose_first_answers_none_is_accepted_is_stopped(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", world, "--model", "m", "--out", tmp_path / "store", "--at-once", 4]
    with running_server(ServerSettings(always=answering("A fine picture of\x1b nothing."))) as server:
        words += ["--teacher", server.url]
        assert chains(*words) == 1
        told = capsys.readouterr()
        assert "none of the first 5" in told.err and "(missing_stage)" in told.err and "--go-on" in told.err
        assert "missing_stage, such as: A fine picture of\\x1b nothing." in told.out
        answers = len(read_journal(tmp_path / "store").candidates)
        assert 50 <= answers < 60
        assert chains(*words) == 1 and len(read_journal(tmp_path / "store").candidates) == answers
        assert chains(*words, "--go-on") == 0
    assert len(read_journal(tmp_path / "store").candidates) == 96


def test_a_teacher_with_one_accepted_answer_goes_on(world: Path, tmp_path: Path) -> None:
    [first, *_] = read_images(world).samples
    stages = "".join(f"<{name}> a </{name}>" for name in ("SUMMARY", "CAPTION", "REASONING", "REFLECTION"))
    right = answering(f"{stages}<CONCLUSION> {first.label} </CONCLUSION>")
    with running_server(ServerSettings(always=answering("no"), first={first.image_sha256: [right]})) as server:
        assert chains("build", world, "--model", "m", "--out", tmp_path, "--teacher", server.url) == 0
    assert len(read_journal(tmp_path).candidates) == 1 + 23 * 4


def thought_about(world: Path) -> tuple[int, object]:
    [first, *_] = read_images(world).samples
    stages = "".join(f"<{name}> a </{name}>" for name in ("SUMMARY", "CAPTION", "REASONING", "REFLECTION"))
    return answering(None, reasoning_content=f"A hull. {stages}<CONCLUSION> {first.label} </CONCLUSION>")


def test_answers_of_nothing_but_thinking_are_told_and_can_be_read(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", world, "--model", "m", "--limit", 1, "--candidates", 2]
    with running_server(ServerSettings(always=thought_about(world))) as server:
        assert chains(*words, "--out", tmp_path / "a", "--teacher", server.url) == 0
        told = capsys.readouterr().out
        assert "empty 2" in told and "2 answers had only thinking" in told and "--read-thinking" in told
        assert chains(*words, "--out", tmp_path / "b", "--teacher", server.url, "--read-thinking", "--json") == 0
        assert json.loads(capsys.readouterr().out)["by_rule"]["format"] > 0


def test_a_batchs_answers_of_nothing_but_thinking_are_told_and_can_be_read(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, body = thought_about(world)
    answers = tmp_path / "answers.jsonl"
    for store, read_thinking in ((tmp_path / "a", []), (tmp_path / "b", ["--read-thinking"])):
        words = ["--model", "m", "--limit", 1, "--out", store, "--files", store / "files"]
        assert chains("batch", "write", world, *words) == 0
        [written] = (store / "files").glob("*.jsonl")
        asked = json.loads(written.read_text())["custom_id"]
        answers.write_text(json.dumps({"custom_id": asked, "response": {"status_code": status, "body": body}}))
        capsys.readouterr()
        assert chains("batch", "read", world, answers, "--out", store, *read_thinking) == 0
        told = capsys.readouterr().out
        assert ("1 answers had only thinking: --read-thinking" in told) == (not read_thinking)
        assert read_journal(store).verdicts[0].accepted == bool(read_thinking)


@pytest.mark.parametrize(
    ("status", "body", "code", "complaint"),
    [
        (402, {"error": {"message": "add some"}}, 1, "the account has no credit left"),
        (200, {"error": {"message": "add some", "code": 402}}, 1, "the account has no credit left"),
        (413, "<html><h1>The request is too large</h1></html>", 1, "--image-side"),
        (400, {"error": {"message": "image exceeds 5 MB maximum"}}, 1, "--image-side"),
    ],
)
def test_an_endpoint_that_answers_nothing_is_one_line(
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: object,
    code: int,
    complaint: str,
) -> None:
    with running_server(ServerSettings(always=(status, body))) as server:
        assert chains("build", world, "--model", "m", "--out", tmp_path, "--teacher", server.url) == code
    told = capsys.readouterr().err.strip()
    assert complaint in told.splitlines()[-1]


def test_a_store_of_other_images_is_told(
    world: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    write_world(other, per_class=1, seed=77, styles=("photo",))
    before = (store / "journal-0.jsonl").read_bytes()
    for words in (
        ["build", other, "--teacher", "drawn", "--out", store],
        ["batch", "write", other, "--model", "m", "--out", store, "--files", tmp_path / "files"],
        ["stats", store, "--images", other],
        ["export", store, tmp_path / "dataset", "--images", other],
    ):
        assert chains(*words) == 1
        told = capsys.readouterr().err
        assert f"the chains of this store are about other images ({world})" in told and str(store) in told
    assert (store / "journal-0.jsonl").read_bytes() == before
    assert chains("build", world, "--teacher", "drawn", "--out", store, "--limit", 3) == 0, "some of its own"


def test_a_misspelt_folder_is_told_and_not_drawing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert chains("build", tmp_path / "nothere", "--teacher", "drawn", "--out", tmp_path / "store") == 1
    told = capsys.readouterr().err
    assert f"no such folder or table of images [{tmp_path / 'nothere'}]" in told and "data draw" not in told


def test_wrong_arguments_are_told_before_the_images_are_read(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(source: Path) -> None:
        raise AssertionError("the images are read")

    ordered = tmp_path / "ordered"
    assert chains("batch", "write", world, "--model", "m", "--out", ordered, "--files", tmp_path / "files") == 0
    capsys.readouterr()
    monkeypatch.setattr("throughline.domains.folders.read_images", read)
    file = tmp_path / "file"
    file.write_text("")
    endpoint = ["--teacher", "http://a/v1", "--model", "gpt-4o"]
    for words in (
        ["--teacher", "http://a/v1"],
        ["--teacher", "http://[::1/v1", "--model", "m"],
        ["--teacher", "nowhere/at-all"],
        ["--teacher", "drawn", "--shard", "4"],
        ["--teacher", "drawn", "--candidates", "99"],
        ["--teacher", "drawn", "--enough", "5"],
        ["--teacher", "drawn", "--prompt", tmp_path / "none.txt"],
        ["--teacher", "drawn", "--model", "m"],
        ["--teacher", "drawn", "--judge", "critic"],
        ["--teacher", "drawn", "--judge", "critic", "--judge-url", "a/v1"],
        ["--teacher", "drawn", "--out", file],
        [*endpoint, "--param", "heat"],
        [*endpoint, "--judge", "gpt-4o", "--judge-param", "heat"],
        [*endpoint, "--judge", "mine", "--max-cost", "1"],
        [*endpoint, "--prices", tmp_path / "none.yaml"],
    ):
        assert chains("build", world, "--out", tmp_path / "store", *words) in (1, 2), words
        assert "\n" not in capsys.readouterr().err.strip()
    for words in (
        [],
        ["--model", "m", "--format", "six_stage"],
        ["--model", "m", "--param", "heat"],
        ["--model", "m", "--candidates", "99"],
        ["--model", "m", "--enough", "5"],
        ["--model", "m", "--prompt", tmp_path / "none.txt"],
        ["--model", "m", "--prices", tmp_path / "none.yaml"],
        ["--model", "m", "--out", file],
        ["--model", "m", "--files", file],
    ):
        where = ["--out", tmp_path / "store", "--files", tmp_path / "files"]
        assert chains("batch", "write", world, *where, *words) in (1, 2), words
        assert "\n" not in capsys.readouterr().err.strip()
    for words in (
        [file, "--out", tmp_path / "store"],
        [file, "--out", file],
        [tmp_path / "none.jsonl", "--out", ordered],
        [file, tmp_path, "--out", ordered],
        [file, "--out", ordered, "--prices", tmp_path / "none.yaml"],
    ):
        assert chains("batch", "read", world, *words) in (1, 2), words
        assert "\n" not in capsys.readouterr().err.strip()
    assert not (tmp_path / "store").exists()


def test_wrong_arguments_are_told_without_what_takes_seconds_to_import(world: Path, tmp_path: Path) -> None:
    endpoint = ["--teacher", "http://a/v1", "--model", "gpt-4o"]
    wrong = [
        ["--teacher", "http://[::1/v1", "--model", "m"],
        ["--teacher", "nowhere/at-all"],
        ["--teacher", "drawn", "--judge", "critic"],
        ["--teacher", "drawn"],
        [*endpoint, "--param", "heat"],
        [*endpoint, "--judge", "gpt-4o", "--judge-param", "heat"],
        [*endpoint, "--judge", "mine", "--max-cost", "1"],
        [*endpoint, "--judge", "gpt-4o", "--judge-url", "a/v1"],
    ]
    commands = [["chains", "build", str(world.parent), "--out", str(tmp_path), *words] for words in wrong]
    code = (
        "import json, sys; from throughline.cli.main import main\n"
        "codes = {main(command) for command in json.loads(sys.argv[1])}\n"
        "print(codes, {'torch', 'transformers', 'openai', 'pandas', 'PIL', 'scipy'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code, json.dumps(commands)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout == "{1, 2} set()\n", ended.stderr


@pytest.mark.parametrize("name", ["verdict", "text", "appended"])
def test_an_edited_verdict_is_told(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    lines = (store / "journal-0.jsonl").read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if '"rule":"correct"' in line and '"accepted":true' in line)
    edited = lines[at].replace('"accepted":true', '"accepted":false')
    if name == "verdict":
        lines[at], place = edited, at + 1
    elif name == "appended":
        lines, place = [*lines, edited], len(lines) + 1
    else:
        of = next(n for n in range(at, -1, -1) if '"kind":"candidate"' in lines[n])
        lines[of], place = lines[of].replace("</CONCLUSION>", "I am not sure. </CONCLUSION> and so on"), at + 1
    journal = tmp_path / "journal-0.jsonl"
    journal.write_text("\n".join(lines) + "\n")
    assert chains("check", tmp_path) == 1
    told = capsys.readouterr().out
    assert f"{journal}:{place}: " in told and "but correct makes of the text" in told


def test_a_check_parses_each_text_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from throughline.chains.parsing import ParsedChain, parse_chain

    texts: list[str] = []

    def parse(text: str, *more: Any) -> ParsedChain:
        texts.append(text)
        return parse_chain(text, *more)

    monkeypatch.setattr("throughline.chains.verdicts.parse_chain", parse)
    assert chains("check", store) == 0
    assert sorted(texts) == sorted(candidate.text for candidate in read_journal(store).candidates)


def test_an_estimate_asks_nobody_and_writes_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", world, "--teacher", "http://127.0.0.1:9/v1", "--model", "gpt-4o", "--dry-run"]
    assert chains(*words, "--out", tmp_path / "none") == 0
    told = capsys.readouterr().out
    assert "requests: 24 to 96" in told and "cost: $" in told and "rule of thumb" in told
    assert not (tmp_path / "none").exists()
    assert chains(*words[:-2], "mine", "--dry-run", "--out", tmp_path / "none") == 0
    assert "the price of mine is not known" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--teacher", "http://127.0.0.1:9/v1"], 2, "no model is given"),
        (["--teacher", "http://a/v1", "pocket", "--model", "m"], 2, "'pocket' is not a URL like the others"),
        (["--teacher", "drawn", "pocket"], 2, "several teachers at once must be endpoints"),
        (["--teacher", "drawn", "--shard", "4"], 2, "is not I/N"),
        (["--teacher", "drawn", "--shard", "4/4"], 1, "number them from 0"),
        (["--teacher", "drawn", "--candidates", "99"], 1, "ask for 1 to 64"),
        (["--teacher", "drawn", "--enough", "5"], 2, "more than --candidates 4"),
        (["--teacher", "drawn", "--judge", "critic"], 2, "the judge has no endpoint"),
        (["--teacher", "http://a/v1", "--model", "mine", "--max-cost", "1"], 2, "price of mine is not known"),
        (["--teacher", "http://a/v1", "--model", "m", "--param", "heat"], 2, "is not NAME=VALUE"),
        (["--teacher", "http://a/v1", "--model", "m", "--param", "n=2"], 2, "--candidates"),
        (["--teacher", "http://a/v1", "--model", "m", "--param", "top_p=.nan"], 2, "not valid JSON"),
        (["--teacher", "http://a/v1", "--model", "m", "--param", "d=2024-01-01"], 2, "not valid JSON"),
        (["--teacher", "http://[::1/v1", "--model", "m"], 2, "not a base URL"),
        (["--teacher", "http://127.0.0.1:99999/v1", "--model", "m"], 2, "not a base URL"),
        (["--teacher", "http://", "--model", "m"], 2, "not a base URL"),
        (["--teacher", "http://a/v1", "--model", "gpt-4o", "--judge", "x", "--max-cost", "1"], 2, "price of x"),
        (["--teacher", "nowhere/at-all"], 1, "nowhere/at-all"),
        (["--teacher", "127.0.0.1:8000/v1", "--model", "m"], 2, "begin a URL with http://"),
        (["--teacher", "localhost:8000", "--model", "m"], 2, "begin a URL with http://"),
        (["--teacher", "api.openai.com/v1", "--model", "m"], 2, "begin a URL with http://"),
        (["--teacher", "gpu-7:8000/v1", "gpu-8:8000/v1", "--model", "m"], 2, "begin a URL with http://"),
        (["--teacher", "[::1]:8000/v1", "--model", "m"], 2, "begin a URL with http://"),
        (["--teacher", "http:/a/v1", "--model", "m"], 2, "begin a URL with http://"),
        (["--teacher", "ftp://a/v1", "--model", "m"], 2, "begin a URL with http://"),
        (["--teacher", "HTTP://a/v1"], 2, "no model is given"),
        (["--teacher", "Qwen/Qwen2.5-VL-7B-Instruct"], 1, "no such checkpoint folder"),
        (["--teacher", "drawn", "--prompt", "no-such-file.txt"], 1, "cannot read the prompt template"),
        (["--teacher", "drawn", "--max-cost", "1"], 2, "--max-cost has no effect"),
        (["--teacher", "http://a/v1", "--model", "gpt-4o", "--max-cost", "-1"], 2, "expected: greater than 0"),
        (["--teecher", "drawn"], 2, "--teacher"),
        (["--teacher", "http://a/v1", "--model", "m", "--max-new-tokens", "9"], 2, "--param max_tokens=N"),
        (["--teacher", "drawn", "--model", "m"], 2, "--model has no effect with this teacher"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_no_store(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, complaint: str
) -> None:
    assert chains("build", world, "--out", tmp_path / "store", *words) == code
    told = capsys.readouterr().err.strip()
    assert complaint in told and "\n" not in told
    assert not (tmp_path / "store").exists()


def test_two_writers_of_one_shard_are_one_too_many(
    world: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from throughline.chains.journal import JournalWriter

    with JournalWriter(store / "journal-0.jsonl"):
        assert chains("build", world, "--teacher", "drawn", "--out", store) == 1
    assert "another process is writing this journal" in capsys.readouterr().err


def test_a_store_is_counted_checked_shown_and_exported(
    world: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chains("stats", store, "--json") == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["store"]["images_given"] == 24
    assert chains("stats", store) == 0
    assert "correct" in capsys.readouterr().out
    assert chains("check", store) == 0
    assert chains("view", store, tmp_path / "page.html") == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert chains("export", store, tmp_path / "dataset", "--licence", "cc0-1.0") == 0
    assert "cc0-1.0" in (tmp_path / "dataset" / "README.md").read_text()
    assert chains("check", tmp_path / "dataset") == 0


def test_a_damaged_line_is_told_with_its_number(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (store / "journal-0.jsonl").read_bytes().splitlines(keepends=True)
    damaged = tmp_path / "journal-0.jsonl"
    damaged.write_bytes(b"".join([*lines[:4], b"half a li\n", *lines[4:]]))
    assert chains("check", damaged) == 1
    assert f"{damaged}:5: " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["stats", "view", "export"])
def test_a_store_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    more = [] if command == "stats" else [tmp_path / "out"]
    assert chains(command, tmp_path, *more) == 1
    assert "no chain journal here" in capsys.readouterr().err


def test_batch_files_go_out_and_come_back(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, files = tmp_path / "store", tmp_path / "files"
    assert chains("batch", "write", world, "--model", "gpt-4o", "--out", store, "--files", files) == 0
    assert "24 requests in 1 file\n" in capsys.readouterr().out
    (written,) = files.glob("*.jsonl")
    body = {"choices": [{"message": {"content": "no idea"}, "finish_reason": "stop"}]}
    answers = [
        {"custom_id": json.loads(line)["custom_id"], "response": {"status_code": 200, "body": body}}
        for line in written.read_text().splitlines()
    ]
    out = tmp_path / "answers.jsonl"
    out.write_text("".join(json.dumps(line) + "\n" for line in answers))
    assert chains("batch", "read", world, out, "--out", store) == 0
    assert "24 answers added" in capsys.readouterr().out
    out.write_text('{"custom_id": "another"}\n')
    assert chains("batch", "read", world, out, "--out", store) == 1
    assert f"{out}:1: no such request" in capsys.readouterr().out
