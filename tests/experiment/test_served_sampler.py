"""Rounds whose chains come from a server of the merged weights: a real one, and commands that cannot serve."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.chains.plain_fold import read_journal
from tests.evaluation.small import in_this_process, write_chains, write_images, write_preset
from tests.teaching import serving as real

from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines
from throughline.domains.folders import read_images
from throughline.drawn.world import write_world
from throughline.experiment import final_model, run, served_sampler
from throughline.experiment.config import RunConfig
from throughline.experiment.config_files import load_config
from throughline.experiment.final_model import FittedModel, fit_config, fit_model
from throughline.experiment.run import preview_run, run_experiment
from throughline.teaching import server_process

pytestmark = pytest.mark.slow

Fit = Callable[[RunConfig, Path], FittedModel]


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Fit:
    monkeypatch.setattr(run, "run_units", in_this_process)
    for name, value in real.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return fit_model


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports that servers were given."""
    found: list[int] = []
    free = server_process.free_port

    def noted() -> int:
        found.append(free())
        return found[-1]

    monkeypatch.setattr(server_process, "free_port", noted)
    return found


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_round_is_sampled_through_a_real_server(
    fit: Fit, ports: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_world(tmp_path / "world", per_class=1, seed=4, styles=("photo",))
    changes = {
        "training.rounds": 1,
        "training.stage.epochs": 1,
        "training.stage.lr": 2e-4,
        "training.self_labelling.max_new_tokens": 160,
        "training.sampler.serve": real.SERVE,
        "training.sampler.start_seconds": real.SECONDS_TO_START,
    }
    kept: list[Any] = []
    publish = final_model._publish

    def looking(out: Path, record: Any, units: Any, work: Path) -> None:
        (folder,) = work.glob("units/*mtct_sarr*/round-1")
        kept.append((read_journal(folder / "journal-0.jsonl"), sorted(path.name for path in folder.iterdir())))
        publish(out, record, units, work)

    monkeypatch.setattr(final_model, "_publish", looking)
    fitted = fit(fit_config(tmp_path / "world", chains="describer", changes=changes), tmp_path / "model")
    (line,) = read_json_lines(fitted.folder / "rounds.jsonl")
    images = read_images(tmp_path / "world")
    assert line["sampled"] == len(images.samples) and line["accepted"] >= 3 and line["adapter_changed"]
    ((journal, left),) = kept
    assert {candidate.sample_id for candidate in journal.candidates} == set(images.by_id)
    assert len({candidate.text for candidate in journal.candidates}) > len(images.samples) / 2
    assert all(c.usage and c.usage.completion_tokens and "serve" in c.params for c in journal.candidates)
    assert served_sampler.CHECKPOINT not in left and served_sampler.LOG not in left
    (port,) = ports
    assert not listens(port)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunConfig]:
    """The config of one served round on the smallest of everything."""
    folder = tmp_path_factory.mktemp("small")
    world, preset = write_images(folder / "animals"), write_preset(folder)
    journal = write_chains(world, folder / "journal-0.jsonl")

    def config(serve: str) -> RunConfig:
        changes = {"training.rounds": 1, "training.sampler.serve": serve}
        return fit_config(world, chains=str(journal), preset=str(preset), changes=changes)

    return config


def test_a_command_that_fails_is_one_line_and_leaves_no_checkpoint(
    fit: Fit, small: Callable[[str], RunConfig], ports: list[int], tmp_path: Path
) -> None:
    serve = f"""{sys.executable} -c 'import sys; sys.exit("no kernel for this card")' {{checkpoint}} {{port}}"""
    with pytest.raises(ThroughlineError, match=r"the server has ended \(exit code 1\): no kernel") as error:
        fit(small(serve), tmp_path / "model")
    assert "\n" not in str(error.value) and len(ports) == 1
    (folder,) = tmp_path.glob("model/.fitting/units/*mtct_sarr*/round-1")
    assert {path.name for path in folder.iterdir()} == {served_sampler.LOG, "journal-0.jsonl"}


def test_a_program_that_is_not_there_is_found_before_anything_is_trained(
    fit: Fit, small: Callable[[str], RunConfig], tmp_path: Path
) -> None:
    with pytest.raises(ThroughlineError, match="no such program to serve with"):
        fit(small("no-such-server {checkpoint} --port {port}"), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_run_is_previewed_where_its_server_is_not_and_started_only_where_it_is(tmp_path: Path) -> None:
    config = load_config("demo", ["training.sampler.serve=no-such-server {checkpoint} --port {port}"])
    assert any("sarr" in unit.method for unit in preview_run(config).units)
    with pytest.raises(ThroughlineError, match="no such program to serve with"):
        run_experiment(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_round_whose_chains_are_all_there_starts_no_server(
    fit: Fit, small: Callable[[str], RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in training: the chains are recorded, so neither merge nor server is needed again."""
    from throughline.questions.sampler import Drawn, Reply
    from throughline.training import output_probe

    def drawn(self: Any, asked: Any, batches: Any) -> Any:
        if any(batches):
            calls.append(len(batches))
            yield [Drawn(one, 0, Reply("It is a cat.", "stop")) for batch in batches for one in batch]

    class Killed(Exception):
        pass

    def killed(*arguments: Any, **options: Any) -> Any:
        raise Killed

    calls: list[int] = []
    config = small(f"{sys.executable} {{checkpoint}} {{port}}")
    with monkeypatch.context() as patch:
        patch.setattr(served_sampler.ServedSampler, "draw", drawn)
        patch.setattr(output_probe, "probe_output", killed)
        with pytest.raises(Killed):
            fit(config, tmp_path / "model")
    assert len(calls) == 1
    # The real thing now, with a command that serves nothing: it is not started.
    assert fit(config, tmp_path / "model").worked
