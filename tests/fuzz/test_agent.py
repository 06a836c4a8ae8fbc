"""A real node agent whose controller says anything: it obeys what it can, answers what it cannot, and lives."""

from __future__ import annotations

import asyncio
import time

from phalanx.v1 import agent_pb2

from tests.fixtures.node_agent_harness import JOB, Site, apply_generation, until, with_site
from tests.fuzz.generator import SECONDS, SEED, Generator, show

WORDS = {"": (f"{JOB}-1", f"{JOB}-2", JOB, "n1"), "host_id": (f"{JOB}-1",), "job_uid": (JOB,), "node": ("n1", "n2")}


def instruction(generator: Generator, number: int) -> agent_pb2.AgentInstruction:
    """Anything but an order to remove folders: that one is obeyed, and there are real folders on this machine."""
    message = generator.message(agent_pb2.AgentInstruction.DESCRIPTOR)
    assert isinstance(message, agent_pb2.AgentInstruction)
    if message.WhichOneof("body") == "effect":
        effect = message.effect
        if effect.WhichOneof("body") in (None, "sweep_folders") or generator.rng.random() < 0.3:
            effect.apply_generation.CopyFrom(apply_generation(number + 1, {0: f"{JOB}-1"}))
        effect.epoch = generator.rng.choice((0, 1, 1, 1))  # a higher one would make it refuse all that follows
        if generator.rng.random() < 0.9:
            effect.effect_id = f"e{number}"
    elif message.WhichOneof("body") == "welcome":
        message.welcome.epoch = 1
        message.welcome.beat_interval_ms %= 1_000  # it may dictate a minute, which this test does not wait for
    return message


@with_site
async def test_hostile_instructions(site: Site) -> None:
    show(f"PHALANX_FUZZ_SEED={SEED}")
    generator = Generator(SEED, WORDS)
    agent, session = await site.started()
    await site.host(session, f"{JOB}-1")
    end, sent = time.monotonic() + SECONDS / 2, 0
    while time.monotonic() < end or sent < 100:
        if session.ended:  # an instruction that cannot be read ends a session; the agent comes back
            session = await site.controller.session(len(site.controller.sessions))
        session.down.put_nowait(instruction(generator, sent))
        sent += 1
        await asyncio.sleep(0.002)
        assert agent.process.poll() is None, agent.events[-20:]
    last = site.controller.sessions[-1]
    last.send(welcome=site.controller.welcome)  # sane intervals again
    beats = len(last.beats)
    await until(lambda: len(site.controller.sessions[-1].beats) != beats, "it still beats")
    broken = [event for event in agent.events if "exception" in event or event.get("level") == "critical"]
    assert not broken, "\n".join(str(value) for value in broken[0].values())


__all__ = ["test_hostile_instructions"]
