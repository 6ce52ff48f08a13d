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
from keelfs import cluster_view, node_directory, node_settings, state_comparison
from keelfs.benchmark import Row
from keelfs.commands import certs, info, status, volume
from keelfs.commands.cluster import snapshot, state, verify
from keelfs.exit_codes import ExitCode
from keelfs.main import app
from keelfs.settings import Settings
from metaserver import config
from metaserver.settings import fill
from protos import admin_pb2
from protos.attr_layout import ATTR_BYTES
from raft.certificates import describe, make_ca
from raft.disk import RealDisk
from raft.membership import Member, initial
from raft.snapshot_file import SnapshotHeader, write
from tests.keelfs.fake_admin import FakeCluster, FakeNode, admin_of

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


def options(name: str) -> set[str]:
    """What a command really has."""
    shown = [p for p in COMMANDS[name].params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
    return {flag for option in shown for flag in (*option.opts, *option.secondary_opts)} - {"--help", "-h"}


#: Of the commands that ask a server, their tables do not repeat these.
CONNECTION = {"--tls-ca", "--tls-cert", "--tls-key", "--insecure"}
ASKING = set(codes(re.search(r"Commands that ask a server have these.*?\.\n", TEXT, re.DOTALL)[0]))  # type: ignore[index]


def test_the_commands_that_ask_a_server() -> None:
    assert {flag for row in tables(section("## Commands"))[0] for flag in codes(row[0])} == CONNECTION
    own = {"keelfs server", "keelfs cluster init", "keelfs cluster add", "keelfs cluster snapshot restore"}
    assert {name for name in COMMANDS if options(name) >= CONNECTION} == ASKING | own


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of(name: str) -> None:
    real = options(name) - (CONNECTION if name in ASKING else set())
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
        if name in ASKING and option.opts[-1] in CONNECTION:
            continue
        setting = getattr(site, option.name.removesuffix("_at"), None)
        if option.required:
            assert written == "required"
        elif option.is_flag:
            assert written in {False: ("off",), True: ("on",)}.get(option.default, ("off", "as it is"))
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


def test_the_json_of_a_cluster() -> None:
    cluster = FakeCluster.of("n1")
    view = cluster_view.look([admin_of("n1")], cluster.connect)
    facts = state.describe(view, cluster_view.judge(view))
    assert sorted(documented("### keelfs cluster status --json")) == sorted(facts)
    assert sorted(documented("### keelfs cluster status --json", 1)) == sorted(facts["nodes"][0])
    members = FakeNode(cluster, "n1").members().members
    facts = verify.describe(state_comparison.compare(members, 1, 1.0, cluster.connect))
    assert sorted(documented("### keelfs cluster verify --json")) == sorted(facts)
    assert sorted(documented("### keelfs cluster verify --json", 1)) == sorted(facts["nodes"][0])


def test_the_json_of_a_snapshot(tmp_path: Path) -> None:
    member = Member("n1", "00000000-0000-0000-0000-000000000001", "h:3", "h:1", "h:2")
    header = SnapshotHeader(member.incarnation, 7, 3, initial(member), bytes(16), "test", 0)
    write(RealDisk(), str(tmp_path / "f"), header, [b"state"])
    facts = snapshot.describe(tmp_path / "f")
    assert sorted(documented("### keelfs cluster snapshot show --json")) == sorted(facts)
    row = next(row for row in tables(section("### keelfs cluster snapshot show --json"))[0] if row[0] == "`members`")
    assert codes(row[2]) == list(facts["members"][0])


def test_the_json_of_certificates(tmp_path: Path) -> None:
    make_ca(tmp_path)
    facts = certs._facts(describe(tmp_path / "ca.crt"), 0)
    assert sorted(documented("### keelfs certs show --json")) == sorted(facts)


def test_the_files_of_a_data_directory(tmp_path: Path) -> None:
    node_directory.found(tmp_path, node_settings.complete(name="n1", listen="127.0.0.1:1"))
    written = {name.split("/")[0] for name in documented("## Data directory")}
    assert {path.name for path in tmp_path.iterdir()} <= written
    text = section("## Data directory")
    assert all(f"`{key}`" in text for key in json.loads((tmp_path / "node.json").read_text()))


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
