"""What each bench measures, as typed settings: their fields are the options of `throughline bench`, with their
docstrings as help. Free of torch, so that the help stays light.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PositiveInt

from throughline.core.settings import Settings

Geometry = Literal["pocket", "bench-40m", "bench-40m-151k"]
Geometries = Annotated[tuple[Geometry, ...], Field(min_length=1)]
Sizes = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]

TrainingAblation = Literal["shared tokens", "packed rows", "logits in chunks", "LoRA in one node"]
SamplingAblation = Literal["layouts", "leaving", "packed weights"]
ScoringAblation = Literal["layouts"]


class BenchSettings(Settings):
    """What every bench has. A subclass may have `ablate`, a tuple of names, of which `all` stands for every one; its
    docstring is a piece of the help of `--ablate`."""

    threads: PositiveInt | None = None
    """PyTorch threads; by default PyTorch chooses."""

    def ablations(self) -> tuple[Any, ...]:
        """What to leave out, one at a time: the names given, or every one of them."""
        names: tuple[str, ...] = getattr(self, "ablate", ())
        if "all" not in names:
            return names
        everything, _ = get_args(type(self).model_fields["ablate"].annotation)
        return tuple(name for name in get_args(everything) if name != "all")


class StepSettings(BenchSettings):
    """Time of an MTCT training step, compared with TRL's SFTTrainer and with two separate sequences."""

    geometry: Geometries = ("pocket", "bench-40m")
    """Model shapes (random weights): pocket, bench-40m or bench-40m-151k."""
    classes: Sizes = (7, 65)
    """Number of classes in the question: 5, 7, 10, 65 or 345."""
    tiles: Sizes = (1, 6)
    """Number of tiles that an image is cut into; with more than one, a thumbnail is added."""
    trials: PositiveInt | None = None
    """Timed steps per variant; by default 9 on the pocket, otherwise 3, or 2 with several tiles."""
    batch: PositiveInt | None = None
    """Samples per step; by default 4, or 1 with several tiles of a model larger than the pocket."""
    ablate: tuple[Literal["all", TrainingAblation], ...] = ()
    """Add rows of our own code without these optimisations"""

    def trials_of(self, geometry: str, tiles: int) -> int:
        """Timed steps of each side: steps of milliseconds take more of them to a steady median."""
        return self.trials or (9 if geometry == "pocket" else 3 if tiles == 1 else 2)

    def batch_of(self, geometry: str, tiles: int) -> int:
        """Samples in a step: one where an image alone is thousands of tokens in a large model, so that all rows end
        within 20 minutes on two slow cores."""
        return self.batch or (4 if geometry == "pocket" or tiles == 1 else 1)


class MemorySettings(BenchSettings):
    """Memory of a training step beyond weights and optimiser state, compared with TRL's SFTTrainer."""

    geometry: Geometries = ("bench-40m-151k",)
    """Model shapes (random weights): pocket, bench-40m or bench-40m-151k."""
    classes: Sizes = (65,)
    """Number of classes in the question: 5, 7, 10, 65 or 345."""
    tiles: PositiveInt = 1
    """Number of tiles that an image is cut into."""
    batch: PositiveInt = 4
    """Images per optimiser step."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Device whose memory is measured."""
    ablate: tuple[Literal["all", TrainingAblation], ...] = ()
    """Add rows of our own code without these optimisations"""


class ScoreSettings(BenchSettings):
    """Time for the likelihood of every class, compared with plain transformers with and without a cache."""

    geometry: Geometries = ("bench-40m",)
    """Model shapes (random weights): pocket, bench-40m or bench-40m-151k."""
    classes: Sizes = (65,)
    """Number of classes in the question: 5, 7, 10, 65 or 345."""
    images: Sizes = (1, 4)
    """Images at a time; more than one is timed only once, because it takes minutes."""
    trials: PositiveInt = 3
    """Timed runs per variant."""
    ablate: tuple[Literal["all", ScoringAblation], ...] = ()
    """Add rows of our own code without these optimisations"""


class SampleSettings(BenchSettings):
    """Time for sampling several texts after a prompt, compared with transformers' generate."""

    geometry: Geometries = ("pocket", "bench-40m")
    """Model shapes (random weights): pocket, bench-40m or bench-40m-151k."""
    sequences: PositiveInt = 8
    """Texts sampled in one call."""
    new_tokens: PositiveInt = 150
    """Tokens per text, if all have the same length."""
    classes: PositiveInt = 7
    """Number of classes in the question: 5, 7, 10, 65 or 345."""
    draws: PositiveInt = 2_000
    """First tokens sampled before the timing and compared with the softmax."""
    trials: PositiveInt = 5
    """Timed calls per variant."""
    ablate: tuple[Literal["all", SamplingAblation], ...] = ()
    """Add rows of our own code without these optimisations"""


class GpuSettings(BenchSettings):
    """MTCT steps of a model shaped like InternVL3-8B on a CUDA GPU: time, utilisation, memory, hours per fold."""

    geometry: Literal[Geometry, "internvl3-8b"] = "internvl3-8b"
    """Model shape (random weights)."""
    device: str = "cuda"
    """Where to compute; on a CPU, use a small geometry to try the benchmark."""
    batch: PositiveInt = 8
    """Samples per step."""
    trials: PositiveInt = 10
    """Timed steps per variant."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass."""


BENCHES: dict[str, type[BenchSettings]] = {
    "step": StepSettings,
    "memory": MemorySettings,
    "score": ScoreSettings,
    "sample": SampleSettings,
    "gpu": GpuSettings,
}
"""The benches of the package by name, which is that of the module that measures it."""
