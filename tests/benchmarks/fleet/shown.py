"""Somebody who asks the controller again and again how it is, as `phalanx get site` does, and follows its events."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import grpc
from phalanx.v1 import fleet_pb2, fleet_pb2_grpc

from tests.benchmarks.fleet.watch import Seen
from tests.fixtures.controller_process import Controller

LOOK_S = 0.05
"""From an answer to the next question."""
ANSWER_S = 30.0
"""As long as the command line waits: a controller that stood still answers when it has read what came meanwhile."""


class Onlooker:
    """Keeps the moments at which an answer called the detector degraded, or named what makes it see late."""

    def __init__(self, controller: Controller) -> None:
        self._fleet = fleet_pb2_grpc.FleetServiceStub(controller.new_channel())
        self._over = threading.Event()
        self._told = threading.Condition()
        self._shown: list[float] = []
        self._calm = False
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            try:
                site = self._fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=ANSWER_S)
            except grpc.RpcError:
                continue
            with self._told:
                self._calm = not (site.detector_degraded or site.detector_reasons)
                if not self._calm:
                    self._shown.append(time.time())
                self._told.notify_all()

    def until_calm(self, limit_s: float) -> None:
        """Wait until an answer says that all is well.

        Raises:
            TimeoutError: none did.
        """
        with self._told:
            if not self._told.wait_for(lambda: self._calm, limit_s):
                raise TimeoutError(f"the controller did not say within {limit_s:g} s that it sees well")

    def shown_ms(self, began: float, blind_s: float, events: Iterable[Seen]) -> float | None:
        """From the beginning (Unix seconds) of a disturbance to the first answer, or the first of these events, that told of it;
        None: there was none. What could only be said after the controller had stood still for `blind_s` counts from there."""
        with self._told:
            told = [*self._shown, *(event.at for event in events if event.type == "DetectorDegraded")]
        first = min((at for at in told if at >= began), default=None)
        if first is None:
            return None
        return 1_000 * (first - began - (blind_s if first > began + blind_s else 0.0))

    def close(self) -> None:
        """Ask no more."""
        self._over.set()
        self._thread.join(ANSWER_S)
