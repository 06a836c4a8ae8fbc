"""`python -m agents.relay`."""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
"""Before grpc is loaded, as the controller does it and for the same reason: many streams, one thread that polls them."""

from agents.relay.command import main  # noqa: E402  # grpc reads the variable when it is loaded

if __name__ == "__main__":
    main()
