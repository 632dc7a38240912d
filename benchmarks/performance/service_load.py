"""Latency of ``alignrec serve`` under load: many clients, each with one request at a time.

    python -m benchmarks.performance.service_load
    python -m benchmarks.performance.service_load --users 1000000 --links 5000000 --seconds 60

LightGCN on made-up links, untrained, saved with its graph and served by ``alignrec serve`` in a
process of its own. Every client keeps a connection and asks for one user at a time, drawn at
random. Times are of the clock, from sending a request to its whole answer; the clients share the
machine with the service. One reload happens half way, so that the times hold a change of models;
the service's processor time for a request is that of the half before.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch

from alignrec_pyg import LightGCN
from alignrec_pyg.text_tables import markdown_table
from benchmarks.performance.made_up import Shape, make_graphs
from benchmarks.performance.measuring import log, make_parser, origin, positive_int

_PERCENTILES = (50, 90, 99, 100)


class Answers(NamedTuple):
    """Answers that clients received.

    ``seconds`` are of each request, ``statuses`` counts them, ``cpu_seconds`` is the service's
    processor time for a request.
    """

    seconds: list[float]
    statuses: Counter[int]
    cpu_seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 if a request failed."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--users", type=positive_int, default=200_000, metavar="N", help="(200000)")
    add("--items", type=positive_int, default=100_000, metavar="N", help="(100000)")
    add("--links", type=positive_int, default=1_000_000, metavar="N", help="(1000000)")
    add("--dim", type=positive_int, default=64, metavar="N", help="width of the vectors (64)")
    add("--k", type=positive_int, default=20, metavar="N", help="length of the lists (20)")
    add("--clients", type=positive_int, default=100, metavar="N", help="at once (100)")
    add("--seconds", type=positive_int, default=60, metavar="N", help="of load (60)")
    options = parser.parse_args(arguments)
    if options.links < 3 * options.users:
        parser.error(f"--links: needs to be 3 or more for each user (got {options.links})")
    shape = Shape(options.users, options.items, options.links, options.users, options.users)
    with tempfile.TemporaryDirectory() as folder:
        data, _, _ = make_graphs(shape, {})
        torch.manual_seed(0)
        LightGCN(data, embedding_dim=options.dim).save_pretrained(folder, data)
        del data
        with serving(Path(folder), options.threads) as (port, process):
            log(f"serving on port {port}: {options.clients} clients, {options.seconds} s")
            rng = np.random.default_rng(0)
            users = rng.integers(options.users, size=(options.clients, 1000)).tolist()
            answers = asyncio.run(load(port, process, users, options.k, options.seconds))
    count = len(answers.seconds)
    failed = count - answers.statuses[200]
    times = np.percentile(np.array(answers.seconds) * 1000, _PERCENTILES)
    percentiles = [f"{percent} % (ms)" for percent in _PERCENTILES]
    rows = [
        ["clients", "requests", "a second", *percentiles, "CPU ms", "errors"],
        [
            f"{options.clients}",
            f"{count:,}",
            f"{count / options.seconds:,.0f}",
            *(f"{milliseconds:,.0f}" for milliseconds in times),
            f"{1000 * answers.cpu_seconds:.1f}",
            f"{failed:,}",
        ],
    ]
    print(markdown_table(rows, left=()))
    print(
        f"\n{options.users:,} users, {options.items:,} items, {options.links:,} links, width "
        f"{options.dim}, k {options.k}, {options.threads} threads, {origin(torch.device('cpu'))}"
    )
    return min(failed, 1)


@contextmanager
def serving(folder: Path, threads: int) -> Iterator[tuple[int, int]]:
    """Port and process of an ``alignrec serve`` that answers while the block runs."""
    script = "import sys; from alignrec_pyg.cli import main; sys.exit(main())"
    words = ["serve", str(folder), "--port", "0", "--threads", str(threads), "--device", "cpu"]
    command = [sys.executable, "-c", script, *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            told: list[str] = []
            for line in process.stderr or ():
                told.append(line)
                if "http://" in line:
                    port = int(line.partition("http://")[2].partition(":")[2].split()[0])
                    yield port, process.pid
                    return
            raise RuntimeError(f"alignrec serve ended ({''.join(told).strip()})")
        finally:
            process.terminate()


async def load(
    port: int, process: int, users: Sequence[Sequence[int]], k: int, seconds: float
) -> Answers:
    """Asks for some time, a client for each list of users, and reloads half way."""
    end = time.monotonic() + seconds
    times: list[float] = []
    statuses: Counter[int] = Counter()
    before = _cpu_seconds(process)
    clients = [_client(port, own, k, end, times, statuses) for own in users]
    asking = asyncio.gather(*clients)
    await asyncio.sleep(seconds / 2)
    each = (_cpu_seconds(process) - before) / max(1, len(times))
    await asyncio.gather(asking, _reload(port))
    return Answers(times, statuses, each)


def _cpu_seconds(process: int) -> float:
    used = psutil.Process(process).cpu_times()
    return used.user + used.system


async def _client(
    port: int,
    users: Sequence[int],
    k: int,
    end: float,
    times: list[float],
    statuses: Counter[int],
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.monotonic() < end:
        body = json.dumps({"user_ids": [users[number % len(users)]], "k": k})
        number += 1
        start = time.perf_counter()
        status, _ = await _asked(reader, writer, "/recommend", body)
        times.append(time.perf_counter() - start)
        statuses[status] += 1
    writer.close()


async def _reload(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    start = time.perf_counter()
    status, told = await _asked(reader, writer, "/reload", "{}")
    log(f"reload: status {status} after {time.perf_counter() - start:.1f} s, {told.decode()}")
    writer.close()


async def _asked(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: str
) -> tuple[int, bytes]:
    """Status and body of an answer over a connection that stays open."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    (length,) = [int(line[15:]) for line in lines if line.startswith("content-length:")]
    return int(lines[0].split()[1]), await reader.readexactly(length)


if __name__ == "__main__":
    sys.exit(main())
