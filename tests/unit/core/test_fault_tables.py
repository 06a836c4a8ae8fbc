"""Fault tables: what is read, what a site overrides, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.catalogues import CatalogueError, built_in, merge, site_catalogue
from controlplane.core.health.catalogue import Catalogue
from controlplane.core.vocabulary import HandlingLevel

HEAD = 'vendor = "acme"\nsource = "the manual"\ndate = "2026-01-01"\n'
ONE = '[[code]]\ncode = "X"\nlevel = "IGNORE"\n'


def read(body: str) -> Catalogue:
    return merge(Catalogue(), [("acme.toml", HEAD + body)])


def test_a_site_overrides_single_codes(tmp_path: Path) -> None:
    mine = tmp_path / "site.toml"
    mine.write_text(
        'vendor = "simulated"\nsource = "our trials"\ndate = "2026-06-01"\n'
        '[[code]]\ncode = "SIM-WARM"\nlevel = "ISOLATE"\n[guard]\ndevices = 8\n'
    )
    found = site_catalogue(str(mine))
    assert found.rule("simulated", "SIM-WARM", "").level is HandlingLevel.ISOLATE
    assert found.rule("simulated", "SIM-WARM", "").origin == "our trials, 2026-06-01"
    assert found.rule("simulated", "SIM-SLOW", "") == built_in().rule("simulated", "SIM-SLOW", "")
    assert found.guard.devices == 8


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('[[code]]\ncode = "X"\nlevel = "ISOLAT"\n', "acme.toml: code[0]: ISOLAT is no level: write one of IGNORE"),
        ('[[code]]\ncode = "X"\nlevle = "ISOLATE"\n', "code[0]: does not know levle: write code, debounce"),
        ('[[code]]\ncode = ""\nlevel = "IGNORE"\n', "code must be a text, and is ''"),
        ('[[code]]\ncode = 79\nlevel = "IGNORE"\n', "code must be a text, and is 79"),
        ('[[code]]\ncode = "X"\nlevel = "IGNORE"\ndebounce = 20\n', "debounce must be a duration such as 20s"),
        ('[[code]]\ncode = "X"\nlevel = "IGNORE"\ndebounce = "-1s"\n', "debounce must be a duration"),
        ('[[code]]\ncode = "X"\nlevel = "IGNORE"\ndebounce = "9999d"\n', "at most a year"),
        ('[[code]]\ncode = "X"\nlevel = "IGNORE"\nfrequency = 3\n', "frequency: must be a table"),
        (
            ONE + 'frequency = { count = 1, window = "1m", release = "1h", level = "ISOLATE" }\n',
            "count must be a number from 2 to 32",
        ),
        (
            ONE + 'frequency = { count = 3, window = "1m", release = "1h", level = "IGNORE" }\n',
            "IGNORE is not above IGNORE",
        ),
        ('[[code]]\ncode = "X"\nlevel = "IGNORE"\n' * 2, "code[1]: X stands there twice"),
        ('[[relation]]\ncodes = ["X"]\nwindow = "1m"\nlevel = "ISOLATE"\n', "codes must be two codes"),
        ('[[relation]]\ncodes = ["X", "X"]\nwindow = "1m"\nlevel = "ISOLATE"\n', "is a frequency"),
        (
            '[[code]]\ncode = "X"\nlevel = "IGNORE"\nmode = "quiet"\n',
            "quiet is no mode: write act (the default) or shadow",
        ),
        ("[guard]\nshare = 2\n", "share must be above 0 and at most 1"),
        ("code = 3\n", "write [[code]]"),
        ("colour = 3\n", "acme.toml: does not know colour"),
        ("[[code]\n", "acme.toml: is no TOML"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(body: str, told: str) -> None:
    with pytest.raises(CatalogueError) as error:
        read(body)
    assert told in str(error.value)


def test_a_table_says_where_it_comes_from() -> None:
    with pytest.raises(CatalogueError, match=r"acme\.toml: source must be a text"):
        merge(Catalogue(), [("acme.toml", 'vendor = "acme"\ndate = "2026-01-01"\n')])


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"nowhere\.toml: cannot be read"):
        site_catalogue(str(tmp_path / "nowhere.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogueError, match="is not UTF-8 at byte 0"):
        site_catalogue(str(tmp_path / "binary.toml"))
