"""`python -m controlplane`: the controller of a site."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
"""Before grpc is loaded: sockets are polled by the completion queue's own thread, and not by a pool of threads that hand each read
to each other. At 6,250 streams that is a sixth of the processor time, and a fifth of the switches between threads."""

from controlplane.bootstrap import main  # noqa: E402  # grpc reads the variable when it is loaded

if __name__ == "__main__":
    sys.exit(main())
