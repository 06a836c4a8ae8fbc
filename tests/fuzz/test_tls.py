"""Both TLS ports of a controller under bytes that are no handshake, broken handshakes, and strangers without a certificate."""

from __future__ import annotations

import random
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

from tests.fixtures.controller_process import Controller
from tests.fixtures.ports import free_port
from tests.fuzz.generator import SECONDS, SEED, show
from tests.fuzz.target import BROKEN

HELLO = bytes.fromhex("160301 0200 0100 01fc 0303".replace(" ", ""))


def test_strangers_at_the_tls_ports(tmp_path: Path) -> None:
    show(f"PHALANX_FUZZ_SEED={SEED}")
    rng = random.Random(SEED)
    pki = tmp_path / "pki"
    subprocess.run(
        [sys.executable, "-m", "controlplane.pki", "init", "--dir", str(pki), "--site", "fuzz"], check=True, timeout=200
    )
    controller = Controller(tmp_path)
    join = f"127.0.0.1:{free_port()}"
    controller.security = ["--pki", str(pki), "--join", join]
    controller.launch()
    try:
        controller.until_logged("controller_started")
        end = time.monotonic() + SECONDS / 2
        while time.monotonic() < end:
            stranger(rng, rng.choice((controller.address, join)))
        assert controller.process is not None
        assert controller.process.poll() is None
        for address in (controller.address, join):
            assert handshake(address), f"{address} shows its certificate to the next one"
        broken = [line for line in controller.log.read_text(errors="replace").splitlines() if BROKEN.search(line)]
        assert not broken, broken[0][:4_000]
    finally:
        controller.close()


def stranger(rng: random.Random, address: str) -> None:
    host, _, port = address.rpartition(":")
    data = rng.choice((b"", HELLO, b"GET / HTTP/1.1\r\n\r\n")) + rng.randbytes(rng.choice((0, 5, 600, 20_000)))
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        try:
            connection.settimeout(0.05)
            connection.sendall(data)
            connection.recv(1_000)
        except OSError:
            return


def handshake(address: str) -> bool:
    """Whether a client gets as far as the server's certificate."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="controller.phalanx") as wrapped,
    ):
        return bool(wrapped.getpeercert(binary_form=True))
