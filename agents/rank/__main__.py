"""The rank process: `python -m agents.rank`, started by a rank host with the environment of 0003-processes.md."""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys
import threading
import traceback
from types import FrameType, ModuleType

from agents.rank.context import RankContext
from agents.rank.errors import (
    EXIT_DISAGREED_ONCE,
    EXIT_REPLICA_DIVERGENCE,
    EXIT_TERMINATED,
    EXIT_WORKLOAD_ERROR,
    ReplicaDivergence,
    WorkloadRefused,
)
from agents.rank.exhausted import out_of_memory, verdict
from agents.rank.link import note
from agents.rank.settings import RankSettings, settings_from

STOP_DEADLINE_S = 5.0
"""After SIGTERM the process has ended by then, whatever its threads do; below the default stop time-out of a job."""


def main() -> int:
    """Run the workload of the environment; returns the exit code."""
    faulthandler.enable()
    try:
        settings = settings_from(os.environ)
    except WorkloadRefused as error:
        note(str(error))
        return EXIT_WORKLOAD_ERROR
    context = RankContext(settings)
    _obey_sigterm(context)
    try:
        context.connect()
        workload = _load(settings)
        _warm_up(workload, context)
        context.park()
        _work(workload, context)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_WORKLOAD_ERROR
    except ReplicaDivergence as wrong:
        traceback.print_exc()
        return EXIT_REPLICA_DIVERGENCE if wrong.persistent else EXIT_DISAGREED_ONCE
    except WorkloadRefused as error:
        note(str(error))
        return EXIT_WORKLOAD_ERROR
    except Exception as error:  # noqa: BLE001  the edge of the process: whatever the workload raises becomes log and exit code
        traceback.print_exc()
        if not out_of_memory(error):
            return EXIT_WORKLOAD_ERROR
        code, words = verdict(context.load)
        note(words)
        return code
    finally:
        context.close()
    if not context.finished:
        note("main() returned without context.finish(): the job is not done, this counts as a failure")
        return EXIT_WORKLOAD_ERROR
    return 0


def _work(workload: ModuleType, context: RankContext) -> None:
    """Call `main`, again where it let an exception out that only says that a generation is over."""
    while True:
        try:
            workload.main(context)
        except Exception as error:  # the edge of the workload: only what the library itself caused is handled here
            if not context.superseded(error):
                raise
            note(f"main() left by {type(error).__name__} at the end of a generation, calling it again")
            context.close()
        else:
            return


def _load(settings: RankSettings) -> ModuleType:
    if settings.path:
        sys.path.insert(0, settings.path)
    module = importlib.import_module(settings.module)
    if not callable(getattr(module, "main", None)):
        raise WorkloadRefused(f"workload module {settings.module} ({module.__file__}) has no main(context)")
    return module


def _warm_up(workload: ModuleType, context: RankContext) -> None:
    """Pay first-use costs before PARKED: torch and gloo when the workload uses them, then its own `prepare`."""
    if "torch" in sys.modules:
        from agents.rank.rendezvous import warm_up  # noqa: PLC0415  only for workloads that use torch

        warm_up()
    prepare = getattr(workload, "prepare", None)
    if prepare is not None:
        prepare(context)


def _obey_sigterm(context: RankContext) -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        context.request_stop()
        watchdog = threading.Timer(STOP_DEADLINE_S, os._exit, (EXIT_TERMINATED,))
        watchdog.daemon = True
        watchdog.start()
        raise SystemExit(EXIT_TERMINATED)

    signal.signal(signal.SIGTERM, stop)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not through interpreter shutdown: backend threads and a save in flight must not delay the exit
