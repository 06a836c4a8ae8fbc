"""What YAML would do in silence is told with its line."""

from pathlib import Path

import pytest

from cli.errors import ManifestRefused
from cli.manifest_file import read_manifest

HEAD = """\
apiVersion: phalanx/v1
kind: TrainingJob
metadata: {name: moe}
spec:
  ranks: 4
  workload:
    module: m
    args:
"""


def problems(folder: Path, text: str) -> tuple[str, ...]:
    path = folder / "job.yaml"
    path.write_text(text)
    with pytest.raises(ManifestRefused) as refused:
        read_manifest(str(path))
    return tuple(line.removeprefix(f"{path}:") for line in refused.value.problems)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("country: no", '9: spec.workload.args.country: YAML reads `no` as false. write false, or "no" for the text'),
        ("flag: On", '9: spec.workload.args.flag: YAML reads `On` as true. write true, or "On" for the text'),
        ("lr: 1e-4", '9: spec.workload.args.lr: YAML reads `1e-4` as text, not as a number. write 1.0e-4, or "1e-4"'),
        ("tokens: 3e9", "9: spec.workload.args.tokens: YAML reads `3e9` as text, not as a number. write 3.0e+9"),
        ("mask: 0755", "9: spec.workload.args.mask: YAML reads `0755` as an octal number."),
        ("at: 1:30", "9: spec.workload.args.at: YAML reads `1:30` as a number in base 60."),
        ("\tindented: 1", "9: found character '\\t' that cannot start any token. YAML is indented with spaces"),
        ("text: a: b", "9: mapping values are not allowed here. put a text that contains `: ` in quotes"),
        ("glob: *all", "9: found undefined alias 'all'. define it before with `&name`"),
    ],
)
def test_a_pitfall_is_told(tmp_path: Path, line: str, expected: str) -> None:
    (told,) = problems(tmp_path, f"{HEAD}      {line}\n")
    assert told.startswith(expected)


@pytest.mark.parametrize("line", ['country: "no"', "lr: 1.0e-4", "on: true", "n: 0", "x: -0.5", "s: 'a: b'", "t: 10e"])
def test_what_means_what_it_says_is_taken(tmp_path: Path, line: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{HEAD}      {line}\n")
    if line.startswith("on:"):  # a key is a name, whatever YAML 1.1 thinks of it
        assert "names of arguments must be text" in problems(tmp_path, path.read_text())[0]
    else:
        assert read_manifest(str(path)).spec.name == "moe"


def test_a_field_is_told_once(tmp_path: Path) -> None:
    text = HEAD.replace("module: m", "module: yes")
    assert [line for line in problems(tmp_path, f"{text}      a: 1\n") if "module" in line] == [
        '7: spec.workload.module: YAML reads `yes` as true. write true, or "yes" for the text'
    ]


def test_a_bomb_of_aliases_is_never_expanded(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 14)]
    (told,) = problems(tmp_path, "\n".join(lines))
    assert "more than 100 aliases" in told


@pytest.mark.parametrize(("text", "what"), [("[\n" * 500, "levels deep"), ("- x\n" * 60_000, "values long")])
def test_a_document_without_end_is_refused_early(tmp_path: Path, text: str, what: str) -> None:
    assert what in problems(tmp_path, text)[0]


@pytest.mark.parametrize("line", ["[" * 100_000, "{" * 2_000, "x: " + "[" * 400 + "]" * 400], ids=len)
def test_brackets_that_would_take_the_parser_seconds_are_refused_before_it(tmp_path: Path, line: str) -> None:
    (told,) = problems(tmp_path, f"{HEAD}      {line}\n")
    assert told.startswith("9: the line opens more than 160 brackets")


def test_many_brackets_side_by_side_are_a_list(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{HEAD}      x: [{', '.join(['[1]'] * 400)}]\n")
    assert read_manifest(str(path)).spec.name == "moe"
