"""Vendor table, sockets, checkpoint files, groups of one process."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from agents.rank.assignment import RestorePoint, ShardFile
from agents.rank.backends import BACKENDS, backend_for
from agents.rank.checkpoint_files import BadFile, describe_files, verify_files
from agents.rank.errors import WorkloadRefused
from agents.rank.sockets import listening_endpoints, shut_down_connections
from tests.fixtures.rank_threads import local_group, on_ranks


def test_vendor_table() -> None:
    assert backend_for("cpu").collectives == "gloo"
    assert backend_for("ascend").visible_devices == "ASCEND_RT_VISIBLE_DEVICES"
    assert len({row.vendor for row in BACKENDS}) == len(BACKENDS)
    assert {row.device_type for row in BACKENDS if row.runnable} == {"cpu"}
    with pytest.raises(WorkloadRefused, match="known: simulated, cpu"):
        backend_for("abacus")


def connected() -> tuple[socket.socket, socket.socket, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    return listener, client, server


def test_only_connections_of_the_named_endpoints_are_shut_and_no_listener() -> None:
    listener, client, server = connected()
    other_listener, other_client, other_server = connected()
    assert listener.getsockname() in listening_endpoints()
    assert shut_down_connections(frozenset({listener.getsockname()})) == 2
    client.settimeout(60)
    assert client.recv(1) == server.recv(1) == b""
    client.sendall(b"a send must not fail: gloo would forget its waiter")
    other_client.sendall(b"x")
    assert other_server.recv(1) == b"x"
    again = socket.create_connection(listener.getsockname())
    for item in (listener, client, server, other_listener, other_client, other_server, again):
        item.close()


def restore_point(folder: Path, files: list[ShardFile]) -> RestorePoint:
    return RestorePoint("c", 3, folder, tuple(files))


def test_files_are_described_and_verified(tmp_path: Path) -> None:
    (tmp_path / "dense" / "deep").mkdir(parents=True)
    (tmp_path / "dense" / "a.bin").write_bytes(b"abc")
    (tmp_path / "dense" / "deep" / "b.bin").write_bytes(b"")
    files = describe_files(tmp_path, "dense")
    assert [(file.path, file.bytes) for file in files] == [("dense/a.bin", 3), ("dense/deep/b.bin", 0)]
    assert files[0].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    verify_files(restore_point(tmp_path, files), ["dense"])


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    path = tmp_path / "p" / "a"
    path.write_bytes(b"abc")
    point = restore_point(tmp_path, describe_files(tmp_path, "p"))
    path.write_bytes(b"abd")
    with pytest.raises(BadFile, match="p/a: SHA-256 is"):
        verify_files(point, ["p"])
    path.write_bytes(b"ab")
    with pytest.raises(BadFile, match="has 2 bytes, the manifest says 3"):
        verify_files(point, ["p"])
    path.unlink()
    with pytest.raises(BadFile, match="cannot be read: No such file"):
        verify_files(point, ["p"])
    with pytest.raises(BadFile, match="names no file of this part"):
        verify_files(point, ["q"])


def test_collectives_of_a_group_of_one() -> None:
    group = local_group(dist.HashStore(), "world", [0], 0)
    tensor = torch.arange(4.0)
    group.all_reduce(tensor)
    group.broadcast(tensor)
    group.barrier()
    output = torch.zeros(4)
    group.all_to_all_single(output, tensor)
    assert output.tolist() == [0, 1, 2, 3]
    group.reduce_scatter(output, tensor * 2)
    assert output.tolist() == [0, 2, 4, 6]
    pending = group.all_gather(output, tensor, async_op=True)
    assert pending is not None
    pending.wait()
    assert output.tolist() == [0, 1, 2, 3]
    assert group.all_gather_bytes(b"") == [b""]
    assert group.all_gather_bytes(b"abc") == [b"abc"]
    assert group.settled()
    group.release()
    with pytest.raises(RuntimeError, match="generation that is over"):
        group.barrier()


def test_uneven_all_to_all_and_gathered_bytes_between_two() -> None:
    def work(rank: int, store: dist.Store) -> tuple[list[float], list[bytes]]:
        group = local_group(store, "ep", [0, 1], rank)
        send, receive = [[1, 2], [0, 1]][rank], [[1, 0], [2, 1]][rank]
        output = torch.zeros(sum(receive), 1)
        group.all_to_all_single(output, torch.arange(float(sum(send))).view(-1, 1) + 10 * rank, receive, send)
        return output.flatten().tolist(), group.all_gather_bytes(b"rank" * (rank + 1))

    first, second = on_ranks(2, work)
    assert first[0] == [0.0]
    assert second[0] == [1.0, 2.0, 10.0]
    assert first[1] == second[1] == [b"rank", b"rankrank"]
