"""`throughline chains batch write|read`: the Batch API's request and answer files."""

from __future__ import annotations

import argparse
import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from throughline.cli.chains.options import (
    add_plan_options,
    add_request_options,
    limited,
    now,
    params_of,
    plan_of,
    price_for,
    require_model,
)
from throughline.cli.options import SOURCE_HELP
from throughline.cli.progress import progress
from throughline.cli.text import counted

WRITE = """Writes request files for OpenAI's Batch API (or vLLM's run-batch): the next candidate of every image that
wants one, all of them with --all-candidates. Hand the files in, read the answers with `chains batch read`, and write
again for the images whose candidate was not accepted."""
READ = """Takes output and error files of the Batch API into the store, every answer once."""
LINES_SHOWN = 5


def add_batch(commands: Any) -> None:
    """The subcommand, its two actions and their options."""
    parser = commands.add_parser("batch", help="requests and answers as files", description="The Batch API as files.")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    write = actions.add_parser("write", help="write request files", description=WRITE)
    add_plan_options(write)
    write.add_argument(
        "--files", metavar="DIR", type=Path, required=True, dest="folder", help="where the request files go"
    )
    add_request_options(write)
    write.set_defaults(act=_write)
    read = actions.add_parser("read", help="take up answer files", description=READ)
    read.add_argument("images", metavar="DIR", type=Path, help=SOURCE_HELP)
    read.add_argument("answers", metavar="FILE", nargs="+", type=Path, help="output and error files")
    read.add_argument(
        "--out", metavar="STORE", type=Path, required=True, help="the store from which the requests were written"
    )
    read.add_argument(
        "--prices", metavar="FILE", type=Path, help="as for build; a batch costs half (default: list prices we know)"
    )
    read.add_argument("--json", action="store_true", help="print the result as JSON")
    read.set_defaults(act=_read)


def _write(arguments: argparse.Namespace) -> int:
    from throughline.teaching.batch_files import write_batch
    from throughline.teaching.prompt import teacher_prompt
    from throughline.teaching.teachers import Brief

    plan = limited(plan_of(arguments), arguments.limit)
    prompt = teacher_prompt(plan.images.classes, plan.format, arguments.prompt)
    brief = Brief("endpoint", require_model(arguments), prompt, params_of(arguments), arguments.seed)
    with progress("writing requests", "images") as report_progress:
        written = write_batch(plan, brief, arguments.out, arguments.folder, on_progress=report_progress)
    for sample_id, what in written.unreadable.items():
        print(f"no request for {sample_id}: {what}")
    for path in written.files:
        print(path)
    print(f"{written.requests:,} requests in {counted(len(written.files), 'file')}")
    if written.files:
        print(
            f"hand them in, then: throughline chains batch read {arguments.images} ANSWERS.jsonl --out {arguments.out}"
        )
    return 0


def _read(arguments: argparse.Namespace) -> int:
    from throughline.chains.formats import FORMATS
    from throughline.domains.folders import read_images
    from throughline.teaching.batch_files import BatchRead, read_batch, read_orders
    from throughline.teaching.recorder import BuildPlan

    images = read_images(arguments.images)
    results: list[BatchRead] = []
    for order in read_orders(arguments.out):
        plan = BuildPlan(
            images,
            FORMATS[order.format],
            order.rule,
            order.candidates,
            order.enough,
            images_named=str(arguments.images),
        )
        price = price_for(arguments, order.model)
        results.append(read_batch(plan, order, arguments.out, arguments.answers, price=price, clock=now))
    whole = functools.reduce(BatchRead.joined, results)
    if arguments.json:
        print(json.dumps(asdict(whole), indent=2))
    else:
        print(f"{whole.answers:,} answers taken up, {whole.failed:,} failed requests, {whole.known:,} known before")
        for line in whole.unknown[:LINES_SHOWN]:
            print(line)
        if len(whole.unknown) > LINES_SHOWN:
            print(f"… and {len(whole.unknown) - LINES_SHOWN:,} more lines that belong to no request")
    return 1 if whole.unknown else 0
