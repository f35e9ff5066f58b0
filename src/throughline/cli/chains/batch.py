"""`throughline chains batch write|read`: the Batch API's request and answer files."""

import argparse
from dataclasses import asdict

from throughline.cli.chains.build_report import THINKING_ALONE
from throughline.cli.chains.options import (
    BatchRead,
    BatchWrite,
    endpoint_brief,
    now,
    plan_of,
    price_for,
    require_no_file,
    with_images,
)
from throughline.cli.options import add_subcommands
from throughline.cli.progress import progress
from throughline.cli.text import counted, json_text

LINES_SHOWN = 5


def add_actions(parser: argparse.ArgumentParser) -> None:
    """The two actions and their options."""
    add_subcommands(parser, {"write": (BatchWrite, write), "read": (BatchRead, read)}, json_of=("read",))


def write(arguments: argparse.Namespace) -> int:
    """Writes the request files, and says how to go on."""
    require_no_file(arguments.files, "what holds the requests", "--files")
    plan = plan_of(arguments)
    price_for(arguments, endpoint_brief(arguments, plan).model)  # what is wrong is told before the images are read
    plan = with_images(plan, arguments).limited(arguments.limit)
    brief = endpoint_brief(arguments, plan)
    from throughline.teaching.batch_files import write_batch

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
    from throughline.chains.journal import read_lines
    from throughline.domains.folders import read_images
    from throughline.teaching.batch_files import read_batch, read_orders

    prices = {order.model: price_for(arguments, order.model) for order in read_orders(arguments.out)}
    for path in arguments.answers:
        next(read_lines(path, "answers"), None)  # one that cannot be read is told before the images are
    result = read_batch(
        read_images(arguments.images),
        arguments.out,
        arguments.answers,
        images_named=str(arguments.images),
        price_of=prices.get,
        read_thinking=arguments.read_thinking,
        clock=now,
    )
    if arguments.json:
        print(json_text(asdict(result)))
    else:
        print(f"{result.answers:,} answers added, {result.failed:,} failed requests, {result.known:,} known before")
        if result.only_thinking:
            print(THINKING_ALONE.format(result.only_thinking))
        for line in result.unknown[:LINES_SHOWN]:
            print(line)
        if len(result.unknown) > LINES_SHOWN:
            print(f"… and {len(result.unknown) - LINES_SHOWN:,} more lines that belong to no request")
    return 1 if result.unknown else 0
