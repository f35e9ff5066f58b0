"""The options of `throughline chains`, a class for each subcommand, and what those of `build` and `batch` stand for."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from throughline.cli.options import SOURCE_HELP, Shown, Source
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.settings import Quantization, Settings

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
    "n": "candidates are requests of their own: --candidates",
}

Store = Annotated[
    Path, Shown("STORE", positional=True), Field(description="Folder of journal-*.jsonl, or one such file.")
]
Params = Annotated[tuple[str, ...], Shown("NAME=VALUE", several="append")]
Images = Annotated[Path | None, Shown("DIR"), Field(description=f"{SOURCE_HELP} (default: as the store names it)")]


class Plan(Settings):
    """Which chains are asked for, and of how many images."""

    candidates: int = Field(default=4, ge=1)
    """Largest number of candidates per image: chains that the teacher is asked for."""
    enough: int = Field(default=1, ge=1)
    """Number of accepted chains after which an image is done."""
    all_candidates: bool = False
    """Ask for all candidates even if one is accepted."""
    rule: Literal["format", "consistent", "correct"] = "correct"
    """Accept chains that have all stages in their order (format), that also name one class (consistent), or that also
    name the right class (correct). The verdicts of all rules are recorded."""
    format: Literal["five_stage", "four_stage", "think_answer"] = "five_stage"
    """Format of a chain, the stages that it must have: SUMMARY, CAPTION, REASONING, REFLECTION, CONCLUSION; the same
    without REFLECTION; or think and answer."""
    prompt: Path | None = None
    """Text file with the question to the teacher, with {options} in the place of the classes and {stages} in that of
    the stages (default: our wording)."""
    limit: int | None = Field(default=None, ge=1)
    """Ask about only this many images, spread over domains and classes (default: all)."""
    seed: int = 0
    """Whole number; another seed asks for other chains."""


class Request(Settings):
    """A request to an endpoint, and what it costs."""

    model: str | None = None
    """Name of the model at the endpoint, such as gpt-4o; needed with an endpoint."""
    image_side: int = Field(default=1024, ge=1)
    """Longest side, in pixels, of the images that are sent; larger images are scaled down."""
    prices: Path | None = None
    """YAML file of prices in US dollars per million tokens, `model: {prompt: 2.5, completion: 10}` (default: built-in
    list prices)."""
    param: Params = ()
    """A parameter of the request, such as temperature=0.2; null leaves the parameter out (default: temperature=0.7,
    max_tokens=1024, and a different seed for each request)."""


class Answers(Settings):
    """How answers are read."""

    read_thinking: bool = False
    """If an answer consists only of thinking (text in `<think>` tags), take the chain from it."""


class Connection(Settings):
    """How requests are sent to an endpoint."""

    at_once: int = Field(default=256, ge=1)
    """Largest number of requests at the same time per endpoint; fewer are sent while the endpoint refuses some."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds to wait for an answer before the request is sent again."""
    attempts: int = Field(default=8, ge=1)
    """Number of tries, each ended by a server error or a time-out, after which a request counts as failed."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable with the API key."""


class Endpoint(Connection, Request):
    """A teacher behind an endpoint, and its judge."""

    judge: str | None = None
    """Name of a second model behind an endpoint, which is asked whether the chain agrees with the image and with
    itself; a chain is accepted only if it says yes."""
    judge_url: str | None = None
    """Base URL of the judge's endpoint (default: the teacher's)."""
    judge_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the API key of the judge's own endpoint."""
    judge_param: Params = ()
    """A parameter of the judge's request; null leaves the parameter out (default: temperature=0, max_tokens=16)."""


class Local(Settings):
    """A checkpoint as the teacher."""

    batch: int = Field(default=16, ge=1)
    """Number of images that are asked about in one batch."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature; 0 is greedy, and all candidates are then the same."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """Largest number of tokens in a chain."""
    constrained: bool = False
    """Allow only well-formed chains (needs the extra `constrained`)."""
    tiles: int = Field(default=1, ge=1)
    """Largest number of tiles that an image is cut into, for checkpoints that cut images, such as InternVL."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in memory."""
    quantization: Quantization = "none"
    """`nf4` keeps the decoder's weights in 4 bits, which takes less memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` is a GPU if there is one."""
    hub: bool = False
    """Allow the download of the checkpoint from the Hugging Face Hub."""


class Build(Answers, Plan):
    """Ask a model, the teacher, about each image until it gives a reasoning chain that is accepted: a text that reasons
    from image to class. The same command resumes a stopped build and repeats no recorded answer."""

    images: Source
    teacher: Annotated[tuple[str, ...], Shown("TEACHER", several="+")]
    """`drawn` (the built-in describer, for drawn images only); one or more base URLs of OpenAI-compatible endpoints
    with the same model, such as https://api.openai.com/v1; or a checkpoint: `pocket` (ships with the package), a
    folder, or with --hub a name on the Hugging Face Hub."""
    out: Annotated[Path, Shown("STORE")]
    """Folder of the store, in which every answer is recorded; an existing store is continued."""
    dry_run: bool = False
    """Only estimate requests, tokens and cost; send nothing."""
    max_cost: Annotated[float | None, Shown("USD")] = Field(default=None, gt=0, allow_inf_nan=False)
    """Stop before the whole store has cost more than this, in US dollars (default: no limit)."""
    go_on: bool = False
    """Do not stop when none of the first 50 answers is accepted."""
    shard: Annotated[str, Shown("I/N")] = "0/1"
    """Ask about only this share of the images, so that several jobs can fill one store: 0/4 to 3/4 for four jobs
    (default: all images)."""


class Check(Settings):
    """Look for damaged lines in a journal, a store or an export; exit code 1 if a line cannot be used."""

    store: Annotated[Path, Shown("STORE", positional=True)]
    """Folder of journal-*.jsonl, one such file, or a folder made by `chains export`."""
    limit: int = Field(default=20, ge=1)
    """Number of problems to show of each kind."""


class Stats(Settings):
    """Count a store: acceptance by domain, class and candidate number, outcomes, lengths, tokens and cost."""

    store: Store
    images: Images = None
    references: Annotated[Path | None, Shown("FILE")] = None
    """CSV file with the columns image and report, such as the table of `data import`: also show BLEU and ROUGE-L of the
    texts against the reports of their images."""


class View(Settings):
    """Write one page to browse, filter and search images with their candidates and verdicts; of a folder of preference
    pairs a page with both sides of each."""

    store: Annotated[Path, Shown("STORE", positional=True)]
    """Folder of journal-*.jsonl, one such file, or a folder made by `drift pairs` (with --images)."""
    page: Annotated[Path, Shown("PAGE.html", positional=True)]
    """The page to write."""
    images: Images = None
    limit: int = Field(default=500, ge=1)
    """Largest number of images on the page."""


class Export(Settings):
    """Write accepted chains with their images as Parquet with a dataset card, and as the JSONL that TRL, ms-swift and
    LLaMA-Factory train on."""

    store: Store
    folder: Annotated[Path, Shown("DIR", positional=True)]
    """New folder, or an older export to replace."""
    images: Images = None
    every_accepted: bool = False
    """Export all accepted chains instead of the first one of each image."""
    with_labels: bool = False
    """Also write the label question and its answer into the JSONL."""
    licence: Annotated[str | None, Shown("ID")] = None
    """Licence of the dataset as the Hub names it, such as cc-by-4.0 (default: none given)."""
    run: Annotated[Path | None, Shown("RUN")] = None
    """An analysed run on the same images; its card then has the base's perplexity on the chains and the distance
    between domains in them."""


class BatchFiles(Settings):
    """Write requests as files of the Batch API, and read its answers."""


class BatchWrite(Plan, Request):
    """Write request files for OpenAI's Batch API or vLLM's run-batch: the next candidate of every image that still
    needs one, or all candidates with --all-candidates. Hand the files in, read the answers with `chains batch read`,
    and write again for images without an accepted candidate."""

    images: Source
    out: Annotated[Path, Shown("STORE")]
    """Folder of the store, in which every answer is recorded; an existing store is continued."""
    files: Annotated[Path, Shown("DIR")]
    """Where the request files go."""


class BatchRead(Answers):
    """Read output and error files of the Batch API into the store, every answer once."""

    images: Source
    answers: Annotated[tuple[Path, ...], Shown("FILE", positional=True, several="+")]
    """Output and error files."""
    out: Annotated[Path, Shown("STORE")]
    """The store from which the requests were written."""
    prices: Annotated[Path | None, Shown("FILE")] = None
    """YAML file of prices as for `chains build`; a batch costs half (default: built-in list prices)."""


def require_no_file(folder: Path, what: str, option: str) -> None:
    """UsageError where a file is in the way of a folder."""
    if folder.is_file():
        raise UsageError(f"{what} must be a folder, and this is a file", folder, f"give {option} another name")


def plan_of(arguments: argparse.Namespace, **more: Any) -> BuildPlan:
    """The plan behind the options, with stand-ins for classes and images: these take minutes to read, and wrong options
    are told before."""
    from throughline.chains.formats import FORMATS
    from throughline.domains.samples import ImageSet
    from throughline.teaching.plan import BuildPlan

    require_no_file(arguments.out, "a store", "--out")
    if not arguments.images.exists():
        raise ThroughlineError("no such folder or table of images", arguments.images)
    root = arguments.images if arguments.images.is_dir() else arguments.images.parent
    images = ImageSet("", root, (), ("this", "that"), ())
    if not arguments.all_candidates and arguments.enough > arguments.candidates:
        what = f"--enough {arguments.enough} is more than --candidates {arguments.candidates}"
        raise UsageError(what, do="ask for more candidates")
    enough = None if arguments.all_candidates else arguments.enough
    named = str(arguments.images)
    format = FORMATS[arguments.format]
    return BuildPlan(images, format, arguments.rule, arguments.candidates, enough, images_named=named, **more)


def with_images(plan: BuildPlan, arguments: argparse.Namespace) -> BuildPlan:
    """The plan for all images; reads them. ThroughlineError where the store is about others."""
    from throughline.chains.store import require_chains_about
    from throughline.domains.folders import read_images

    images = read_images(arguments.images)
    if arguments.out.is_dir():
        require_chains_about(images, arguments.out)
    return replace(plan, images=images)


def endpoint_brief(arguments: argparse.Namespace, plan: BuildPlan) -> Brief:
    """What a teacher behind an endpoint gets. UsageError without a model's name."""
    from throughline.teaching.prompt import teacher_prompt
    from throughline.teaching.teachers import Brief

    if not arguments.model:
        raise UsageError("no model is given", do="add --model NAME, as the endpoint calls it")
    params = {**DEFAULT_PARAMS, "image_side": arguments.image_side, "format": arguments.format}
    prompt = teacher_prompt(plan.images.classes, plan.format, arguments.prompt, plan.images.names)
    return Brief("endpoint", arguments.model, prompt, with_params(params, arguments.param), arguments.seed)


def with_params(params: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """The parameters with those of `NAME=VALUE` words laid over them; null takes one out."""
    import yaml

    params = dict(params)
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise UsageError(f"--param {word!r} is not NAME=VALUE", do="write for example --param temperature=0.2")
        if name in FIXED_PARAMS:
            raise UsageError(f"--param {name} cannot be set", do=FIXED_PARAMS[name])
        try:
            params[name] = yaml.safe_load(value)
            json.dumps(params[name], allow_nan=False)
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise UsageError(f"--param {word!r}: the value is not valid JSON", do="quote it") from error
    return {name: value for name, value in params.items() if value is not None}


def price_for(arguments: argparse.Namespace, model: str) -> Price | None:
    """What the model costs, from the user's table or ours; None where neither knows it."""
    from throughline.teaching.prices import price_of, read_prices

    return price_of(model, read_prices(arguments.prices) if arguments.prices else None)


def now() -> str:
    """The time of a line: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
