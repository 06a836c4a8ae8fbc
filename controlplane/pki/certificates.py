"""What stands in a certificate, and how it is read back.

One URI names the identity (`spiffe://<site>/<kind>/<name>`, the form of SPIFFE IDs); role, series and what the identity
may speak for are JSON in a private extension. Nothing is taken from a signing request but its public key.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.core.identity import CONTROLLER, KINDS, NAME, NODE, RELAY, Role
from controlplane.core.units import NS_PER_S

CLAIMS_OID = x509.ObjectIdentifier("2.25.146853918270458321095817340526093477129")
"""Of our extension; below 2.25 a UUID is an identifier that needs no registration (ITU-T X.667)."""
SERVER_NAME = "controller.phalanx"
"""DNS name of every controller of every site; the authority tells sites apart."""
RELAY_NAME = "relay.phalanx"
"""DNS name of every relay: agents that dial one demand it, so that no relay can pass for a controller."""
CLOCK_SKEW = timedelta(minutes=5)
"""A certificate is valid from a little before it was made: clocks of nodes differ."""
MAX_PEM = 16 << 10
SITE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""Names of sites: SPIFFE trust domains are lower case."""

PublicKey = ec.EllipticCurvePublicKey
PrivateKey = ec.EllipticCurvePrivateKey


class BadCertificate(Exception):
    """Not a certificate or signing request that this site could have made or asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a certificate says. Times are Unix nanoseconds; `serial` is hex."""

    site: str
    kind: str
    name: str
    role: Role
    speaks_for: tuple[str, ...]
    series: int
    serial: str
    not_before_ns: int
    not_after_ns: int

    @property
    def uri(self) -> str:
        """The identity's URI."""
        return identity_uri(self.site, self.kind, self.name)

    @property
    def subject(self) -> str:
        """`<kind>/<name>`."""
        return f"{self.kind}/{self.name}"


def identity_uri(site: str, kind: str, name: str) -> str:
    """The URI of an identity."""
    return f"spiffe://{site}/{kind}/{name}"


@lru_cache(maxsize=8_192)
def read_certificate(pem: bytes) -> Claims:
    """The claims of a certificate whose chain TLS has checked already.

    Raises:
        BadCertificate: it does not look like one of ours.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        found = certificate.extensions.get_extension_for_oid(CLAIMS_OID).value
        body = json.loads(found.value) if isinstance(found, x509.UnrecognizedExtension) else {}
        site, kind, name = _split(uri)
        speaks_for = tuple(str(pattern) for pattern in body["speaks_for"])
        role, series = Role(body["role"]), int(body["series"])
    except (ValueError, KeyError, TypeError, x509.ExtensionNotFound) as error:
        raise BadCertificate(f"the certificate names no identity of a site: {error}") from error
    return Claims(
        site, kind, name, role, speaks_for, series, f"{certificate.serial_number:032x}",
        _ns(certificate.not_valid_before_utc), _ns(certificate.not_valid_after_utc),
    )  # fmt: skip


def _split(uri: str) -> tuple[str, str, str]:
    scheme, _, rest = uri.partition("://")
    site, _, path = rest.partition("/")
    kind, _, name = path.partition("/")
    if scheme != "spiffe" or not SITE.fullmatch(site) or kind not in (*KINDS, CONTROLLER) or not NAME.fullmatch(name):
        raise ValueError(f"{uri[:200]!r} is no identity")
    return site, kind, name


def _ns(moment: datetime) -> int:
    return round(moment.timestamp()) * NS_PER_S


def read_request(pem: bytes) -> PublicKey:
    """The public key of a signing request whose sender holds the private key.

    Raises:
        BadCertificate: it is no such request.
    """
    if len(pem) > MAX_PEM:
        raise BadCertificate(f"the signing request has {len(pem)} bytes, at most {MAX_PEM} are read")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        proven = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise BadCertificate("this is no signing request (PKCS#10, PEM)") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadCertificate("the signing request has another kind of key: make an elliptic one on P-256")
    if not proven:
        raise BadCertificate("the signing request is not signed with its own key")
    return key


def key_digest(key: PublicKey) -> str:
    """SHA-256 of a public key, hex."""
    body = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(body).hexdigest()


def new_key() -> PrivateKey:
    """A private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """A private key as PKCS#8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def sign_client(claims: Claims, key: PublicKey, authority: x509.Certificate, signer: PrivateKey) -> bytes:
    """A client certificate as PEM. A relay's also serves the agents behind it, under the relays' DNS name; a node's also serves
    other nodes, which know it by its URI. None carries a name that passes for a controller's."""
    body = {"role": int(claims.role), "series": claims.series, "speaks_for": list(claims.speaks_for)}
    extension = x509.UnrecognizedExtension(CLAIMS_OID, json.dumps(body, separators=(",", ":")).encode())
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    shown: list[x509.GeneralName] = [x509.UniformResourceIdentifier(claims.uri)]
    if claims.kind in {RELAY, NODE}:
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    if claims.kind == RELAY:
        shown.append(x509.DNSName(RELAY_NAME))
    builder = _leaf(claims, key, authority, *purposes).add_extension(x509.SubjectAlternativeName(shown), critical=True)
    builder = builder.add_extension(extension, critical=False)
    return pem(builder.sign(signer, hashes.SHA256()))


def sign_server(claims: Claims, key: PublicKey, authority: x509.Certificate, signer: PrivateKey) -> bytes:
    """A controller's certificate (serverAuth only, the DNS name that all clients demand) as PEM."""
    builder = _leaf(claims, key, authority, ExtendedKeyUsageOID.SERVER_AUTH)
    uri, name = x509.UniformResourceIdentifier(claims.uri), x509.DNSName(SERVER_NAME)
    builder = builder.add_extension(x509.SubjectAlternativeName([name, uri]), critical=True)
    return pem(builder.sign(signer, hashes.SHA256()))


def _leaf(
    claims: Claims, key: PublicKey, authority: x509.Certificate, *purposes: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.subject)
        .public_key(key)
        .serial_number(int(claims.serial, 16))
        .not_valid_before(_moment(claims.not_before_ns) - CLOCK_SKEW)
        .not_valid_after(_moment(claims.not_after_ns))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=True)
    )


def sign_authority(site: str, key: PrivateKey, serial: str, not_before_ns: int, not_after_ns: int) -> bytes:
    """The self-signed certificate of a site's authority as PEM."""
    public = key.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Phalanx site {site}")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(int(serial, 16))
        .not_valid_before(_moment(not_before_ns) - CLOCK_SKEW)
        .not_valid_after(_moment(not_after_ns))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{site}")]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return pem(builder.sign(key, hashes.SHA256()))


def _moment(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // NS_PER_S, UTC)
