"""What one refresh of `phalanx top` costs the terminal's side: `python -m tests.benchmarks.top --nodes 6250`.

Median and spread of 15 runs each: decoding a columnar listing, laying out the map, and one full update of the screen
(200 by 60, headless). Nothing is written.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from phalanx.v1 import fleet_pb2
from phalanx.v1 import types_pb2 as t

from cli.client import connect
from cli.top.app import TopApp
from cli.top.fleet import nodes_of
from cli.top.mapview import MapView
from cli.top.sitemap import Scope, draw_up, racks_of

RUNS = 15
NODES_PER_RACK = 16
RACKS_PER_SUPERPOD = 32


def listing(nodes: int) -> bytes:
    """A columnar answer as it comes over the wire; every hundredth node is SUSPECT."""
    racks = -(-nodes // NODES_PER_RACK)
    texts = ["", "moe", *(f"rack=r{n},superpod=s{n // RACKS_PER_SUPERPOD}" for n in range(racks))]
    numbers = range(nodes)
    columns = fleet_pb2.NodeColumns(
        names=[f"node-{n}" for n in numbers],
        service=[t.NODE_SERVICE_IN_SERVICE] * nodes,
        liveness=[t.NODE_LIVENESS_ALIVE if n % 100 else t.NODE_LIVENESS_SUSPECT for n in numbers],
        healthy=[8] * nodes,
        accelerators=[8] * nodes,
        last_beat_age_s=[0.4] * nodes,
        session_open=[True] * nodes,
        cell_member=[True] * nodes,
        labels=[2 + n // NODES_PER_RACK for n in numbers],
        jobs=[1] * nodes,
        cordons=[0] * nodes,
        versions=[0] * nodes,
        addresses=[0] * nodes,
        texts=texts,
    )
    return fleet_pb2.ListNodesResponse(columns=columns).SerializeToString()


def report(name: str, act: Callable[[], object]) -> None:
    """Prints the median of an act in milliseconds."""
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        act()
        times.append(1000 * (time.perf_counter() - begun))
    print(f"{name:<12} {statistics.median(times):7.1f} ms  ({min(times):.1f} to {max(times):.1f}, n {RUNS})")


async def screen(wire: bytes) -> None:
    """One update of the map on a headless screen, from new nodes to finished lines."""
    app = TopApp(lambda: connect("127.0.0.1:1", Path()))
    async with app.run_test(size=(200, 60)) as pilot:
        await pilot.pause()
        view = app.screen.query_one(MapView)
        racks = racks_of(nodes_of(fleet_pb2.ListNodesResponse.FromString(wire)))

        def update() -> None:
            view.show(racks)
            app.screen._compositor.render_strips()

        report("screen", update)


def main() -> None:
    """Runs all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=6250)
    wire = listing(parser.parse_args().nodes)
    report("decode", lambda: racks_of(nodes_of(fleet_pb2.ListNodesResponse.FromString(wire))))
    racks = racks_of(nodes_of(fleet_pb2.ListNodesResponse.FromString(wire)))
    report("map 80x24", lambda: draw_up(racks, Scope(), 77, 7))
    report("map 200x60", lambda: draw_up(racks, Scope(), 197, 29))
    asyncio.run(screen(wire))


if __name__ == "__main__":
    main()
