"""What `chains build` and `chains batch write` share: the images, the plan, the question and its parameters."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.chains.formats import FORMATS
from throughline.chains.rules import RULES
from throughline.cli.options import SOURCE_HELP, positive_int
from throughline.core.errors import ThroughlineError, UsageError

if TYPE_CHECKING:
    from throughline.teaching.prices import Price
    from throughline.teaching.recorder import BuildPlan

DEFAULT_PARAMS: dict[str, Any] = {"temperature": 0.7, "max_tokens": 1024, "seed": True}
"""Of a request to an endpoint (ours: the paper's are not known)."""
FIXED_PARAMS = {
    "model": "name it with --model",
    "image_side": "give it with --image-side",
    "format": "give it with --format",
    "messages": "give the question with --prompt",
    "stream": "answers are taken whole",
    "n": "candidates are requests of their own: --candidates",
}


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Images, rule, numbers of candidates, format, prompt."""
    parser.add_argument("images", metavar="DIR", type=Path, help=SOURCE_HELP)
    parser.add_argument(
        "--out", metavar="STORE", type=Path, required=True, help="folder of the store; one that is there is completed"
    )
    parser.add_argument(
        "--candidates", type=positive_int, default=4, metavar="K", help="chains asked for per image at most"
    )
    parser.add_argument(
        "--enough", type=positive_int, default=1, metavar="M", help="accepted chains at which an image is done"
    )
    parser.add_argument("--all-candidates", action="store_true", help="ask for all K whatever is accepted")
    parser.add_argument(
        "--rule",
        choices=tuple(RULES),
        default="correct",
        help="what an accepted chain must meet; the verdicts of all rules are recorded",
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="five_stage", help="stages of a chain")
    parser.add_argument(
        "--prompt",
        metavar="FILE",
        type=Path,
        help="the teacher's question, a text with {options} and {stages} (default: our wording)",
    )
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="only N images, spread over domains and classes (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="whole number; another seed asks for other candidates")


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Model and parameters of a request to an endpoint, and what it costs."""
    parser.add_argument("--model", metavar="NAME", help="the model that an endpoint is asked for")
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the request, e.g. temperature=0.2; null leaves one out (default: temperature=0.7, "
        "max_tokens=1024, and a seed of each request's own)",
    )
    parser.add_argument(
        "--image-side",
        type=positive_int,
        default=1024,
        metavar="PIXELS",
        help="longest side that an image is sent with",
    )
    parser.add_argument(
        "--prices",
        metavar="FILE",
        type=Path,
        help="YAML, `model: {prompt: 2.5, completion: 10}`: US dollars for a million tokens (default: list prices)",
    )


def plan_of(arguments: argparse.Namespace, **more: Any) -> BuildPlan:
    """The plan behind the options, for all images; reads them."""
    from throughline.domains.folders import read_images
    from throughline.teaching.recorder import BuildPlan

    images = read_images(arguments.images)
    enough = None if arguments.all_candidates else arguments.enough
    if enough is not None and enough > arguments.candidates:
        raise UsageError(
            f"--enough {enough} is more than --candidates {arguments.candidates}", do="ask for more candidates"
        )
    return BuildPlan(
        images,
        FORMATS[arguments.format],
        arguments.rule,
        arguments.candidates,
        enough,
        images_named=str(arguments.images),
        **more,
    )


def limited(plan: BuildPlan, limit: int | None) -> BuildPlan:
    """The plan for `limit` of its images, spread over domains and classes; for all where it is None."""
    from throughline.domains.samples import spread

    return (
        plan
        if limit is None
        else replace(plan, images=replace(plan.images, samples=spread(plan.images.samples, limit)))
    )


def params_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The request's parameters, the image's size and the chain's format among them."""
    params = {**DEFAULT_PARAMS, "image_side": arguments.image_side, "format": arguments.format}
    return with_params(params, arguments.param)


def with_params(params: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """The parameters with those of `NAME=VALUE` words laid over them; null takes one out."""
    import yaml

    params = dict(params)
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise UsageError(f"--param {word!r} is no NAME=VALUE", do="write for example --param temperature=0.2")
        if name in FIXED_PARAMS:
            raise UsageError(f"--param {name} is not free", do=FIXED_PARAMS[name])
        try:
            params[name] = yaml.safe_load(value)
            json.dumps(params[name], allow_nan=False)
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise UsageError(f"--param {word!r}: the value is no JSON value", do="quote it") from error
        if params[name] is None:
            del params[name]
    return params


def price_for(arguments: argparse.Namespace, model: str) -> Price | None:
    """What the model costs, from the user's table or ours; None where neither knows it."""
    from throughline.teaching.prices import price_of, read_prices

    return price_of(model, read_prices(arguments.prices) if arguments.prices else None)


def require_model(arguments: argparse.Namespace) -> str:
    """The model's name, which an endpoint cannot be asked without."""
    if not arguments.model:
        raise UsageError("no model is named", do="add --model NAME, as the endpoint calls it")
    return str(arguments.model)


def now() -> str:
    """The time of a line: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def require_store(path: Path) -> Path:
    """ThroughlineError unless there is a journal at `path`."""
    from throughline.chains.journal import journal_files

    if not path.is_file() and not (path.is_dir() and journal_files(path)):
        raise ThroughlineError("no chain store here", path, "name a folder of journal-*.jsonl or one such file")
    return path
