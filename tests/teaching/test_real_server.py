"""A real server of another's making: `transformers serve` with the pocket checkpoint, asked through the openai client.

A build is killed on the way and resumed, as a user's would be.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chains.plain_fold import read_journal
from tests.forks import typed
from tests.teaching import serving

from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.drawn.world import write_world
from throughline.mllm.checkpoints import checkpoint_source
from throughline.questions.question_set import make_question_set
from throughline.teaching.server_process import ServeCommand, running_server


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("world")
    write_world(root, per_class=1, seed=4, styles=("photo",))
    return read_images(root)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that answers."""
    checkpoint, log = Path(checkpoint_source("pocket", False)), tmp_path_factory.mktemp("server") / "log"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in serving.ENVIRONMENT.items():
            patch.setenv(name, value)
        with running_server(
            ServeCommand(serving.SERVE), checkpoint, "pocket", log, serving.SECONDS_TO_START
        ) as running:
            yield running.url


@pytest.mark.slow
def test_chains_are_built_through_a_real_server_killed_and_resumed(
    server: str, world: ImageSet, tmp_path: Path
) -> None:
    store, question = tmp_path / "store", tmp_path / "question.txt"
    prompt = make_question_set(world.classes).reasoning
    question.write_text(prompt.replace(", ".join(world.classes), "{options}"))
    words = ["chains", "build", str(world.root), "--out", str(store)]
    words += ["--teacher", server, "--model", checkpoint_source("pocket", False), "--candidates", "2", "--limit", "6"]
    words += ["--prompt", str(question), "--param", "max_tokens=160", "--image-side", "64", "--at-once", "2"]
    first = typed(words, tmp_path / "said")
    journal = store / "journal-0.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and first.is_alive():
        if journal.is_file() and journal.read_bytes().count(b'"kind":"candidate"') >= 3:
            break
        time.sleep(0.02)
    first.kill()
    first.join()
    before = {candidate.key: candidate for candidate in read_journal(store).candidates}
    assert 3 <= len(before) < 12, (tmp_path / "said").read_text()

    done = typed(words, tmp_path / "said")
    done.join(300)
    assert done.exitcode == 0, (tmp_path / "said").read_text()
    journal_after = read_journal(store)
    after = {candidate.key: candidate for candidate in journal_after.candidates}
    assert not journal_after.problems and not journal_after.duplicates
    assert before == {key: after[key] for key in before}, "what was recorded stands, and nothing is asked twice"
    asked = {candidate.sample_id for candidate in after.values()}
    assert len(asked) == 6 and asked < set(world.by_id)
    assert {header.prompts[c.prompt_sha256] for header in journal_after.headers for c in after.values()} == {prompt}
    assert all(c.usage and c.usage.prompt_tokens and c.usage.completion_tokens for c in after.values())
    accepted = {
        verdict.sample_id for verdict in journal_after.verdicts if verdict.rule == "format" and verdict.accepted
    }
    assert len(accepted) >= 4, "the pocket checkpoint writes chains in the format"
