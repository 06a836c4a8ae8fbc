"""What a loop with long rounds hears of grpc: asyncio's own loop, and the edge's.

`python -m tests.benchmarks.wakeups`: 40 streams of one client send 300 messages each to a server whose loop does 30 ms of other
work in every round, as when a generation is told to thousands of agents. About four minutes, nearly all of them the first loop's.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from typing import Any

import grpc
from grpc import aio

from controlplane.rpc.wakeups import EdgeLoop
from tests.benchmarks.report import Figure, commit, machine, write

STREAMS, MESSAGES, ROUND_S = 40, 300, 0.03
CLIENT = """
import sys, time, grpc
def said():
    for _ in range(int(sys.argv[3])):
        yield b"x"
        time.sleep(0.005)
channels = [grpc.insecure_channel(sys.argv[1], options=[("phalanx.stream", number)]) for number in range(int(sys.argv[2]))]
for call in [channel.stream_unary("/bench/heard").future(said()) for channel in channels]:
    if call.exception():  # its messages are missing in what was heard
        print(call.exception().details(), file=sys.stderr)
"""


class Heard(grpc.GenericRpcHandler):
    """Counts messages."""

    def __init__(self) -> None:
        self.count = 0

    def service(self, handler_call_details: Any) -> Any:
        """Every method is a stream that is heard to its end."""

        async def hear(messages: Any, context: Any) -> bytes:
            async for _ in messages:
                self.count += 1
            return b""

        return grpc.stream_unary_rpc_method_handler(hear)


async def measure(messages: int) -> tuple[float, int, int]:
    """(seconds until everything was heard, rounds of the loop, messages)."""
    heard, server = Heard(), aio.server()
    server.add_generic_rpc_handlers((heard,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    began, rounds = time.monotonic(), 0
    line = [sys.executable, "-c", CLIENT, f"127.0.0.1:{port}", str(STREAMS), str(messages)]
    with subprocess.Popen(line) as client:
        while client.poll() is None:
            time.sleep(ROUND_S)  # the work of a round
            rounds += 1
            await asyncio.sleep(0)
    await server.stop(None)
    return time.monotonic() - began, rounds, heard.count


def main() -> None:
    """Both loops, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=MESSAGES, help=f"of each stream (default: {MESSAGES})")
    options = parser.parse_args()
    print(f"machine {machine()}; commit {commit()}")
    figures = []
    for name, loop in (("asyncio", asyncio.SelectorEventLoop), ("edge", EdgeLoop)):
        with asyncio.Runner(loop_factory=loop) as runner:
            took_s, rounds, count = runner.run(measure(options.messages))
        print(
            f"{name:<8} {count:,} messages in {took_s:.1f} s, {rounds:,} rounds, {count / rounds:.1f} a round",
            flush=True,
        )
        figures += [
            Figure(f"wakeups_{name}_s", round(took_s, 1), "s", count),
            Figure(f"wakeups_{name}_a_round", round(count / rounds, 1), "messages", rounds),
        ]
    write("wakeups", figures, seed=0, simulated=("nothing",))


if __name__ == "__main__":
    main()
