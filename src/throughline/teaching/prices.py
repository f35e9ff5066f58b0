"""What a teacher costs, so that a build can be estimated before and stopped in time.

Prices change and differ by contract: those here are a start, and a file of the user's stands above them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from throughline.core.errors import ThroughlineError
from throughline.core.yaml_text import parse_yaml


class Price(BaseModel):
    """US dollars for a million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    prompt: float = Field(ge=0, allow_inf_nan=False)
    """Tokens sent, images included."""
    completion: float = Field(ge=0, allow_inf_nan=False)
    """Tokens written."""

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """US dollars for these tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6

    @property
    def for_batches(self) -> Price:
        """The price of answers of OpenAI's Batch API: half."""
        return Price(prompt=self.prompt / 2, completion=self.completion / 2)


# List prices as third parties quoted OpenAI's page in March 2026 (deploybase.ai, "OpenAI Pricing").
PRICES: Mapping[str, Price] = {
    "gpt-4o": Price(prompt=2.50, completion=10.00),
    "gpt-4o-mini": Price(prompt=0.15, completion=0.60),
    "gpt-4.1": Price(prompt=2.00, completion=8.00),
    "gpt-4.1-mini": Price(prompt=0.40, completion=1.60),
    "gpt-5": Price(prompt=1.25, completion=10.00),
    "gpt-5-mini": Price(prompt=0.25, completion=2.00),
}


def read_prices(path: Path) -> dict[str, Price]:
    """The user's own table, YAML: `model: {prompt: 2.5, completion: 10}`, US dollars for a million tokens."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig"))
        return TypeAdapter(dict[str, Price]).validate_python(values)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ThroughlineError(f"cannot read the prices ({reason})", path, "name a YAML file") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the whole file"
        raise ThroughlineError(
            f"{place}: {fault['msg']}", path, "write lines such as `my-model: {prompt: 2.5, completion: 10}`"
        ) from error


def price_of(model: str, own: Mapping[str, Price] | None = None) -> Price | None:
    """The user's price, else the list price, of the model or of the one it is a dated version of; None if unknown."""
    for table in (own or {}, PRICES):
        # `gpt-4o-2024-08-06` is a `gpt-4o`; `gpt-4o-mini` is none
        fitting = [name for name in table if re.fullmatch(rf"{re.escape(name)}(-[\d-]*\d)?", model)]
        if fitting:
            return table[max(fitting, key=len)]
    return None
