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
    """Threads of torch; none leaves torch its own choice."""

    def ablations(self) -> tuple[Any, ...]:
        """What to leave out, one at a time: the names given, or every one of them."""
        names: tuple[str, ...] = getattr(self, "ablate", ())
        if "all" not in names:
            return names
        everything, _ = get_args(type(self).model_fields["ablate"].annotation)
        return tuple(name for name in get_args(everything) if name != "all")


class StepSettings(BenchSettings):
    """An MTCT training step as token trees against TRL's SFTTrainer and two separate sequences."""

    geometry: Geometries = ("pocket", "bench-40m")
    """Shapes of the model, random weights: pocket, bench-40m or bench-40m-151k."""
    classes: Sizes = (7, 65)
    """Sizes of the class lists in the question: 5, 7, 10, 65 or 345."""
    tiles: Sizes = (1, 6)
    """Tiles that an image is cut into; with more than one there is a thumbnail, too."""
    trials: PositiveInt | None = None
    """Timed steps of each side; none is 9 on the pocket, else 3, with tiles 2."""
    batch: PositiveInt | None = None
    """Samples in a step; none is 4, with tiles 1, but on the pocket 4."""
    ablate: tuple[Literal["all", TrainingAblation], ...] = ()
    """Adds rows of our own side without these"""

    def trials_of(self, geometry: str, tiles: int) -> int:
        """Timed steps of each side: steps of milliseconds take more of them to a steady median."""
        return self.trials or (9 if geometry == "pocket" else 3 if tiles == 1 else 2)

    def batch_of(self, geometry: str, tiles: int) -> int:
        """Samples in a step: one where an image alone is thousands of tokens in a large model, so that all rows end
        within 20 minutes on two slow cores."""
        return self.batch or (4 if geometry == "pocket" or tiles == 1 else 1)


class MemorySettings(BenchSettings):
    """The memory of a training step beyond weights and optimiser state against TRL's SFTTrainer."""

    geometry: Geometries = ("bench-40m-151k",)
    """Shapes of the model, random weights: pocket, bench-40m or bench-40m-151k."""
    classes: Sizes = (65,)
    """Sizes of the class lists in the question: 5, 7, 10, 65 or 345."""
    tiles: PositiveInt = 1
    """Tiles that an image is cut into."""
    batch: PositiveInt = 4
    """Images behind an optimiser step."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Whose memory."""
    ablate: tuple[Literal["all", TrainingAblation], ...] = ()
    """Adds rows of our own side without these"""


class ScoreSettings(BenchSettings):
    """The likelihood of every class against plain transformers with and without a cache."""

    geometry: Geometries = ("bench-40m",)
    """Shapes of the model, random weights: pocket, bench-40m or bench-40m-151k."""
    classes: Sizes = (65,)
    """Sizes of the class lists in the question: 5, 7, 10, 65 or 345."""
    images: Sizes = (1, 4)
    """Images at a time; more than one is timed once, as it takes minutes."""
    trials: PositiveInt = 3
    """Timed turns of every side."""
    ablate: tuple[Literal["all", ScoringAblation], ...] = ()
    """Adds rows of our own side without these"""


class SampleSettings(BenchSettings):
    """Several continuations of a prompt against transformers' generate."""

    geometry: Geometries = ("pocket", "bench-40m")
    """Shapes of the model, random weights: pocket, bench-40m or bench-40m-151k."""
    sequences: PositiveInt = 8
    """Continuations of the prompt in one call."""
    new_tokens: PositiveInt = 150
    """Tokens of each, where all are of one length."""
    classes: PositiveInt = 7
    """Size of the class list in the question: 5, 7, 10, 65 or 345."""
    draws: PositiveInt = 2_000
    """First tokens drawn by each side before the timing, to be compared with the softmax."""
    trials: PositiveInt = 5
    """Timed calls of every side."""
    ablate: tuple[Literal["all", SamplingAblation], ...] = ()
    """Adds rows of our own side without these"""


class GpuSettings(BenchSettings):
    """MTCT steps of InternVL3-8B's geometry on a CUDA GPU: time, utilisation, memory, hours of a fold."""

    geometry: Literal[Geometry, "internvl3-8b"] = "internvl3-8b"
    """Shape of the model, random weights."""
    device: str = "cuda"
    """Where to compute; on a CPU a small geometry rehearses the bench."""
    batch: PositiveInt = 8
    """Samples in a step."""
    trials: PositiveInt = 10
    """Timed steps of each side."""
    gradient_checkpointing: bool = False
    """Computes activations again in the backward pass."""


BENCHES: dict[str, type[BenchSettings]] = {
    "step": StepSettings,
    "memory": MemorySettings,
    "score": ScoreSettings,
    "sample": SampleSettings,
    "gpu": GpuSettings,
}
"""The benches of the package by name, which is that of the module that measures it."""
