"""`throughline chains build`: a teacher, a plan, its progress, and what came of it."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.cli.chains.build_report import build_progress, heeding_ctrl_c, money, print_estimate, print_result
from throughline.cli.chains.options import (
    Endpoint,
    Local,
    endpoint_brief,
    now,
    plan_of,
    price_for,
    with_images,
    with_params,
)
from throughline.cli.options import add_settings, given_settings
from throughline.core.errors import Interrupted, ThroughlineError, UsageError

if TYPE_CHECKING:
    from throughline.core.settings import Settings
    from throughline.teaching.endpoint import Endpoints
    from throughline.teaching.judge import Judge
    from throughline.teaching.plan import BuildPlan
    from throughline.teaching.prices import Price
    from throughline.teaching.recorder import Progress
    from throughline.teaching.teachers import Teacher

JUDGE_PARAMS: dict[str, Any] = {"temperature": 0, "max_tokens": 16}


def add_teacher_options(parser: argparse.ArgumentParser) -> None:
    """What only one kind of teacher has."""
    add_settings(parser.add_argument_group("a teacher behind an endpoint"), Endpoint)
    add_settings(parser.add_argument_group("a checkpoint as the teacher"), Local)


def run_build(arguments: argparse.Namespace) -> int:
    """Builds, or estimates, and says what came of it."""
    chosen = {"max_cost": arguments.max_cost, "read_thinking": arguments.read_thinking, "go_on": arguments.go_on}
    planned = plan_of(arguments, shard=_shard(arguments.shard), **chosen)
    _try_options(arguments, planned)
    whole = with_images(planned, arguments)
    plan = whole.limited(arguments.limit)
    if arguments.dry_run:
        return _estimate(arguments, plan)
    progress = asyncio.run(_built(arguments, plan))
    print_result(progress, plan, arguments.out, arguments.json)
    if progress.failed_trial:
        count, looks = progress.cached + progress.answers, ", ".join(progress.outcomes)
        what = f"none of the first {count:,} answers is accepted" + (f" ({looks})" if looks else "")
        raise ThroughlineError(what, arguments.out, "look at them with `chains view`; --go-on continues")
    if arguments.limit and _kind(arguments) == "endpoint" and not arguments.json:
        print(f"estimate for all {len(whole.samples):,} images, from these answers:")
        _estimate(arguments, whole)
    left = f"{progress.images - progress.done:,} images not done yet"
    if progress.stopped_at_cost:
        what = f"stopped at --max-cost {money(arguments.max_cost)}, {left}"
        raise Interrupted(what, arguments.out, "the same command with a higher one continues")
    if progress.interrupted:
        raise Interrupted(f"interrupted, {left}", arguments.out, "the same command continues")
    return 1 if progress.failed and not (progress.answers or progress.cached) else 0


JUDGES_OPTIONS = {"judge", "judge_url", "judge_param", "judge_key_env", "image_side", "prices", "timeout", "attempts"}


def _try_options(arguments: argparse.Namespace, plan: BuildPlan) -> None:
    """Tells what is wrong with the options before the images are read, which may take minutes, and before anything
    that asks is imported; the plan has stand-ins for images. Of a local checkpoint only the files are looked at."""
    from throughline.mllm.checkpoints import checkpoint_source
    from throughline.teaching.prompt import teacher_prompt

    kind = _kind(arguments)
    if not arguments.dry_run:
        _require_fitting_options(arguments)
    if kind == "endpoint":
        _price(arguments, endpoint_brief(arguments, plan).model)
        _key(arguments.teacher, arguments.key_env)
    else:
        teacher_prompt(plan.images.classes, plan.format, arguments.prompt)
    if kind == "local" and arguments.dry_run:
        raise UsageError("a local checkpoint costs time only, which is not estimated", do="try --limit 40")
    if kind == "local":
        checkpoint_source(arguments.teacher[0], arguments.hub)
    if arguments.judge is not None:
        _judge_options(arguments)
    if kind == "drawn":
        _teacher(arguments, plan, [])


def _require_fitting_options(arguments: argparse.Namespace) -> None:
    """An option of another kind of teacher would do nothing, and its missing effect may cost something."""
    kind = _kind(arguments)
    groups: dict[str, type[Settings]] = {"endpoint": Endpoint, "local": Local}
    others = [group for of_kind, group in groups.items() if of_kind != kind]
    foreign = {name: field.default for group in others for name, field in group.model_fields.items()}
    if arguments.max_cost is not None and kind != "endpoint" and not arguments.judge:
        raise UsageError("--max-cost has no effect with this teacher", do="leave it out: this teacher costs no money")
    for name, default in foreign.items():
        if getattr(arguments, name) not in (default, []) and not (arguments.judge and name in JUDGES_OPTIONS):
            hint = ", and write --param max_tokens=N" if name == "max_new_tokens" and kind == "endpoint" else ""
            raise UsageError(f"--{name.replace('_', '-')} has no effect with this teacher", do=f"leave it out{hint}")


async def _built(arguments: argparse.Namespace, plan: BuildPlan) -> Progress:
    from throughline.teaching.building import build

    endpoints: list[Endpoints] = []
    try:
        teacher = _teacher(arguments, plan, endpoints)
        judge = _judge(arguments, plan, endpoints)
        with build_progress(endpoints) as report_progress, heeding_ctrl_c(endpoints) as stopping:
            return await build(
                plan, teacher, arguments.out, judge=judge, clock=now, on_progress=report_progress, stopping=stopping
            )
    finally:
        for group in endpoints:
            await group.close()


_ADDRESS = re.compile(
    r"\w{2,}:/|https?\b|localhost\b|[\w.-]+:[0-9]+(/|$)|\[[0-9a-f:]+\]|\w[\w-]*(\.[\w-]+)+(:[0-9]+)?(/|$)", re.I
)
"""What may have been meant as a URL: no name on the hub has a dot or a colon before its first slash."""


def _kind(arguments: argparse.Namespace) -> str:
    """ "drawn", "endpoint" or "local"."""
    words = arguments.teacher
    urls = [word for word in words if word.casefold().startswith(("http://", "https://"))]
    for word in words:
        if word not in urls and _ADDRESS.match(word) and not Path(word).exists():
            raise UsageError(f"the teacher {word!r} is not a URL or folder", do="begin a URL with http:// or https://")
    if urls and len(urls) < len(words):
        other = next(word for word in words if word not in urls)
        raise UsageError(f"the teacher {other!r} is not a URL like the others", do="begin it with http:// or https://")
    if not urls and len(words) > 1:
        raise UsageError("several teachers at once must be endpoints", do="name one teacher")
    return "endpoint" if urls else "drawn" if words == ["drawn"] else "local"


def _teacher(arguments: argparse.Namespace, plan: BuildPlan, endpoints: list[Endpoints]) -> Teacher:
    from throughline.teaching.prompt import teacher_prompt

    kind = _kind(arguments)
    if kind == "endpoint":
        brief = endpoint_brief(arguments, plan)
        price = _price(arguments, brief.model)
        endpoints.append(open_endpoints(arguments, arguments.teacher, arguments.key_env))
        from throughline.teaching.endpoint import EndpointTeacher

        return EndpointTeacher(brief, endpoints[0], price)
    if kind == "drawn":
        from throughline.teaching.teachers import Describer

        prompt = teacher_prompt(plan.images.classes, plan.format, arguments.prompt, plan.images.names)
        return Describer(plan.images.root, plan.format, prompt, arguments.seed)
    return _local(arguments, plan)


def _local(arguments: argparse.Namespace, plan: BuildPlan) -> Teacher:
    from throughline.core.settings import SamplingSettings
    from throughline.mllm.constraints import constraint_of
    from throughline.mllm.devices import pick_device
    from throughline.mllm.load import load_mllm
    from throughline.questions.question_set import make_question_set
    from throughline.teaching.local import LocalTeacher
    from throughline.teaching.prompt import teacher_prompt

    # A local checkpoint may have learned from chains already, and then behind this very question.
    classes, format, names = plan.images.classes, plan.format, plan.images.names
    if arguments.prompt is None:
        prompt = make_question_set(classes, format, names=names).reasoning
    else:
        prompt = teacher_prompt(classes, format, arguments.prompt, names)
    loading = given_settings(arguments, ("tiles", "dtype", "hub", "quantization"))
    mllm = load_mllm(arguments.teacher[0], device=pick_device(arguments.device), **loading)
    sampling = SamplingSettings(**given_settings(arguments, ("temperature", "max_new_tokens", "constrained")))
    constraint = constraint_of(sampling, mllm.chat, format)
    return LocalTeacher(mllm, prompt, sampling, arguments.seed, arguments.batch, constraint)


def open_endpoints(arguments: argparse.Namespace, urls: list[str], key_env: str) -> Endpoints:
    """Those at these base URLs, with the key in an environment variable and the patience that the options name."""
    from throughline.teaching.endpoint import Endpoints, Patience

    patience = Patience(timeout=arguments.timeout, attempts=arguments.attempts)
    return Endpoints(urls, _key(urls, key_env), patience, arguments.at_once)


def _key(urls: list[str], key_env: str) -> str | None:
    """The API key for these base URLs, None where none is set. UsageError for what can be no URL or no key."""
    from pydantic import AnyHttpUrl, TypeAdapter, ValidationError

    for url in urls:
        try:
            TypeAdapter(AnyHttpUrl).validate_python(url)
        except ValidationError:
            raise UsageError(f"{url!r} is not a base URL", do="write it like http://127.0.0.1:8000/v1") from None
    key = os.environ.get(key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"the key in {key_env} has characters that are not allowed in a key", do="copy it again")
    return key or None


def _judge(arguments: argparse.Namespace, plan: BuildPlan, endpoints: list[Endpoints]) -> Judge | None:
    if arguments.judge is None:
        return None
    from throughline.questions.question_set import make_question_set
    from throughline.teaching.judge import Judge

    if arguments.judge_url is not None:
        endpoints.append(open_endpoints(arguments, [arguments.judge_url], arguments.judge_key_env))
    question = make_question_set(plan.images.classes, plan.format, names=plan.images.names).label
    return Judge(endpoints[-1], arguments.judge, question, *_judge_options(arguments))


def _judge_options(arguments: argparse.Namespace) -> tuple[dict[str, Any], Price | None]:
    """The parameters of the judge's requests, and its price. UsageError where its options are wrong."""
    if arguments.judge_url is not None:
        _key([arguments.judge_url], arguments.judge_key_env)
    elif _kind(arguments) != "endpoint":
        raise UsageError("the judge has no endpoint", do="name one with --judge-url")
    params = with_params({**JUDGE_PARAMS, "image_side": arguments.image_side}, arguments.judge_param)
    return params, _price(arguments, arguments.judge)


def _price(arguments: argparse.Namespace, model: str) -> Price | None:
    """UsageError when a limit is given that cannot be kept."""
    price = price_for(arguments, model)
    if price is None and arguments.max_cost is not None:
        raise UsageError(
            f"the price of {model} is not known, so --max-cost cannot be kept", do="give one with --prices FILE"
        )
    return price


def _shard(text: str) -> tuple[int, int]:
    parts = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if parts is None:
        raise UsageError(f"--shard {text!r} is not I/N", do="number shards from 0, e.g. 0/4 to 3/4")
    return int(parts[1]), int(parts[2])


def _estimate(arguments: argparse.Namespace, plan: BuildPlan) -> int:
    from throughline.teaching.estimate import estimate

    is_paid = _kind(arguments) == "endpoint"
    brief = endpoint_brief(arguments, plan) if is_paid else _teacher(arguments, plan, []).brief
    estimated = estimate(plan, brief, arguments.out, price_for(arguments, brief.model))
    print_estimate(estimated, plan, brief.model if is_paid else None, arguments.json)
    return 0
