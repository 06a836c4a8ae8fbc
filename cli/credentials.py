"""Who the CLI speaks as: a folder with a key that was made here, its certificate, and the site's authority.

Found by --identity, PHALANX_IDENTITY, the context's identity, or `pki/admin` of the site's folder, in this order.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import CliError, Exit

if TYPE_CHECKING:
    from datetime import datetime

    import grpc

IDENTITY_VARIABLE = "PHALANX_IDENTITY"
PLAINTEXT_VARIABLE = "PHALANX_PLAINTEXT"
KEY, CERTIFICATE, AUTHORITY = "identity.key", "identity.pem", "ca.pem"
SERVER_NAME = "controller.phalanx"
"""The name that every controller's certificate carries, wherever it runs."""
HOW = "an administrator makes one: `phalanx identity issue NAME --role ROLE --output FOLDER`"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key and a certificate as text."""

    folder: Path
    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes

    def channel(self) -> grpc.ChannelCredentials:
        """For a channel to a controller."""
        import grpc  # noqa: PLC0415

        return grpc.ssl_channel_credentials(self.authority_pem, self.key_pem, self.certificate_pem)

    def expired(self) -> bool:
        """Whether the certificate has ended, by this machine's clock."""
        from datetime import UTC, datetime  # noqa: PLC0415

        return self.expires_at() <= datetime.now(UTC)

    def expires_at(self) -> datetime:
        """When the certificate ends."""
        from cryptography import x509  # noqa: PLC0415 - only where something went wrong

        return x509.load_pem_x509_certificate(self.certificate_pem).not_valid_after_utc


def find_folder(chosen: Path | None, fallbacks: tuple[Path | None, ...]) -> Path:
    """The folder of the identity to use: the chosen one, the environment's, or the first of the others that is there.

    Raises:
        CliError: there is none.
    """
    named = chosen or (Path(os.environ[IDENTITY_VARIABLE]) if os.environ.get(IDENTITY_VARIABLE) else None)
    if named is not None:
        return named.expanduser()
    for folder in fallbacks:
        if folder is not None and (folder / CERTIFICATE).exists():
            return folder
    raise CliError(
        "you have no identity for this site",
        why=f"neither --identity nor {IDENTITY_VARIABLE} names a folder with {KEY}, {CERTIFICATE} and {AUTHORITY}",
        fix=f"{HOW}; for a plaintext site on this machine add --plaintext",
        code=Exit.NOT_ALLOWED,
    )


def load(folder: Path) -> Credentials:
    """The identity of a folder.

    Raises:
        CliError: a file is missing, or others can read the key.
    """
    try:
        mode = stat.S_IMODE((folder / KEY).stat().st_mode)
        parts = [(folder / name).read_bytes() for name in (KEY, CERTIFICATE, AUTHORITY)]
    except OSError as error:
        raise CliError(
            f"cannot read the identity in {folder}",
            why=f"{error.filename}: {error.strerror}",
            fix=HOW,
            code=Exit.NOT_ALLOWED,
        ) from None
    if mode & 0o077:
        raise CliError(
            f"{folder / KEY} can be read by others",
            why=f"its mode is {mode:04o}",
            fix=f"`chmod 600 {folder / KEY}`, and get a new certificate if anybody has read it",
            code=Exit.NOT_ALLOWED,
        )
    return Credentials(folder, *parts)


def make_request(folder: Path) -> bytes:
    """Make a key in a folder of its own and return a signing request for it; the key never leaves the folder.

    Raises:
        CliError: there is a key already, or the folder cannot be made.
    """
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    if (folder / KEY).exists():
        raise CliError(f"there is a key in {folder} already", fix="name a new folder", code=Exit.CONFLICT)
    key = ec.generate_private_key(ec.SECP256R1())
    body = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(folder / KEY, body)
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "phalanx operator")]
    )  # the authority reads the key only
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 whole, in a folder of mode 0700 when it must be made.

    Raises:
        CliError: it cannot be written.
    """
    fresh = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise CliError(f"cannot write {path}", why=error.strerror or str(error), fix="choose another place") from error


def plaintext_asked() -> bool:
    """Whether the environment asks for plaintext."""
    return os.environ.get(PLAINTEXT_VARIABLE, "") not in ("", "0")


def check_loopback(addresses: tuple[str, ...]) -> None:
    """Plaintext stays on this machine.

    Raises:
        CliError: an address does not.
    """
    for address in addresses:
        if address.rpartition(":")[0].strip("[]") not in ("127.0.0.1", "::1", "localhost"):
            fix = "leave --plaintext out and use an identity"
            raise CliError(f"plaintext is for loopback only, {address} is not", fix=fix, code=Exit.USAGE)
