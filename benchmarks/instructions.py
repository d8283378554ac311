"""Counts the machine instructions of a request, with valgrind's callgrind: a noisy machine does not change them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import click

from benchmarks.alone import GUEST, NO_LANE, PATIENT, REFUSED, USUAL
from benchmarks.drive import Job
from benchmarks.progress import say
from benchmarks.report import table
from benchmarks.servers import CHECKOUT, HOME, own_environment
from benchmarks.store import Store

_COLLECTED: Final = re.compile(r"Collected : (\d+)")

# Requests of the two runs whose difference is measured; what starting costs is the same in both. Valgrind is some fifty
# times slower than the processor, so what goes by time is left out: overload protection is off, and requests come one
# at a time, since many at once would outlast a lease.
_FEW: Final = 1000
_MANY: Final = 5000


async def measure(store: Store) -> str:
    """The table of what the shield adds to a request that does nothing."""
    crowd = _MANY + _FEW
    jobs = {
        "one guest, allowed": (Job(0), GUEST),
        "guests in turn, allowed, each by a call of its own": (Job(0, clients=crowd, warm_up=0), USUAL),
        "one guest, refused": (Job(0), REFUSED),
    }
    bare = await _a_request(Job(0, shielded=False), {}, store)
    rows = []
    for name, (job, settings) in jobs.items():
        added = await _a_request(job, settings | NO_LANE, store) - bare
        say(f"  {name}: {added:,}")
        rows.append([name, f"{added:,}"])
    return table(["without a server and without overload protection", "instructions added"], rows)


async def _a_request(job: Job, settings: Mapping[str, str], store: Store) -> int:
    """The instructions of one request, the driver's own included."""
    few = await _run(replace(job, requests=_FEW, at_once=1), settings, store)
    many = await _run(replace(job, requests=_MANY, at_once=1), settings, store)
    return (many - few) // (_MANY - _FEW)


async def _run(job: Job, settings: Mapping[str, str], store: Store) -> int:
    """The instructions of a whole run.

    Raises:
        click.ClickException: it failed, or there is no valgrind.
    """
    store.client.flushall()
    environ = own_environment() | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(HOME)]), "PYTHONHASHSEED": "0"}
    environ |= {"SHIELD_REDIS_URL": store.url(0), **PATIENT, **settings}
    with tempfile.TemporaryDirectory() as folder:
        try:
            process = await asyncio.create_subprocess_exec(
                *("valgrind", "--tool=callgrind", f"--callgrind-out-file={Path(folder, 'out')}"),
                *(sys.executable, "-P", "-m", "benchmarks.drive", json.dumps(asdict(job)), str(store.port)),
                env=environ,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except FileNotFoundError:
            raise click.ClickException("instructions are counted by valgrind: apt-get install valgrind") from None
        _, said = await process.communicate()
    found = _COLLECTED.search(said.decode())
    if process.returncode != 0 or found is None:
        raise click.ClickException(f"the driver ended with status {process.returncode}: {said.decode()[-300:]}")
    return int(found[1])
