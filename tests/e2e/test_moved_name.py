"""A failover of a managed Redis behind one name, under traffic: the old server stays up as a replica of the new one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from e2e.test_store_failure import shielded, visiting
from servers import redis_server, wait_until
from store.names import Name, becomes_a_replica, named
from store.stores import calls

# The promise is 2 s; a busy machine may need more to do what it was asked.
PATIENCE_S = 6.0


def test_the_store_decides_again_soon_after_the_name_has_moved(tmp_path: Path) -> None:
    """Charges are taken at the new server, what is told there is heard, and no answer is an error meanwhile."""
    with redis_server("redis") as old, redis_server("redis") as new:
        client = new.client()

        def listeners() -> int:
            return int(client.pubsub_numsub("shield:{control}:changes")[0][1])

        def story(name: Name) -> None:
            limit = "100000/minute"
            with shielded(name.url, tmp_path, "local", SHIELD_IP_LIMIT=limit) as server, visiting(server) as visitor:
                assert visitor.ask().status == 200
                becomes_a_replica(old, new)
                name.target = new
                wait_until(lambda: visitor.ask() and calls(client, "set") > 0, PATIENCE_S, "a charge there")
                wait_until(listeners, 2 * PATIENCE_S, "a listener there")

        async def work() -> None:
            async with named(old) as name:
                await asyncio.to_thread(story, name)

        asyncio.run(work())
