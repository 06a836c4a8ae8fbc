"""A site that comes back connects all at once: the controller outlives it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from tests.fixtures.controller_process import until
from tests.fixtures.secure_site import SecureController

CONNECTIONS = 600
AT_ONCE = 100


def test_handshakes_at_the_same_time(tmp_path: Path) -> None:
    controller = SecureController(tmp_path).start()
    try:
        shown = controller.shown("node", "node-1")
        (tmp_path / "ca.pem").write_bytes(shown.authority)
        (tmp_path / "node.pem").write_bytes(shown.certificate + shown.key)
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(tmp_path / "node.pem")
        host, port = controller.address.split(":")

        async def storm() -> int:
            room = asyncio.Semaphore(AT_ONCE)

            async def one() -> int:
                async with room:
                    _, writer = await asyncio.open_connection(
                        host, int(port), ssl=context, server_hostname="controller.phalanx"
                    )
                    agreed = writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
                    writer.transport.abort()
                    return int(agreed)

            return sum(await asyncio.gather(*(one() for _ in range(CONNECTIONS))))

        assert asyncio.run(storm()) == CONNECTIONS
        until(controller.serving, "the controller still serves")
    finally:
        controller.close()
