"""What a build of chains can be told, typed and documented; the options of `throughline chains` come from here. Free of
torch.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from throughline.core.settings import Quantization, Settings


class PlanSettings(Settings):
    """Which chains are asked for, and of how many images."""

    candidates: int = Field(default=4, ge=1)
    """Chains asked for per image at most."""
    enough: int = Field(default=1, ge=1)
    """Accepted chains at which an image is done."""
    all_candidates: bool = False
    """Ask for all candidates whatever is accepted."""
    rule: Literal["format", "consistent", "correct"] = "correct"
    """What an accepted chain must meet; the verdicts of all rules are recorded."""
    format: Literal["five_stage", "four_stage", "think_answer"] = "five_stage"
    """Stages of a chain."""
    prompt: Path | None = None
    """File with the teacher's question, a text with {options} and {stages}; without it our wording."""
    limit: int | None = Field(default=None, ge=1)
    """Only so many images, spread over domains and classes."""
    seed: int = 0
    """Whole number; another seed asks for other candidates."""


class RequestSettings(Settings):
    """A request to an endpoint, and what it costs."""

    model: str | None = None
    """The model that an endpoint is asked for."""
    image_side: int = Field(default=1024, ge=1)
    """Longest side in pixels that an image is sent with."""
    prices: Path | None = None
    """YAML file, `model: {prompt: 2.5, completion: 10}`, in US dollars for a million tokens; without it list prices."""


class EndpointSettings(Settings):
    """How the endpoints of a teacher and of a judge are asked."""

    at_once: int = Field(default=256, ge=1)
    """Requests under way at each endpoint at most; how many it takes is found out."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds until an answer is given up and asked for again."""
    attempts: int = Field(default=8, ge=1)
    """Server errors and time-outs until a request counts as failed."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key."""
    judge: str | None = None
    """A model that has to agree with every accepted chain."""
    judge_url: str | None = None
    """The judge's endpoint; without it the teacher's."""
    judge_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key of the judge's own endpoint."""


class LocalSettings(Settings):
    """A checkpoint as the teacher."""

    batch: int = Field(default=16, ge=1)
    """Images asked together."""
    temperature: float = Field(default=0.7, ge=0)
    """Of sampling; 0 is greedy and all candidates are the same."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """Most tokens of a chain."""
    constrained: bool = False
    """Let it write nothing but well-formed chains (needs throughline[constrained])."""
    tiles: int = Field(default=1, ge=1)
    """Most tiles an image is cut into."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in memory."""
    quantization: Quantization = "none"
    """`nf4`: the decoder's weights in 4 bits, for less memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` is a GPU if there is one."""
    hub: bool = False
    """Allow the download of the checkpoint from the Hugging Face hub."""
