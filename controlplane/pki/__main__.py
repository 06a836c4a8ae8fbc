"""`python -m controlplane.pki`: makes a site's authority, and administrators when there is no controller to ask."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from controlplane.core.identity import NAME, OPERATOR
from controlplane.pki import authority as ca
from controlplane.pki.certificates import BadCertificate, read_certificate
from controlplane.pki.folder import UnsafeFile

ADMIN_DAYS = 30
EXIT_FAILED = 1


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m controlplane.pki",
        description="The certificate authority of a site. Needs no controller; whoever can read ca.key is the site.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="make an authority (once per site)")
    prepare = commands.add_parser("prepare", help="make what is missing: an authority, an administrator's identity")
    admin = commands.add_parser("admin", help="make an administrator's identity, also when all others are lost")
    for one in (init, prepare, admin):
        one.add_argument("--dir", type=Path, required=True, help="folder of the authority (0700)")
    for one in (init, prepare):
        one.add_argument("--site", required=True, help="name of the site, lower case; it is part of every identity")
    for one in (prepare, admin):
        one.add_argument("--name", default="admin", help="name of the operator (default: %(default)s)")
        one.add_argument("--out", type=Path, required=True, help="folder for identity.key, identity.pem and ca.pem")
        one.add_argument("--days", type=int, default=ADMIN_DAYS, help="life of the certificate (default: %(default)s)")
        one.add_argument(
            "--series",
            type=int,
            default=ca.OUTSIDE_SERIES,
            help="one more for every revocation of the name (default: 1)",
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one thing; 0 when it is done."""
    parsed = build_parser().parse_args(arguments)
    try:
        if parsed.command == "init":
            authority = ca.make_authority(parsed.dir, parsed.site)
            sys.stdout.write(f"authority of site {authority.site} in {parsed.dir}\n")
            return 0
        _check(parsed)
        if parsed.command == "prepare" and not (parsed.dir / ca.KEY_FILE).exists():
            ca.make_authority(parsed.dir, parsed.site)
        authority = ca.load_authority(parsed.dir)
        if parsed.command == "admin" or not _is_good(parsed.out, authority, parsed.name):
            life_ns = parsed.days * ca.DAY_NS
            claims = ca.make_operator(authority, parsed.out, parsed.name, life_ns, series=parsed.series)
            sys.stdout.write(f"{claims.uri} in {parsed.out}\n")
    except (ca.AuthorityError, UnsafeFile, OSError) as error:
        sys.stderr.write(f"controlplane.pki: {error}\n")
        return EXIT_FAILED
    return 0


def _check(parsed: argparse.Namespace) -> None:
    if not NAME.fullmatch(parsed.name) or parsed.days < 1 or parsed.series < 1:
        raise ca.AuthorityError("--name wants letters, digits, `.`, `_`, `-`; --days and --series at least 1")


def _is_good(folder: Path, authority: ca.Authority, name: str) -> bool:
    """Whether the administrator there is one of this authority with more than a third of its life left."""
    try:
        claims = read_certificate((folder / ca.IDENTITY_CERTIFICATE).read_bytes())
        same = (folder / ca.IDENTITY_AUTHORITY).read_bytes() == authority.pem and (folder / ca.IDENTITY_KEY).exists()
    except (OSError, BadCertificate):
        return False
    renew_ns = claims.not_after_ns - (claims.not_after_ns - claims.not_before_ns) // 3
    return same and (claims.kind, claims.name) == (OPERATOR, name) and time.time_ns() < renew_ns


if __name__ == "__main__":
    sys.exit(main())
