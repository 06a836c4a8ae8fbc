"""Thousands of node agents that only say hello: a real controller that knows a large site."""

from __future__ import annotations

import asyncio
import time

import grpc
from phalanx.v1 import agent_pb2, agent_pb2_grpc, fleet_pb2, fleet_pb2_grpc, types_pb2

RACK_NODES = 16
ACCELERATORS = 8
AT_ONCE = 64
"""Hellos on the way: the server accepts a bounded number of new streams at a time."""
CHANNELS = 8
TRIES = 5
"""A hello that waited too long for its turn is refused; an agent would dial again too."""
LIMIT_S = 300.0


def hello(number: int) -> agent_pb2.AgentMessage:
    """The first message of a node with eight devices, in a rack of sixteen."""
    name = f"node-{number:04d}"
    devices = [
        agent_pb2.AcceleratorStatus(
            index=index,
            serial=f"{name}-{index}",
            pci_address=f"0000:{index:02x}:00.0",
            vendor="simulated",
            model="sim-80",
            state=types_pb2.ACCELERATOR_STATE_HEALTHY,
        )
        for index in range(ACCELERATORS)
    ]
    rack = number // RACK_NODES
    return agent_pb2.AgentMessage(
        hello=agent_pb2.AgentHello(
            node=name,
            boot_id="1",
            agent_version="0.2.0",
            labels={"rack": f"r{rack:03d}", "switch": f"s{rack // 8:02d}", "power": f"p{rack // 32}"},
            address=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            snapshot=agent_pb2.Report(sequence=1, full=True, accelerators=devices),
        )
    )


def register(address: str, count: int) -> float:
    """Registers the nodes through the agents' protocol; returns the seconds it took."""
    begun = time.monotonic()
    asyncio.run(asyncio.wait_for(_register(address, count), LIMIT_S))
    return time.monotonic() - begun


async def _register(address: str, count: int) -> None:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            for left in reversed(range(TRIES)):
                call = agent_pb2_grpc.AgentServiceStub(channels[number % CHANNELS]).Session()
                try:
                    await call.write(hello(number))
                    await call.read()  # the welcome: the node is in the journal
                    break
                except (grpc.RpcError, asyncio.InvalidStateError):
                    if not left:
                        raise
                finally:
                    call.cancel()

    await asyncio.gather(*(one(number) for number in range(count)))
    fleet = fleet_pb2_grpc.FleetServiceStub(channels[0])
    known = (await fleet.GetSite(fleet_pb2.GetSiteRequest())).nodes
    if known != count:
        raise RuntimeError(f"{known} of {count} nodes are registered")
    for channel in channels:
        await channel.close()
