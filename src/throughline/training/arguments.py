"""Our settings of a stage in the words of transformers, and what its loaders need of the system."""

import contextlib
import math
import multiprocessing
from pathlib import Path

import torch
from transformers import TrainingArguments

from throughline.core.settings import StageSettings


class OneDevice(TrainingArguments):
    """Further GPUs that are visible are for other workers: a stage runs on one, never in `DataParallel`."""

    @property
    def n_gpu(self) -> int:
        """One at most."""
        return min(1, super().n_gpu)


def training_arguments(
    settings: StageSettings,
    micro: int,
    seed: int,
    folder: Path,
    steps: int,
    log_steps: int,
    device: torch.device,
) -> TrainingArguments:
    """Our settings in the words of transformers; `micro` divides the batch."""
    loaders = settings.loader_workers if "fork" in multiprocessing.get_all_start_methods() else 0
    return OneDevice(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch // micro,
        learning_rate=settings.lr,
        weight_decay=settings.weight_decay,
        # The first step of a warm-up has a learning rate of 0: it must not be the only one.
        warmup_steps=min(math.ceil(settings.warmup * steps), steps - 1),
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch",
        bf16=settings.autocast,
        use_cpu=device.type == "cpu",
        seed=seed % 2**32,
        data_seed=seed % 2**32,
        save_strategy="steps",
        save_steps=settings.save_steps,
        logging_strategy="steps",
        logging_steps=log_steps,
        report_to=list(settings.report_to) or "none",
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_num_workers=loaders,
        # What builds a sample is a closure over a loaded processor: no other kind of process has it.
        dataloader_multiprocessing_context="fork" if loaders else None,
        # A loader that lives through the epochs would draw from torch's generator once, one without workers draws once
        # an epoch: dropout would differ.
        dataloader_persistent_workers=False,
        dataloader_pin_memory=False,  # trees are no tensors
    )


def allow_open_files() -> None:
    """A tensor on its way from another process holds an open file; 1,024, as is usual, may be too few for a batch."""
    import resource  # not on Windows, nor are forks

    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 1 << 16 if most == resource.RLIM_INFINITY else min(most, 1 << 16)
    if now != resource.RLIM_INFINITY and now < enough:
        with contextlib.suppress(ValueError, OSError):  # a system may grant less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))
