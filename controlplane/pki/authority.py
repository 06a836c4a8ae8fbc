"""The certificate authority of a site: made once, read by controllers, signs what the journal has recorded."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.core.identity import CONTROLLER, OPERATOR, Role
from controlplane.core.units import NS_PER_S
from controlplane.pki import certificates as certs
from controlplane.pki.folder import UnsafeFile, make_private_folder, read_private, write_private

DAY_NS = 86_400 * NS_PER_S
AUTHORITY_LIFE_NS = 3_650 * DAY_NS
"""Ten years: there is no way to change it under a running site yet (docs/security.md says how it is changed)."""
OUTSIDE_SERIES = 1
"""Series of certificates made without a controller. One that was revoked since is refused for its lower number."""
KEY_FILE, CERTIFICATE_FILE = "ca.key", "ca.pem"
IDENTITY_KEY, IDENTITY_CERTIFICATE, IDENTITY_AUTHORITY = "identity.key", "identity.pem", "ca.pem"
"""Files of a folder that holds an identity."""


class AuthorityError(Exception):
    """The authority cannot be made or used; the message says what to do."""


def new_serial() -> str:
    """A serial number for a certificate: 126 random bits, hex."""
    return f"{secrets.randbits(126) | 1:032x}"


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A controller's key and certificate, in memory only."""

    key_pem: bytes
    certificate_pem: bytes


class Authority:
    """The key that makes certificates of a site."""

    def __init__(self, key: certs.PrivateKey, certificate: x509.Certificate, site: str) -> None:
        self._key = key
        self._certificate = certificate
        self.site = site
        self.pem = certs.pem(certificate)
        self._secret = hashlib.sha256(b"phalanx requests " + certs.key_pem(key)).digest()

    @property
    def expires_s(self) -> float:
        """When the authority's own certificate ends, Unix seconds."""
        return self._certificate.not_valid_after_utc.timestamp()

    def issue(self, claims: certs.Claims, key: certs.PublicKey) -> bytes:
        """A client certificate with these claims, PEM."""
        return certs.sign_client(claims, key, self._certificate, self._key)

    def token(self, request: str) -> str:
        """The join token of a request: the same for a repeat, so that a lost answer can be asked for again."""
        return base64.urlsafe_b64encode(self._derive("token", request)).decode().rstrip("=")

    def serial(self, request: str) -> str:
        """The serial number for the certificate of a request: the same for a repeat. 126 bits, hex."""
        return f"{int.from_bytes(self._derive('serial', request)[:16], 'big') >> 2 | 1:032x}"

    def _derive(self, purpose: str, request: str) -> bytes:
        text = f"{purpose} {request}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).digest()

    def serve_as(self, name: str) -> ServerCertificate:
        """A fresh key and certificate for one life of a controller; it ends with the authority.

        A shorter life would have to be renewed under a running server, which grpc cannot do safely: handshakes under way
        then use freed memory (grpc issue 36693). It would not protect either: the authority's own key lies on the same machine.
        """
        key, now_ns = certs.new_key(), time.time_ns()
        not_after_ns = round(self.expires_s * NS_PER_S)
        claims = certs.Claims(
            self.site, CONTROLLER, name, Role.NONE, (), OUTSIDE_SERIES, new_serial(), now_ns, not_after_ns
        )
        return ServerCertificate(
            certs.key_pem(key), certs.sign_server(claims, key.public_key(), self._certificate, self._key)
        )


def load_authority(folder: Path) -> Authority:
    """The authority of a folder.

    Raises:
        AuthorityError: there is none, or others can read its key.
    """
    try:
        key = serialization.load_pem_private_key(read_private(folder / KEY_FILE), None)
        certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except UnsafeFile as error:
        text = f"{error}; `python -m controlplane.pki init --dir {folder} --site NAME` makes an authority where there is none"
        raise AuthorityError(text) from error
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        raise AuthorityError(f"the authority in {folder} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise AuthorityError(f"{folder / KEY_FILE} is not the key of {folder / CERTIFICATE_FILE}")
    return Authority(key, certificate, uri.removeprefix("spiffe://"))


def make_authority(folder: Path, site: str) -> Authority:
    """A new authority in a folder that has none.

    Raises:
        AuthorityError: the name is no site's, or there is an authority already.
        UnsafeFile: others can enter the folder.
    """
    if not certs.SITE.fullmatch(site):
        raise AuthorityError(f"{site!r} is no name of a site: use lower-case letters, digits, `.`, `_` and `-`")
    make_private_folder(folder)
    if (folder / KEY_FILE).exists():
        raise AuthorityError(f"there is an authority in {folder} already: a second one would shut out every agent")
    key, now_ns = certs.new_key(), time.time_ns()
    pem = certs.sign_authority(site, key, new_serial(), now_ns, now_ns + AUTHORITY_LIFE_NS)
    write_private(folder / CERTIFICATE_FILE, pem)
    write_private(folder / KEY_FILE, certs.key_pem(key))  # last: with it, the authority is complete
    return load_authority(folder)


def make_operator(authority: Authority, folder: Path, name: str, life_ns: int, *, series: int) -> certs.Claims:
    """An administrator's key and certificate, made without a controller: the first one, or one after all are lost.

    Raises:
        UnsafeFile: others can enter the folder.
    """
    make_private_folder(folder)
    key, now_ns = certs.new_key(), time.time_ns()
    claims = certs.Claims(
        authority.site, OPERATOR, name, Role.ADMIN, (), series, new_serial(), now_ns, now_ns + life_ns
    )
    (folder / IDENTITY_CERTIFICATE).unlink(missing_ok=True)  # a crash in between leaves no pair that does not match
    write_private(folder / IDENTITY_KEY, certs.key_pem(key))
    write_private(folder / IDENTITY_AUTHORITY, authority.pem)
    write_private(folder / IDENTITY_CERTIFICATE, authority.issue(claims, key.public_key()))
    return claims
