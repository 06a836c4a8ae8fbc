"""The table of who may call what covers every method there is, and gives nobody more than the word of its role says."""

from __future__ import annotations

import importlib
import pkgutil
from itertools import product

import phalanx.v1
import pytest
from google.protobuf.descriptor import FileDescriptor

from controlplane.core.identity import CELL, NODE, OPERATOR, RELAY, Role
from controlplane.rpc.access import METHODS, check, check_name
from controlplane.rpc.caller import ANONYMOUS, LOCAL, Caller
from controlplane.rpc.errors import RequestRefused

MUTATING = ("Create", "Issue", "Revoke", "Reinstate", "Cordon", "Uncordon", "Drain", "Inject", "Submit", "Cancel", "Restart",
            "Pin", "Unpin", "Compact", "Upload", "Verify")  # fmt: skip
CALLERS = {
    "viewer": Caller("u", OPERATOR, "v", Role.VIEWER),
    "operator": Caller("u", OPERATOR, "o", Role.OPERATOR),
    "admin": Caller("u", OPERATOR, "a", Role.ADMIN),
    "node": Caller("u", NODE, "node-1", Role.NONE),
    "cell": Caller("u", CELL, "cell-1", Role.NONE),
    "relay": Caller("u", RELAY, "relay-1", Role.NONE),
    "anonymous": ANONYMOUS,
}


def methods() -> set[str]:
    """Every method of every service of the protocol."""
    found = set()
    for module in pkgutil.iter_modules(phalanx.v1.__path__):
        if module.name.endswith("_pb2"):
            file: FileDescriptor = importlib.import_module(f"phalanx.v1.{module.name}").DESCRIPTOR
            for service in file.services_by_name.values():
                found |= {f"{service.name}/{method.name}" for method in service.methods}
    return found


def allowed(who: str, method: str) -> bool:
    try:
        check(method, CALLERS[who])
    except RequestRefused:
        return False
    return True


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    assert set(METHODS) == methods()


def test_a_method_without_a_rule_is_refused_to_administrators_too() -> None:
    for caller in (*CALLERS.values(), LOCAL):
        with pytest.raises(RequestRefused):
            check("JobService/DeleteEverything", caller)


def test_roles_include_each_other() -> None:
    for method in METHODS:
        seen = [allowed(role, method) for role in ("viewer", "operator", "admin")]
        assert seen == sorted(seen), method


def test_viewers_change_nothing() -> None:
    changing = {method for method in METHODS if method.partition("/")[2].startswith(MUTATING)}
    assert len(changing) >= 16
    assert not [method for method in changing if allowed("viewer", method)]


def test_agents_reach_their_own_methods_only() -> None:
    reach = {who: {m for m in METHODS if allowed(who, m)} for who in ("node", "cell", "relay", "anonymous")}
    everybody = {"IdentityService/Join"}
    own = {"IdentityService/Renew", "IdentityService/WhoAmI", *everybody}
    assert reach["anonymous"] == everybody
    assert reach["relay"] == own | {"RelayService/Session", "AgentService/PushLog"}
    assert reach["node"] == own | {"AgentService/Session", "AgentService/PushLog"}
    assert reach["cell"] == own | {"CellService/Session"}


@pytest.mark.parametrize("who", ["viewer", "admin", "cell", "relay", "anonymous"])
def test_only_a_node_speaks_as_a_node(who: str) -> None:
    with pytest.raises(RequestRefused):
        check_name(CALLERS[who], NODE, CALLERS[who].name)


def test_a_node_speaks_as_itself_only() -> None:
    check_name(CALLERS["node"], NODE, "node-1")
    check_name(LOCAL, NODE, "node-7")
    for kind, name in product((NODE, CELL), ("node-2", "node-1 ", "NODE-1")):
        with pytest.raises(RequestRefused) as caught:
            check_name(CALLERS["node"], kind, name)
        assert caught.value.refusal.reason == "NOT_YOUR_NAME"
