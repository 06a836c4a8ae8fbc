"""An agent's identity on disk: modes, whole replacements, and a crash at any point of one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agents.node.dial import Dialer, is_loopback, split_addresses
from agents.node.identity import IdentityError, IdentityFolder, read_join_file
from controlplane.core.identity import Role
from controlplane.pki.authority import Authority, make_authority, new_serial
from controlplane.pki.certificates import Claims, read_certificate, read_request


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "pki", "site")


@pytest.fixture
def folder(tmp_path: Path) -> IdentityFolder:
    return IdentityFolder(tmp_path / "agent")


def certificate(authority: Authority, request: bytes) -> bytes:
    now_ns = time.time_ns()
    claims = Claims("site", "node", "n1", Role.NONE, (), 1, new_serial(), now_ns, now_ns + 60 * 10**9)
    return authority.issue(claims, read_request(request))


def test_a_certificate_belongs_to_the_key_that_was_made_here(authority: Authority, folder: IdentityFolder) -> None:
    assert folder.load() is None
    request = folder.signing_request()
    assert read_request(request) == read_request(folder.signing_request()), "one key until its certificate comes"
    found = folder.store(certificate(authority, request), authority.pem)
    assert found.uri == "spiffe://site/node/n1"
    assert read_certificate(found.certificate_pem).name == "n1"
    assert 0 < found.expires_s - time.time() <= 60
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.folder.iterdir()} == {
        "identity.key": 0o600, "identity.pem": 0o600, "ca.pem": 0o600,
    }  # fmt: skip
    assert read_request(folder.signing_request()) != read_request(request), "a renewal is for a new key"


def test_a_crash_at_any_point_of_a_renewal_leaves_a_pair_that_fits(
    authority: Authority, folder: IdentityFolder
) -> None:
    first = folder.store(certificate(authority, folder.signing_request()), authority.pem)
    request = folder.signing_request()
    assert folder.load() == first, "a key that waits for its certificate changes nothing"
    renewed = certificate(authority, request)
    (folder.folder / "identity.pem.next").write_bytes(renewed)
    (folder.folder / "identity.pem.next").chmod(0o600)
    new_key = (folder.folder / "identity.key.next").read_bytes()
    (folder.folder / "identity.key.next").replace(folder.folder / "identity.key")  # and then the power went
    found = IdentityFolder(folder.folder).load()
    assert found is not None
    assert (found.certificate_pem, found.key_pem) == (renewed, new_key)


def test_a_certificate_for_another_key_is_refused(authority: Authority, folder: IdentityFolder, tmp_path: Path) -> None:
    folder.signing_request()
    other = certificate(authority, IdentityFolder(tmp_path / "other").signing_request())
    with pytest.raises(IdentityError, match="is not the key of"):
        folder.store(other, authority.pem)


@pytest.mark.parametrize("name", ["identity.key", "identity.pem", "ca.pem"])
def test_what_others_can_read_is_refused(authority: Authority, folder: IdentityFolder, name: str) -> None:
    folder.store(certificate(authority, folder.signing_request()), authority.pem)
    (folder.folder / name).chmod(0o640)
    with pytest.raises(IdentityError, match=r"mode 0640: `chmod 600"):
        folder.load()
    (folder.folder / name).chmod(0o600)
    assert folder.load()


def test_a_join_file_is_a_secret_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "join.json"
    assert read_join_file(path) is None
    body = {"join_address": "a:1,b:2", "ca_pem": "PEM", "token": "s3cret", "kind": "node", "name": "n1"}
    path.write_text(json.dumps(body))
    path.chmod(0o644)
    with pytest.raises(IdentityError, match="mode 0644") as caught:
        read_join_file(path)
    path.chmod(0o600)
    found = read_join_file(path)
    assert found is not None
    assert (found.token, found.name) == ("s3cret", "n1")
    path.write_text('{"token": "s3cret"}')
    with pytest.raises(IdentityError, match="is no join file") as caught:
        read_join_file(path)
    assert "s3cret" not in str(caught.value)


def test_addresses_are_tried_in_turn() -> None:
    dialer = Dialer(split_addresses("a:1, b:2,c:3"), None)
    tried = [(dialer.address, dialer.refused()) for _ in range(6)]
    assert tried == [("a:1", False), ("b:2", False), ("c:3", True), ("a:1", False), ("b:2", False), ("c:3", True)]
    dialer.refused()
    dialer.welcomed()
    assert (dialer.address, dialer.refused()) == ("b:2", False), "the leader's address is kept"
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_addresses("a:1,b")
    assert [is_loopback(one) for one in ("127.0.0.1:1", "[::1]:1", "localhost:1", "10.0.0.1:1")] == [
        True,
        True,
        True,
        False,
    ]
