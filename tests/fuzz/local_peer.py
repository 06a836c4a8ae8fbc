"""A session leader that registers at a node agent as host and as rank, and then says anything (see test_local_sockets).

`python -m tests.fuzz.local_peer SOCKET NODE_DIR HOST_ID SEED`
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
import sys
from pathlib import Path

from phalanx.v1 import local_pb2

from tests.fuzz.generator import Generator

FRAMES = 150


def main() -> int:
    path, folder, host_id, seed = sys.argv[1:]
    key = (Path(folder) / "host.key").read_bytes()
    proof = hmac.new(key, host_id.encode(), hashlib.sha256).hexdigest()
    uid = host_id.rpartition("-")[0]
    pid = os.getpid()
    generator = Generator(int(seed), {"": (host_id, uid, "n1"), "host_id": (host_id,), "job_uid": (uid,)})
    host = local_pb2.HostRegister(host_id=host_id, job_uid=uid, job_name="fuzz", host_pid=pid, pid=pid, proof=proof)
    rank = local_pb2.RankRegister(host_id=host_id, pid=pid, proof=proof)
    held = [
        opened(path, local_pb2.LocalRequest(host_register=host)),
        opened(path, local_pb2.LocalRequest(rank_register=rank)),
    ]
    for _ in range(FRAMES):
        connection = generator.rng.choice(held)
        message = generator.message(local_pb2.LocalRequest.DESCRIPTOR)
        data = message.SerializeToString()
        if generator.rng.random() < 0.02:
            data = generator.damaged(data)
        try:
            send(connection, data)
            connection.recv(4_000)
        except TimeoutError:
            continue
        except OSError:
            return 0
    return 0


def opened(path: str, first: local_pb2.LocalRequest) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(path)
    send(connection, first.SerializeToString())
    answer = connection.recv(4_000)
    assert local_pb2.LocalInstruction.FromString(answer[4:]).WhichOneof("body") == "registered", answer
    connection.settimeout(0.002)
    return connection


def send(connection: socket.socket, body: bytes) -> None:
    connection.sendall(struct.pack(">I", len(body)) + body)


if __name__ == "__main__":
    sys.exit(main())
