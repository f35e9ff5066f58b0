"""A stage of training: what a step averages over, what a kill leaves behind, what happens when memory runs out."""

import multiprocessing
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.forks import InsteadOfSpawn
from tests.training import kill_stage
from tests.training.small import same, samples_of, settings, train, weights, with_lora
from torch import Tensor

from throughline.core.errors import ThroughlineError
from throughline.domains.images import ImageError
from throughline.domains.samples import ImageSet
from throughline.mllm.load import Mllm, load_mllm
from throughline.runs.records import TrainingLine
from throughline.training.methods import LABELS
from throughline.training.trainer import COMPLETE, forget_checkpoints

pytestmark = pytest.mark.slow

Trained = tuple[dict[str, Tensor], int, list[TrainingLine]]


@pytest.fixture(scope="module")
def stage(
    tiny_checkpoint: Path, tiny_images: ImageSet
) -> Callable[..., tuple[dict[str, Tensor], int, list[TrainingLine]]]:
    """Trains a freshly loaded model and gives its weights, the steps and the loss lines."""

    def run(folder: Path, dropout: float = 0.0, count: int = 11, **options: Any) -> Any:
        own = {name: options.pop(name) for name in list(options) if name in type(settings()).model_fields}
        mllm = load_mllm(str(tiny_checkpoint))
        model = with_lora(mllm, dropout)
        trained, lines = train(mllm, model, samples_of(tiny_images, count), folder, settings(**own), **options)
        assert not any(module.training for module in model.modules())
        return weights(model), trained.optimiser_steps, lines

    return run


def change(trained: dict[str, Tensor], start: dict[str, Tensor]) -> Tensor:
    return torch.cat([(trained[name] - start[name]).flatten() for name in sorted(start)])


@pytest.mark.parametrize(("autocast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast_reaches_the_decoder(
    tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path: Path, autocast: bool, dtype: torch.dtype
) -> None:
    mllm = load_mllm(str(tiny_checkpoint))
    model = with_lora(mllm)
    seen: set[torch.dtype] = set()
    layer = mllm.model.get_decoder().layers[0].mlp.down_proj
    layer.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    train(mllm, model, samples_of(tiny_images, 4), tmp_path, settings(autocast=autocast, epochs=1))
    assert seen == {dtype}


# what a step averages over ----------------------------------------------------------------------------------------


def test_a_batch_is_the_same_however_it_is_cut_also_the_incomplete_one_at_the_end(
    stage: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    start = weights(with_lora(load_mllm(str(tiny_checkpoint))))
    whole, steps, lines = stage(tmp_path / "8", micro_batch=8)
    assert steps == 4  # 8 and 3 samples, twice
    reference = change(whole, start)
    cut, cut_steps, cut_lines = stage(tmp_path / "2", micro_batch=2)
    assert cut_steps == 4
    for line, cut_line in zip(lines, cut_lines, strict=True):
        assert cut_line.loss == pytest.approx(line.loss, rel=1e-4)
        assert cut_line.losses == pytest.approx(line.losses, rel=1e-4)
    assert float((change(cut, start) - reference).norm() / reference.norm()) < 5e-3
    fewer, _, _ = stage(tmp_path / "10", count=10)
    assert float((change(fewer, start) - reference).norm() / reference.norm()) > 0.1  # the measure can tell


def test_a_micro_batch_that_does_not_divide_the_batch_does_not_change_the_batch(stage: Any, tmp_path: Path) -> None:
    _, steps, lines = stage(tmp_path / "whole", epochs=1, batch=6, micro_batch=6)
    _, cut_steps, cut_lines = stage(tmp_path / "cut", epochs=1, batch=6, micro_batch=4)
    assert (steps, cut_steps) == (2, 2)
    assert [line.loss for line in cut_lines] == pytest.approx([line.loss for line in lines], rel=1e-4)


def test_micro_batches_of_a_step_are_cut_by_length_and_steps_are_not(
    stage: Any, tiny_mllm: Mllm, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"batch": 8, "micro_batch": 4, "epochs": 1}
    laid_out: dict[bool, list[list[int]]] = {True: [], False: []}

    def noted(bucket: bool) -> Callable[[Any], Any]:
        def collate(rows: Any) -> Any:
            laid_out[bucket].append([len(tree) for row in rows for tree in row])
            return tiny_mllm.collate(rows)

        return collate

    cut = stage(tmp_path / "cut", **options, collate=noted(True))
    plain = stage(tmp_path / "plain", **options, bucket_lengths=False, collate=noted(False))
    first, second, rest = laid_out[True]
    assert (len(first), len(second), len(rest)) == (4, 4, 3)
    assert first + second == sorted(first + second, reverse=True)
    other_first, other_second, other_rest = laid_out[False]
    assert sorted(first + second) == sorted(other_first + other_second)
    assert sorted(rest) == sorted(other_rest)
    assert laid_out[True][:2] != laid_out[False][:2]
    assert [line.loss for line in cut[2]] == pytest.approx([line.loss for line in plain[2]], rel=1e-4)


def test_a_batch_in_one_piece_is_not_reordered(stage: Any, tmp_path: Path) -> None:
    cut = stage(tmp_path / "cut", dropout=0.1, epochs=1)
    plain = stage(tmp_path / "plain", dropout=0.1, epochs=1, bucket_lengths=False)
    assert same(cut[0], plain[0])


def test_loss_lines_say_where_and_what(stage: Any, tmp_path: Path) -> None:
    logged: list[tuple[int, int]] = []
    _, steps, lines = stage(
        tmp_path, batch=4, log_steps=2, on_log=lambda step, steps, loss: logged.append((step, steps))
    )
    assert steps == 6
    assert [line.step for line in lines] == [2, 4, 6]
    assert logged == [(2, 6), (4, 6), (6, 6)]
    for line in lines:
        assert (line.stage, line.round) == ("first", 0)
        assert set(line.losses) == set(line.class_probability) == {"label", "chain"}
        assert all(0 < value < 1 for value in line.class_probability.values())
    assert lines[-1].epoch == 2
    assert lines[-1].loss < lines[0].loss


def test_the_last_steps_have_a_loss_line_too(stage: Any, tmp_path: Path) -> None:
    _, _, lines = stage(tmp_path, batch=8, log_steps=3)
    assert [line.step for line in lines] == [3, 4]


def test_matched_controls_take_just_the_steps_they_are_told(stage: Any, tmp_path: Path) -> None:
    ends: list[int] = []
    _, steps, lines = stage(tmp_path, batch=4, max_steps=8, after_epoch=ends.append)
    assert steps == 8
    assert lines[-1].step == 8
    assert ends == [1, 2, 3]  # three steps an epoch: the last one is cut short


def test_ends_of_epochs_come_with_the_weights_of_that_moment(
    stage: Any, tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path: Path
) -> None:
    mllm = load_mllm(str(tiny_checkpoint))
    model = with_lora(mllm)
    kept: dict[int, dict[str, Tensor]] = {}
    train(
        mllm,
        model,
        samples_of(tiny_images),
        tmp_path / "three",
        settings(epochs=2),
        after_epoch=lambda epoch: kept.setdefault(epoch, weights(model)) and None,
    )
    assert list(kept) == [1, 2]
    assert same(kept[2], weights(model))
    assert same(kept[1], stage(tmp_path / "one", epochs=1)[0])


def test_a_stage_of_a_single_step_learns(stage: Any, tiny_mllm: Mllm, tmp_path: Path) -> None:
    trained, steps, (line,) = stage(tmp_path, epochs=1, batch=11, warmup=0.03, schedule="cosine")
    assert (steps, line.lr) == (1, 1e-3)
    assert not same(trained, weights(with_lora(tiny_mllm)))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_warm_up_rises_over_its_share_of_the_steps(stage: Any, tmp_path: Path, schedule: str) -> None:
    _, _, lines = stage(tmp_path, epochs=2, batch=2, warmup=0.25, schedule=schedule, objective=LABELS)
    assert len(lines) == 12
    assert [line.lr for line in lines[:4]] == pytest.approx([0, 1e-3 / 3, 2e-3 / 3, 1e-3])
    assert (lines[-1].lr == 1e-3) == (schedule == "constant")


# going on ---------------------------------------------------------------------------------------------------------


class Stop(Exception):
    """Somebody pulled the plug."""


def stops_at(use: int) -> Callable[[int], None]:
    """Raises when a sample is used for the `use`-th time."""
    uses = iter(range(1, 1000))

    def seen(index: int) -> None:
        if next(uses) == use:
            raise Stop

    return seen


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.rpartition("-")[2]) for path in (folder / "checkpoints").glob("checkpoint-*"))


# eleven samples in batches of four, three epochs: steps end after 4, 8, 11; 15, 19, 22; 26, 30, 33 samples
SMALL: dict[str, Any] = {"dropout": 0.1, "batch": 4, "micro_batch": 2, "epochs": 3}


@pytest.fixture(scope="module")
def undisturbed(stage: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Such a stage from end to end, saved often."""
    trained: Trained = stage(tmp_path_factory.mktemp("undisturbed"), **SMALL, save_steps=2)
    return trained


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """The folder of such a stage, saved often, that was stopped behind its sixth step."""
    return Path(shutil.copytree(stopped_once, tmp_path / "stopped"))


@pytest.fixture(scope="module")
def stopped_once(stage: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stop):
        stage(folder, **SMALL, save_steps=2, seen=stops_at(24))
    return folder


def test_a_stage_that_is_stopped_goes_on_and_ends_with_the_same_weights(
    stage: Any, undisturbed: Trained, tmp_path: Path
) -> None:
    expected, steps, lines = stage(tmp_path / "seldom saved", **SMALL, log_steps=2)
    assert same(undisturbed[0], expected)
    assert [line.step for line in lines] == [2, 4, 6, 8, 9]
    # uses before the stop: at the end of an epoch, in the last step; below in the middle of an epoch
    for use, left in ((14, 25), (33, 7)):
        folder = tmp_path / str(use)
        with pytest.raises(Stop):
            stage(folder, **SMALL, log_steps=2, save_steps=2, seen=stops_at(use))
        uses: list[int] = []
        found = stage(folder, **SMALL, log_steps=2, save_steps=2, seen=uses.append)
        assert same(found[0], expected)
        assert found[1:] == (steps, lines)
        assert len(uses) <= left


forks = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="loaders are forked")


@forks
def test_samples_from_other_processes_train_the_same_weights(stage: Any, undisturbed: Trained, tmp_path: Path) -> None:
    uses: list[int] = []
    found = stage(tmp_path, **SMALL, loader_workers=2, seen=uses.append)
    assert not uses  # not in this process
    assert same(found[0], undisturbed[0])
    assert found[1:] == undisturbed[1:]


@forks
def test_a_stage_goes_on_with_other_processes_than_it_began_with(
    stage: Any, undisturbed: Trained, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        stage(tmp_path, **SMALL, save_steps=2, seen=stops_at(20))
    assert checkpoints(tmp_path) == [4]
    found = stage(tmp_path, **SMALL, save_steps=2, loader_workers=2)
    assert same(found[0], undisturbed[0])
    assert found[1:] == undisturbed[1:]


@forks
@pytest.mark.parametrize("loaders", [0, 1])
def test_a_fault_in_another_process_is_the_same_line(stage: Any, tmp_path: Path, loaders: int) -> None:
    def gone(index: int) -> None:
        raise ImageError("empty", "the file has zero bytes", Path("a.png"))

    with pytest.raises(ThroughlineError) as raised:
        stage(tmp_path, **SMALL, loader_workers=loaders, seen=gone)
    assert str(raised.value) == "the file has zero bytes [a.png]: repair or remove it"


def test_one_whole_checkpoint_is_kept_and_gone_when_told(stage: Any, stopped: Path) -> None:
    assert checkpoints(stopped) == [6]
    assert (stopped / "checkpoints" / "checkpoint-6" / COMPLETE).is_file()
    stage(stopped, **SMALL, save_steps=2)
    assert checkpoints(stopped) == [9]
    forget_checkpoints(stopped)
    assert not (stopped / "checkpoints").exists()


def test_samples_are_counted_that_were_taken_in_the_seconds(
    tiny_checkpoint: Path, tiny_images: ImageSet, stopped: Path, tmp_path: Path
) -> None:
    """All of three epochs; those behind the sixth step; none."""
    own = settings(**{name: value for name, value in SMALL.items() if name != "dropout"}, save_steps=2)
    taken = []
    for folder in (tmp_path / "whole", stopped, stopped):
        mllm = load_mllm(str(tiny_checkpoint))
        trained, _ = train(mllm, with_lora(mllm, 0.1), samples_of(tiny_images), folder, own)
        assert trained.optimiser_steps == 9
        taken.append((trained.samples, trained.seconds > 0))
    assert taken == [(33, True), (11, True), (0, False)]


@pytest.mark.parametrize("steps", [None, 7])
def test_a_stage_that_had_ended_is_not_trained_any_further(stage: Any, stopped: Path, steps: int | None) -> None:
    first = stage(stopped, **SMALL, max_steps=steps)
    uses: list[int] = []
    again = stage(stopped, **SMALL, max_steps=steps, seen=uses.append)
    assert not uses
    assert same(first[0], again[0])
    assert first[1:] == again[1:]


def test_a_checkpoint_without_its_mark_is_no_checkpoint(stage: Any, undisturbed: Trained, stopped: Path) -> None:
    torn = stopped / "checkpoints" / "checkpoint-6"
    (torn / COMPLETE).unlink()
    (torn / "optimizer.pt").write_bytes(b"half")
    uses: list[int] = []
    found, _, _ = stage(stopped, **SMALL, save_steps=2, seen=uses.append)
    assert len(uses) == 33
    assert same(found, undisturbed[0])


def test_a_newer_torn_checkpoint_does_not_hide_an_older_whole_one(
    stage: Any, undisturbed: Trained, stopped: Path
) -> None:
    folder = stopped / "checkpoints"
    torn = Path(shutil.copytree(folder / "checkpoint-6", folder / "checkpoint-8"))
    (torn / COMPLETE).unlink()
    (torn / "adapter_model.safetensors").write_bytes(b"half")
    uses: list[int] = []
    found, _, _ = stage(stopped, **SMALL, save_steps=2, seen=uses.append)
    assert len(uses) == 11
    assert same(found, undisturbed[0])


def test_an_end_of_epoch_is_not_missed_by_who_goes_on_right_behind_it(stage: Any, tmp_path: Path) -> None:
    """A checkpoint at the last step of an epoch is only written when the end of the epoch has been told."""
    ends: list[int] = []
    with pytest.raises(Stop):
        stage(tmp_path, **SMALL, save_steps=3, after_epoch=ends.append, seen=stops_at(12))
    assert ends == [1]
    stage(tmp_path, **SMALL, save_steps=3, after_epoch=ends.append)
    assert ends == [1, 2, 3]


def test_a_stage_that_is_killed_goes_on_and_ends_with_the_same_weights(
    tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path: Path
) -> None:
    folder = tmp_path / "stage"
    expected = kill_stage.run(tiny_checkpoint, tiny_images.root, tmp_path / "undisturbed", 0)

    def killed(moment: int) -> int:
        arguments = (tiny_checkpoint, tiny_images.root, folder, moment)
        process = InsteadOfSpawn.Process(target=kill_stage.run, args=arguments)
        process.start()
        process.join(120)
        return process.exitcode

    assert killed(kill_stage.IN_STEP_FIVE) == -signal.SIGKILL
    assert checkpoints(folder) == [4]
    assert killed(kill_stage.WHILE_SAVING) == -signal.SIGKILL
    assert same(kill_stage.run(tiny_checkpoint, tiny_images.root, folder, 0), expected)


# out of memory ----------------------------------------------------------------------------------------------------


def too_large(mllm: Mllm, most: int, after: int = 0) -> Callable[[Any], Any]:
    """A collate function that runs out of memory on more than `most` samples, from the `after`-th batch on."""
    batches = iter(range(1000))

    def collate(rows: Any) -> Any:
        if len(rows) > most and next(batches) >= after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return mllm.collate(rows)

    return collate


def test_out_of_memory_is_one_line_that_names_the_next_smaller_micro_batch(
    stage: Any, tiny_mllm: Mllm, tmp_path: Path
) -> None:
    with pytest.raises(ThroughlineError) as raised:
        stage(tmp_path, collate=too_large(tiny_mllm, 4))
    line = str(raised.value)
    assert "out of GPU memory with micro_batch 8" in line
    assert "set micro_batch to 4, or use --auto-batch" in line
    with pytest.raises(ThroughlineError, match="gradient_checkpointing"):
        stage(tmp_path, collate=too_large(tiny_mllm, 0), micro_batch=1, auto_batch=True)


def test_auto_batch_finds_the_micro_batch_that_fits(
    stage: Any, tiny_mllm: Mllm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = stage(tmp_path / "two", dropout=0.1, micro_batch=2)
    found = stage(tmp_path / "auto", dropout=0.1, auto_batch=True, collate=too_large(tiny_mllm, 2))
    assert same(found[0], expected[0])
    assert found[1:] == expected[1:]
    assert [record.getMessage() for record in caplog.records if "out of GPU" in record.getMessage()] == [
        "out of GPU memory with micro_batch 8: going on with 4",
        "out of GPU memory with micro_batch 4: going on with 2",
    ]


def test_memory_that_runs_out_late_does_not_leave_steps_behind(stage: Any, tiny_mllm: Mllm, tmp_path: Path) -> None:
    expected = stage(tmp_path / "four", micro_batch=4)
    found = stage(tmp_path / "auto", auto_batch=True, collate=too_large(tiny_mllm, 4, after=1))
    assert same(found[0], expected[0])
    assert found[1:] == expected[1:]


def test_gradient_checkpointing_changes_no_number(stage: Any, tmp_path: Path) -> None:
    expected = stage(tmp_path / "plain", epochs=1)
    found = stage(tmp_path / "again", epochs=1, gradient_checkpointing=True)
    assert [line.loss for line in found[2]] == pytest.approx([line.loss for line in expected[2]], rel=1e-5)
