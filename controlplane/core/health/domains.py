"""Whether a failure domain is lost: many of its nodes fell silent at once, and somebody else saw some of them die. Pure.

A rack that loses power takes its agents, raylets and ranks together, but only the nodes that had work or a raylet leave a
witness. What is known of some is then believed of all that fell silent with them, inside that domain and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlplane.core.columns import BoolColumn, IntColumn
from controlplane.core.fleet import NO_DOMAIN


@dataclass(frozen=True, slots=True)
class Fall:
    """Who fell silent, per node.

    `silent`: past the lease without proof of life, and DEAD ones that we heard fall; `witnessed`: those of them of which
    somebody else says that they are gone; `silence_s`: for how long; `living`: not DEAD before.
    """

    silent: BoolColumn
    witnessed: BoolColumn
    silence_s: np.ndarray
    living: BoolColumn


@dataclass(frozen=True, slots=True)
class Many:
    """What "many at once" is inside a domain: so many nodes, and such a share of it, within `at_once_s` of the newest
    witnessed one, `witnessed` of them at least: one machine that dies behind a broken path has died alone."""

    at_once_s: float
    minimum: int
    share: float
    witnessed: int = 2


def lost(domains: IntColumn, fall: Fall, many: Many) -> BoolColumn:
    """Mask of silent nodes that lie in a lost domain. `domains`: (nodes, kinds), see `Fleet.domains`."""
    result = np.zeros(len(fall.silent), dtype=np.bool_)
    if fall.witnessed.any() and np.count_nonzero(fall.silent) >= many.minimum:
        for kind in range(domains.shape[1]):
            result |= _lost_of_kind(domains[:, kind], fall, many)
    return result


def _lost_of_kind(domain: IntColumn, fall: Fall, many: Many) -> BoolColumn:
    inside = domain != NO_DOMAIN
    seen = fall.witnessed & inside
    if not seen.any():
        return np.zeros(len(domain), dtype=np.bool_)
    size = int(domain.max()) + 1
    newest_s = np.full(size, np.inf)
    np.minimum.at(newest_s, domain[seen], fall.silence_s[seen])
    here = np.where(inside, domain, 0)
    together = fall.silent & inside & (np.abs(fall.silence_s - newest_s[here]) <= many.at_once_s)
    fell = np.bincount(domain[together], minlength=size)
    whole = np.bincount(domain[(fall.living | together) & inside], minlength=size)
    died = np.bincount(domain[together & seen], minlength=size)
    gone = (fell >= many.minimum) & (fell >= many.share * whole) & (died >= many.witnessed)
    mask: BoolColumn = together & gone[here]
    return mask
