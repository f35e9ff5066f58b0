"""Three hundred images against a server with every fault at once, and a build that is killed five times on the way."""

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.chains.plain_fold import read_journal
from tests.chat_server import FaultPlan, RunningServer, ServerSettings, running_server
from tests.forks import typed

from throughline.chains.records import Candidate
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet

CLASSES, DOMAINS = ("cat", "cup", "dog", "fox"), ("photo", "sketch")
FAULTS = FaultPlan(
    refused_429=0.10,
    retry_after=0.01,
    errors_500=0.05,
    dropped_before=0.03,
    dropped_midway=0.02,
    timed_out=0.02,
    timeout_seconds=5,
    truncated=0.03,
    malformed=0.03,
    refusals=0.02,
)
CANDIDATES, AT_ONCE, KILLS = 3, 32, 5


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("many")
    noise = np.random.default_rng(0)
    for number in range(300):
        path = root / DOMAINS[number % 2] / CLASSES[number % 4] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(path)
    return read_images(root)


def start(server: RunningServer, images: ImageSet, store: Path) -> Any:
    words = ["chains", "build", str(images.root), "--out", str(store)]
    words += ["--teacher", server.url, "--model", "seer", "--candidates", str(CANDIDATES)]
    words += ["--timeout", "0.5", "--at-once", str(AT_ONCE), "--attempts", "20"]
    return typed(words, store.with_name("said"))


def answered(log: Path) -> list[dict[str, Any]]:
    """The requests that the server answered with words, whatever these were worth."""
    paid = {"answered", "truncated", "malformed", "refusals"}
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return [entry for entry in entries if entry["outcome"] in paid]


def request_of(candidate: Candidate) -> tuple[str, int]:
    """Image and seed, by which a candidate is recognised in the server's log."""
    return candidate.image_sha256, int(candidate.key[:8], 16) & 0x7FFFFFFF


def request_in(entry: dict[str, Any]) -> tuple[str, int]:
    image = entry["body"]["messages"][0]["content"][0]["image_url"]["url"]
    return str(image).rpartition(",")[2], int(entry["body"]["seed"])


def require_every_image_ended(store: Path, images: ImageSet) -> None:
    """Accepted, or all its candidates with an outcome each; nothing lost, nothing double."""
    journal = read_journal(store)
    assert not journal.problems and not journal.duplicates
    verdicts = {(v.key, v.sample_id): v for v in journal.verdicts if v.rule == "correct"}
    by_sample: dict[str, list[Candidate]] = {}
    for candidate in journal.candidates:
        by_sample.setdefault(candidate.sample_id, []).append(candidate)
    assert set(by_sample) == set(images.by_id)
    for sample_id, candidates in by_sample.items():
        assert [c.candidate for c in candidates] == list(range(len(candidates)))
        accepted = [verdicts[c.key, sample_id].accepted for c in candidates]
        assert not any(accepted[:-1]), "asking stops at the first"
        assert accepted[-1] or len(candidates) == CANDIDATES
    outcomes = Counter(verdict.outcome.value for verdict in verdicts.values())
    assert set(outcomes) == {"ok", "truncated", "missing_stage", "refusal"}, "each has its name, and none is an error"


@pytest.mark.slow
def test_kills_among_faults_lose_and_repeat_nothing(images: ImageSet, tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log.jsonl"
    labels = {sample.image_sha256: sample.label for sample in images.samples}
    moments = random.Random(7)
    known_at_kill: list[set[tuple[str, int]]] = []
    answered_at_kill: list[int] = []
    with running_server(ServerSettings(faults=FAULTS, labels=labels, log=log, latency=0.01)) as server:
        for _ in range(KILLS):
            process = start(server, images, store)
            before = server.stats()["requests"]
            deadline = time.monotonic() + 60
            while server.stats()["requests"] == before and process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.02)  # until it is at work: killing the interpreter's start shows nothing
            time.sleep(moments.uniform(0, 0.2))
            process.kill()
            process.join()
            time.sleep(0.1)  # the server notes the ends of the connections
            known_at_kill.append({request_of(c) for c in read_journal(store).candidates})
            answered_at_kill.append(len(answered(log)))
        last = start(server, images, store)
        last.join(300)
    told = store.with_name("said").read_text()
    assert last.exitcode == 0, told
    require_every_image_ended(store, images)
    entries = answered(log)
    for known, count in zip(known_at_kill, answered_at_kill, strict=True):
        assert not known & {request_in(entry) for entry in entries[count:]}, "a recorded answer was asked for again"
    recorded = {request_of(c) for c in read_journal(store).candidates}
    lost = len(entries) - len(recorded)
    counted = int((store / "in-flight-0.txt").read_text().split()[1])
    assert 0 <= lost <= counted <= KILLS * AT_ONCE
    assert known_at_kill[-1], "the kills came while answers were being written"
    assert f"{counted:,} requests in total were cut off" in told or counted == 0
