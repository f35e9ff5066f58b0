"""What `chains build` and `chains batch write` share: the images, the plan, the question and its parameters."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.cli.options import SOURCE_HELP, add_settings
from throughline.core.errors import UsageError

if TYPE_CHECKING:
    from throughline.teaching.plan import BuildPlan
    from throughline.teaching.prices import Price
    from throughline.teaching.teachers import Brief

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


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Images, store, rule, numbers of candidates, format, prompt."""
    from throughline.teaching.settings import PlanSettings

    parser.add_argument("images", metavar="DIR", type=Path, help=SOURCE_HELP)
    out_help = "folder of the store; one that is there is completed"
    parser.add_argument("--out", metavar="STORE", type=Path, required=True, help=out_help)
    add_settings(parser, PlanSettings, PlanSettings.model_fields)


def add_request_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Model and parameters of a request to an endpoint, and what it costs."""
    from throughline.teaching.settings import RequestSettings

    add_settings(parser, RequestSettings, RequestSettings.model_fields)
    param_help = """a parameter of the request, e.g. temperature=0.2; null leaves one out (default: temperature=0.7,
    max_tokens=1024, and a seed of each request's own)"""
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help=param_help)


def plan_of(arguments: argparse.Namespace, **more: Any) -> BuildPlan:
    """The plan behind the options, for all images; reads them."""
    from throughline.chains.formats import FORMATS
    from throughline.domains.folders import read_images
    from throughline.teaching.plan import BuildPlan

    images = read_images(arguments.images)
    if not arguments.all_candidates and arguments.enough > arguments.candidates:
        what = f"--enough {arguments.enough} is more than --candidates {arguments.candidates}"
        raise UsageError(what, do="ask for more candidates")
    return BuildPlan(
        images,
        FORMATS[arguments.format],
        arguments.rule,
        arguments.candidates,
        None if arguments.all_candidates else arguments.enough,
        images_named=str(arguments.images),
        **more,
    )


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


def endpoint_brief(arguments: argparse.Namespace, plan: BuildPlan) -> Brief:
    """What a teacher behind an endpoint gets. UsageError without a model's name."""
    from throughline.teaching.prompt import teacher_prompt
    from throughline.teaching.teachers import Brief

    if not arguments.model:
        raise UsageError("no model is named", do="add --model NAME, as the endpoint calls it")
    params = {**DEFAULT_PARAMS, "image_side": arguments.image_side, "format": arguments.format}
    prompt = teacher_prompt(plan.images.classes, plan.format, arguments.prompt)
    return Brief("endpoint", arguments.model, prompt, with_params(params, arguments.param), arguments.seed)


def now() -> str:
    """The time of a line: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
