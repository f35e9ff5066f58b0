"""`throughline chains batch write|read`: the Batch API's request and answer files."""

import argparse
from dataclasses import asdict
from functools import partial

from throughline.cli.chains.options import BatchRead, BatchWrite, endpoint_brief, now, plan_of, price_for, with_images
from throughline.cli.options import add_subcommands
from throughline.cli.progress import progress
from throughline.cli.text import counted, json_text

LINES_SHOWN = 5


def add_actions(parser: argparse.ArgumentParser) -> None:
    """The two actions and their options."""
    add_subcommands(parser, {"write": (BatchWrite, write), "read": (BatchRead, read)}, json_of=("read",))


def write(arguments: argparse.Namespace) -> int:
    """Writes the request files, and says how to go on."""
    from throughline.teaching.batch_files import write_batch

    plan = with_images(plan_of(arguments), arguments).limited(arguments.limit)
    brief = endpoint_brief(arguments, plan)
    with progress("writing requests", "images") as report_progress:
        written = write_batch(plan, brief, arguments.out, arguments.files, on_progress=report_progress)
    for sample_id, what in written.unreadable.items():
        print(f"no request for {sample_id}: {what}")
    for path in written.files:
        print(path)
    print(f"{written.requests:,} requests in {counted(len(written.files), 'file')}")
    if written.files:
        command = f"throughline chains batch read {arguments.images} ANSWERS.jsonl --out {arguments.out}"
        print(f"hand them in, then: {command}")
    return 0


def read(arguments: argparse.Namespace) -> int:
    """Takes the answers up; 1 when a line belongs to no request."""
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
        print(json_text(asdict(result)))
    else:
        print(f"{result.answers:,} answers taken up, {result.failed:,} failed requests, {result.known:,} known before")
        for line in result.unknown[:LINES_SHOWN]:
            print(line)
        if len(result.unknown) > LINES_SHOWN:
            print(f"… and {len(result.unknown) - LINES_SHOWN:,} more lines that belong to no request")
    return 1 if result.unknown else 0
