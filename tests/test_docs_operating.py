"""docs/OPERATING.md says what the program does: its tables are compared with the command line, the settings, the exit codes
and the JSON documents. Nothing may be missing and nothing invented."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from fuseclient.mount import _OPTIONS as MOUNT_OPTIONS
from keelfs.benchmark import Row
from keelfs.commands import info, status, volume
from keelfs.exit_codes import ExitCode
from keelfs.main import app
from keelfs.settings import Settings
from metaserver import config
from metaserver.settings import fill
from protos import admin_pb2
from protos.attr_layout import ATTR_BYTES

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "OPERATING.md").read_text()
_CODE = re.compile(r"`([^`]+)`")


def section(title: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    level = title.split(" ", 1)[0]
    assert f"\n{title}\n" in TEXT, f"no section {title!r}"
    rest = TEXT.split(f"\n{title}\n", 1)[1]
    return re.split(rf"^#{{2,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def tables(text: str) -> list[list[list[str]]]:
    """Every table as rows of cells, without its two head lines."""
    blocks = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split(" |")] for line in block.splitlines()[2:]] for block in blocks]


def codes(cell: str) -> list[str]:
    return _CODE.findall(cell)


def commands(command: Any, prefix: str = "keelfs") -> dict[str, Any]:
    """Every command that does something, by its full name."""
    if not hasattr(command, "commands"):
        return {prefix: command}
    found: dict[str, Any] = {}
    for name, below in command.commands.items():
        found |= commands(below, f"{prefix} {name}")
    return found


COMMANDS = commands(typer.main.get_command(app))


def test_every_command_has_a_section_and_no_other_has() -> None:
    assert set(re.findall(r"^### (keelfs .*)$", section("## Commands"), re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of(name: str) -> None:
    shown = [p for p in COMMANDS[name].params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
    real = {flag for option in shown for flag in (*option.opts, *option.secondary_opts)} - {"--help", "-h"}
    rows = tables(section(f"### {name}"))[0]
    written = [flag for row in rows for flag in codes(row[0])]
    assert sorted(written) == sorted(real)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_defaults_of(name: str) -> None:
    rows = {flag: row[1] for row in tables(section(f"### {name}"))[0] for flag in codes(row[0])}
    site = Settings.model_construct()
    for option in COMMANDS[name].params:
        written = rows.get(option.opts[-1])
        if written is None or option.param_type_name != "option":
            continue
        setting = getattr(site, option.name.removesuffix("_at"), None)
        if option.required:
            assert written == "required"
        elif option.is_flag:
            assert written == "off"
        elif setting:
            assert written == f"({setting})"
        elif isinstance(option.default, str | int) and option.default not in ("", None) and not callable(option.default):
            assert written == str(option.default)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, click.exceptions.Exit)):
        COMMANDS[name].main(["--help"], prog_name=name)
    assert "Usage:" in capsys.readouterr().out


def test_the_settings() -> None:
    rows = tables(section("## Settings"))[0]
    assert [codes(row[0]) for row in rows] == [[name] for name in Settings.model_fields]
    for row in rows:
        default = Settings.model_fields[codes(row[0])[0]].default
        if default:
            assert codes(row[1]) == [default]


def test_the_exit_codes() -> None:
    of_commands, of_server = tables(section("## Exit codes"))
    assert {codes(row[1])[0]: int(row[0]) for row in of_commands} == {code.name: code.value for code in ExitCode}
    real = {name: value for name, value in vars(config).items() if name.startswith("EXIT_")}
    assert {codes(row[1])[0]: int(row[0]) for row in of_server} == real


def test_the_mount_options() -> None:
    row = next(row for row in tables(section("### keelfs mount"))[0] if codes(row[0]) == ["-o"])
    assert sorted(codes(row[2])) == sorted(MOUNT_OPTIONS)


def documented(title: str, table: int = 0) -> list[str]:
    """The keys that a JSON table names."""
    return [key for row in tables(section(title))[table] for key in codes(row[0])]


def test_the_json_of_status() -> None:
    facts = status.describe(admin_pb2.StatusReply(sessions=[admin_pb2.SessionStatus()], term=3))
    assert sorted(documented("### keelfs status --json")) == sorted(facts)
    assert sorted(documented("### keelfs status --json", 1)) == sorted(facts["sessions"][0])
    assert facts["term"] == 3


def test_the_json_of_a_volume() -> None:
    assert sorted(documented("### keelfs volume show --json")) == sorted(
        volume.describe(admin_pb2.Volume(settings_json='{"store": "file:///x"}'))
    )
    row = next(row for row in tables(section("### keelfs volume show --json"))[0] if row[0] == "`settings`")
    assert sorted(codes(row[2])) == sorted(json.loads(fill('{"store": "file:///x"}', "u")))


def test_the_json_of_an_inode() -> None:
    reply = admin_pb2.InodeInfoReply(attr=bytes(ATTR_BYTES))
    reply.chunks.add().extents.add()
    facts = info.describe(reply)
    assert sorted(documented("### keelfs info --json")) == sorted(facts)
    last = tables(section("### keelfs info --json"))[0][-1]
    chunk = facts["chunks"][0]
    assert codes(last[2]) == [*chunk, *chunk["extents"][0]]


def test_the_json_of_the_benchmark() -> None:
    assert documented("### keelfs bench --json") == list(Row._fields)
