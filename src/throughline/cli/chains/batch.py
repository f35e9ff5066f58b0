"""`throughline chains batch write|read`: the Batch API's request and answer files."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from throughline.cli.chains.options import (
    add_plan_options,
    add_request_options,
    endpoint_brief,
    now,
    plan_of,
    price_for,
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
    files_help = "where the request files go"
    write.add_argument("--files", metavar="DIR", type=Path, required=True, dest="folder", help=files_help)
    add_request_options(write)
    write.set_defaults(act=_write)
    read = actions.add_parser("read", help="take up answer files", description=READ)
    read.add_argument("images", metavar="DIR", type=Path, help=SOURCE_HELP)
    read.add_argument("answers", metavar="FILE", nargs="+", type=Path, help="output and error files")
    out_help = "the store from which the requests were written"
    read.add_argument("--out", metavar="STORE", type=Path, required=True, help=out_help)
    prices_help = "as for build; a batch costs half (default: list prices we know)"
    read.add_argument("--prices", metavar="FILE", type=Path, help=prices_help)
    read.add_argument("--json", action="store_true", help="print the result as JSON")
    read.set_defaults(act=_read)


def _write(arguments: argparse.Namespace) -> int:
    from throughline.teaching.batch_files import write_batch

    plan = plan_of(arguments).limited(arguments.limit)
    brief = endpoint_brief(arguments, plan)
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
    from throughline.domains.folders import read_images
    from throughline.teaching.batch_files import read_batch

    result = read_batch(
        read_images(arguments.images),
        arguments.out,
        arguments.answers,
        images_named=str(arguments.images),
        price_of=partial(price_for, arguments),
        clock=now,
    )
    if arguments.json:
        print(json.dumps(asdict(result), indent=2))
    else:
        print(f"{result.answers:,} answers taken up, {result.failed:,} failed requests, {result.known:,} known before")
        for line in result.unknown[:LINES_SHOWN]:
            print(line)
        if len(result.unknown) > LINES_SHOWN:
            print(f"… and {len(result.unknown) - LINES_SHOWN:,} more lines that belong to no request")
    return 1 if result.unknown else 0
