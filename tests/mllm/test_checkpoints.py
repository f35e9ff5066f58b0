"""A checkpoint on the hub is known by its commit; a local one by its files."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from throughline.core.errors import ThroughlineError
from throughline.mllm.checkpoints import fingerprint_checkpoint, resolve_revision

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """A hub cache that holds one commit of one checkpoint, on a machine that is offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--lab--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "config.json").write_text("{}")


@pytest.mark.usefixtures("fetched")
def test_the_commit_is_that_of_the_branch_as_it_was_fetched_when_the_hub_cannot_be_reached():
    assert resolve_revision("lab/model", hub=True) == COMMIT
    assert resolve_revision("lab/model", hub=True, revision=COMMIT) == COMMIT


@pytest.mark.usefixtures("fetched")
def test_what_neither_the_hub_nor_this_machine_has_is_one_line():
    with pytest.raises(ThroughlineError, match="the hub does not give this checkpoint") as error:
        resolve_revision("lab/other", hub=True)
    assert "\n" not in str(error.value)


def test_a_local_checkpoint_has_no_commit(tmp_path: Path):
    assert resolve_revision("pocket", hub=True) is None
    assert resolve_revision(str(tmp_path), hub=True) is None


def test_another_commit_is_another_fingerprint():
    first, second = (fingerprint_checkpoint("lab/model", commit) for commit in (COMMIT, "f" * 40))
    assert first != second
