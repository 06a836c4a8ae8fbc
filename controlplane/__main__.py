"""`python -m controlplane`: the controller of a site."""

from __future__ import annotations

import sys

from controlplane.bootstrap import main

if __name__ == "__main__":
    sys.exit(main())
