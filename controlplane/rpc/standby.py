"""A controller that stands by: it holds its ports and refuses calls, naming the leader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import grpc

from controlplane.core.draft import Refusal
from controlplane.rpc.errors import RequestRefused
from controlplane.rpc.guard import OURS, Handler

LEADER_KEY = "phalanx-leader"
"""Trailing metadata: where the leader serves."""


class Switchboard(grpc.GenericRpcHandler):
    """The methods of `phalanx.v1` on one server. Services may be added when the server runs already, which a server of
    grpc does not offer; `open` connects them. Until then every call is refused with NOT_LEADER.
    """

    def __init__(self, leader: Callable[[], str]) -> None:
        """`leader`: address of who leads, "" when that is not known."""
        self._leader = leader
        self._services: list[grpc.GenericRpcHandler] = []
        self._open = False

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Called by generated code, which takes this for a server."""
        self._services.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Called by generated code: the same methods once more, for servers that look them up by name."""

    def open(self) -> None:
        """This controller leads: calls reach their services from now on."""
        self._open = True

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """See grpc.GenericRpcHandler."""
        if self._open:
            found = (service.service(handler_call_details) for service in self._services)
            return next((handler for handler in found if handler is not None), None)
        if str(handler_call_details.method).startswith(OURS):
            return grpc.stream_stream_rpc_method_handler(cast("Any", self._refuse), request_deserializer=bytes)
        return None

    async def _refuse(self, _requests: Any, _context: Any) -> None:
        leader = self._leader()
        known = f"{leader} leads: call that one" if leader else "no leader is known yet: try again in a second"
        refusal = Refusal("unavailable", "NOT_LEADER", f"this controller stands by; {known}")
        raise RequestRefused(refusal, ((LEADER_KEY, leader),) if leader else ())
