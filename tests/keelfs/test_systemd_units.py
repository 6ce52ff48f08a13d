"""The units that are shipped: systemd understands them, and what they rely on is so."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from keelfs.background import Ready
from keelfs.exit_codes import ExitCode
from metaserver.config import EXIT_CONFIG, EXIT_CORRUPT

UNITS = Path(__file__).resolve().parents[2] / "packaging" / "systemd"
PREFIX = "/opt/keelfs/.venv/bin/keelfs"


def settings(unit: str) -> dict[str, list[str]]:
    """The unit's settings by key."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def complaints(text: str, name: str, directory: Path) -> list[str]:
    """What systemd says of a unit with this text, when the program is where it is on this machine."""
    unit = directory / name.replace("@", "@n1")
    unit.write_text(text.replace(PREFIX, str(Path(sys.executable).parent / "keelfs")))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if unit.name in line]


@needs_systemd
@pytest.mark.parametrize("name", ["keelfs-meta@.service", "keelfs-mount@.service"])
def test_systemd_understands(name: str, tmp_path: Path) -> None:
    text = (UNITS / name).read_text()
    assert PREFIX in text
    assert complaints(text, name, tmp_path) == []
    assert complaints(text.replace("Restart=", "Restrat="), name, tmp_path)


def test_what_starting_again_cannot_mend() -> None:
    assert settings("keelfs-meta@.service")["Type"] == settings("keelfs-mount@.service")["Type"] == ["notify"]
    assert settings("keelfs-meta@.service")["RestartPreventExitStatus"] == [f"{EXIT_CONFIG} {EXIT_CORRUPT}"]
    assert settings("keelfs-mount@.service")["RestartPreventExitStatus"] == [str(int(ExitCode.USAGE))]


def test_a_mount_stays_in_the_namespace_of_everybody() -> None:
    private = ("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ReadOnlyPaths", "BindPaths")
    assert not set(private) & set(settings("keelfs-mount@.service"))


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@keelfs-test-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:] if abstract else name)
        listening.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        Ready(-1).tell()
        assert listening.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Ready(-1).tell()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    Ready(-1).tell()
