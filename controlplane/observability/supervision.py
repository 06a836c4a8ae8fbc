"""Telling systemd how this process is (sd_notify), where it was started with Type=notify."""

from __future__ import annotations

import os
import socket


def tell_supervisor(*facts: str) -> None:
    """Send facts such as `READY=1` or `STATUS=leads`; nothing happens without a supervisor that wants them."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        try:
            notify.connect(address)
            notify.sendall("\n".join(facts).encode())
        except OSError:
            return  # the supervisor's time-out will say so; the process itself is well
