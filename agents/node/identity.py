"""An agent's identity on disk: its key, which is made here and never leaves, its certificate, and the site's authority.

    identity.key   identity.pem   ca.pem          all 0600 in a 0700 folder
    identity.key.next  identity.pem.next          a replacement that is being made

A replacement is complete when `identity.pem.next` is there: whoever loads the folder then puts both in place, so that a crash
at any point leaves a key and a certificate that belong together.
"""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agents.node.durable import replace_file

SERVER_NAME = "controller.phalanx"
"""The name that every controller's certificate carries, wherever it runs."""
KEY, CERTIFICATE, AUTHORITY = "identity.key", "identity.pem", "ca.pem"


class IdentityError(Exception):
    """The agent has no usable identity; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a connection is made with. Times are Unix seconds; `obtained_s` is when the certificate was stored."""

    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes
    uri: str
    obtained_s: float
    expires_s: float


@dataclass(frozen=True, slots=True)
class JoinFile:
    """A join token and where to use it, as `phalanx token create` writes it."""

    join_address: str
    authority_pem: bytes
    token: str
    kind: str
    name: str


def read_join_file(path: Path) -> JoinFile | None:
    """The join file, None when there is none.

    Raises:
        IdentityError: others can read it, or it is no join file.
    """
    data = _read_private(path)
    if data is None:
        return None
    try:
        body = json.loads(data)
        return JoinFile(body["join_address"], body["ca_pem"].encode(), body["token"], body["kind"], body["name"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{path} is no join file ({type(error).__name__}): make one with `phalanx token create`"
        raise IdentityError(text) from None  # the file holds a secret: nothing of it may reach a log


class IdentityFolder:
    """The folder of one agent's identity."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> Credentials | None:
        """What is there; None when there is no identity yet. May have expired.

        Raises:
            IdentityError: others can read it, or its parts do not belong together.
        """
        self._finish_replacement()
        parts = [_read_private(self.folder / name) for name in (KEY, CERTIFICATE, AUTHORITY)]
        if parts[0] is None and parts[1] is None:
            return None
        if any(part is None for part in parts):
            raise IdentityError(
                f"{self.folder} lacks one of {KEY}, {CERTIFICATE}, {AUTHORITY}: remove the others, join again"
            )
        key_pem, certificate_pem, authority_pem = (part or b"" for part in parts)
        try:
            key = serialization.load_pem_private_key(key_pem, None)
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        except (ValueError, TypeError, x509.ExtensionNotFound) as error:
            raise IdentityError(f"the identity in {self.folder} cannot be read: remove it and join again") from error
        if certificate.public_key() != key.public_key():
            raise IdentityError(f"{KEY} in {self.folder} is not the key of {CERTIFICATE}: remove both and join again")
        obtained_s = min((self.folder / CERTIFICATE).stat().st_mtime, time.time())
        expires_s = certificate.not_valid_after_utc.timestamp()
        return Credentials(key_pem, certificate_pem, authority_pem, uri, obtained_s, expires_s)

    def signing_request(self) -> bytes:
        """A request for a certificate on a new key. The key is kept until its certificate comes, also over a crash."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._next(KEY)
        data = _read_private(path)
        key = serialization.load_pem_private_key(data, None) if data else None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            key = ec.generate_private_key(ec.SECP256R1())
            body = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            replace_file(path, body, sync=True)
        subject = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, "phalanx agent")]
        )  # the authority reads the key only
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM)

    def store(self, certificate_pem: bytes, authority_pem: bytes) -> Credentials:
        """Put the certificate for the last signing request, and its key, in place.

        Raises:
            IdentityError: it is not for that key.
        """
        replace_file(self.folder / AUTHORITY, authority_pem, sync=True)
        replace_file(self._next(CERTIFICATE), certificate_pem, sync=True)
        found = self.load()
        if found is None:
            raise IdentityError(f"{self.folder} lost the identity that was just stored")
        return found

    def _finish_replacement(self) -> None:
        if not self._next(CERTIFICATE).exists():
            return
        if self._next(KEY).exists():
            self._next(KEY).replace(self.folder / KEY)
        self._next(CERTIFICATE).replace(self.folder / CERTIFICATE)

    def _next(self, name: str) -> Path:
        return self.folder / f"{name}.next"


def _read_private(path: Path) -> bytes | None:
    """The content of a secret file, None when there is none; refuses what others can read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            text = f"{path} is a secret and has mode {mode:04o}: `chmod 600 {path}`, and replace it if others read it"
            raise IdentityError(text)
        return file.read()


def when(unix_s: float) -> str:
    """A time for people."""
    return datetime.fromtimestamp(unix_s).astimezone().isoformat(timespec="seconds")
