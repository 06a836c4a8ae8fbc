"""Record what a release's agents send, once per release: `python -m tests.contract.wire.record TREE OUT.json`.

TREE is the release's source (`git archive v0.1.0 | tar -x -C TREE`). A real node agent of it talks to a server that keeps
raw bytes; the cell's messages are made by the release's own test peers, because a cell agent needs a Ray cluster.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
from phalanx.v1 import agent_pb2

from tests.fixtures.node_memory import forget_memory

LIMIT_S = 30.0
WANTED = ("hello", "beat", "report", "effect_result")
CELL = """
import base64, json
from phalanx.v1 import agent_pb2, cell_pb2
from tests.fixtures.controller_peers import FakeCell
class Agent: node = "node-1"
cell = FakeCell(None, [Agent])
actor = cell_pb2.CellActor(host_id="demo-1-1", node="node-1", state=3, reason="killed")
report = cell_pb2.CellReport(sequence=9, nodes=[cell_pb2.CellNode(node="node-1", alive=False)], actors=[actor])
messages = {
    "hello": cell._hello(),
    "beat": cell_pb2.CellMessage(beat=cell_pb2.CellBeat(sequence=1, loop_lag_s=0.25)),
    "report": cell_pb2.CellMessage(report=report),
    "effect_result": cell_pb2.CellMessage(effect_result=agent_pb2.EffectResult(effect_id="e1", ok=True)),
    "preflight_result": cell_pb2.CellMessage(preflight_result=cell_pb2.PreflightResult(preflight_id="p1")),
}
print(json.dumps({kind: base64.b64encode(m.SerializeToString()).decode() for kind, m in messages.items()}))
"""


class Recorder(grpc.GenericRpcHandler):
    """Serves AgentService/Session over raw bytes."""

    def __init__(self) -> None:
        self.raw: dict[str, bytes] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != "/phalanx.v1.AgentService/Session":
            return None
        return grpc.stream_stream_rpc_method_handler(self._session)

    def _session(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        down: queue.Queue[agent_pb2.AgentInstruction] = queue.Queue()
        welcome = agent_pb2.Welcome(epoch=1, beat_interval_ms=50, lease_ms=3_000, orphan_grace_ms=60_000)
        fault = agent_pb2.InjectFault(accelerator=1, code="ECC", message="recorded")
        down.put(agent_pb2.AgentInstruction(welcome=welcome))
        down.put(agent_pb2.AgentInstruction(effect=agent_pb2.AgentEffect(effect_id="e1", epoch=1, inject_fault=fault)))

        def read() -> None:
            for raw in requests:
                kind = agent_pb2.AgentMessage.FromString(raw).WhichOneof("body")
                self.raw.setdefault(str(kind), raw)

        futures.ThreadPoolExecutor(1).submit(read)
        while context.is_active():
            try:
                yield down.get(timeout=0.1).SerializeToString()
            except queue.Empty:
                continue


def record_agent(tree: Path, environment: dict[str, str]) -> dict[str, str]:
    """The first message of each kind that a node agent sends."""
    recorder = Recorder()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((recorder,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with tempfile.TemporaryDirectory(prefix="phx-") as folder:
        line = [sys.executable, "-m", "agents.node", "--controller", f"127.0.0.1:{port}", "--node", "node-1",
                "--dir", f"{folder}/node", "--socket", f"{folder}/s", "--label", "rack=r1",
                "--simulated-accelerators", "2"]  # fmt: skip
        agent = subprocess.Popen(line, cwd=tree, env=environment, stdout=subprocess.DEVNULL)
        until = time.monotonic() + LIMIT_S
        while set(WANTED) - recorder.raw.keys() and time.monotonic() < until:
            time.sleep(0.05)
        agent.terminate()
        agent.wait()
        forget_memory(Path(folder) / "node")
    server.stop(0)
    return {kind: base64.b64encode(recorder.raw[kind]).decode() for kind in WANTED}


def main(tree: Path, out: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree}/proto/gen/python"}
    cell = subprocess.run([sys.executable, "-c", CELL], cwd=tree, env=environment, capture_output=True, check=True)
    found = {"agent": record_agent(tree, environment), "cell": json.loads(cell.stdout)}
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
