"""`keelfs certs`: certificates are made in one command, shown, and never overwritten."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from raft.tls import TlsFiles, client_context, own_principal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.keelfs.command_zygote import Zygote

CERTIFICATE = {
    "path": str,
    "kind": str,
    "name": str,
    "hosts": list,
    "serial": str,
    "issuer": str,
    "not_before_ns": int,
    "not_after_ns": int,
    "valid": bool,
}


def test_one_command_makes_all_and_they_work(zygote: Zygote, tmp_path: Path) -> None:
    directory = tmp_path / "pki"
    done = zygote.run("certs", "make", directory, "--nodes", "n1,n2", "--host", "10.0.0.1,10.0.0.2", "--clients", "admin, ops")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert sorted(os.listdir(directory)) == sorted(
        f"{n}.{e}" for n in ("ca", "n1", "n2", "admin", "ops") for e in ("crt", "key")
    )
    for name, kind in (("n1", "node"), ("n2", "node"), ("admin", "client"), ("ops", "client")):
        files = TlsFiles.of(directory, name)
        client_context(files)
        assert str(own_principal(files)) == f"{kind} {name}"


def test_step_by_step(zygote: Zygote, tmp_path: Path) -> None:
    for arguments in (
        ("init", tmp_path),
        ("node", "n1", "--dir", tmp_path, "--host", "10.0.0.1", "--host", "n1.example.org", "--days", 30),
        ("client", "ops", "--dir", tmp_path),
    ):
        done = zygote.run("certs", *arguments)
        assert done.returncode == 0, done.stderr
        assert "made " in done.stderr
    shown = json.loads(zygote.run("certs", "show", tmp_path, "--json").stdout)
    for one in shown:
        assert {key: type(value) for key, value in one.items()} == CERTIFICATE
    assert [(one["kind"], one["hosts"], one["valid"]) for one in shown] == [
        ("ca", [], True),
        ("node", ["n1.example.org", "10.0.0.1"], True),
        ("client", [], True),
    ]
    node = next(one for one in shown if one["kind"] == "node")
    assert abs(node["not_after_ns"] / 1e9 - time.time() - 30 * 86400) < 600


def test_show_is_for_people_too(zygote: Zygote, tmp_path: Path) -> None:
    assert zygote.run("certs", "make", tmp_path, "--nodes", "n1").returncode == 0
    done = zygote.run("certs", "show", tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert {"file", "ca.crt", "n1.crt", "admin.crt"} <= set(rows)
    assert "node" in rows["n1.crt"]
    assert "days left" in rows["n1.crt"]


def test_what_is_refused_says_why_and_changes_nothing(zygote: Zygote, tmp_path: Path) -> None:
    assert zygote.run("certs", "make", tmp_path, "--nodes", "n1").returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for code, says, arguments in (
        (1, "nothing is overwritten", ("make", tmp_path)),
        (1, "nothing is overwritten", ("init", tmp_path)),
        (1, "nothing is overwritten", ("client", "n1", "--dir", tmp_path)),
        (1, "is no name for a certificate", ("node", "ca", "--dir", tmp_path, "--host", "h")),
        (1, "is no host name", ("node", "n2", "--dir", tmp_path, "--host", "h:7000")),
        (1, "needs at least one host", ("node", "n2", "--dir", tmp_path, "--host", ",")),
        (1, "there is no CA", ("node", "n2", "--dir", tmp_path / "none", "--host", "h")),
        (1, "not a certificate", ("show", tmp_path / "n1.key")),
        (1, "No such file", ("show", tmp_path / "none")),
        (1, "named twice", ("make", tmp_path / "none", "--nodes", "a,b,a")),
        (2, "Missing option '--host'", ("node", "n2", "--dir", tmp_path)),
        (2, "--days", ("client", "x", "--dir", tmp_path, "--days", 0)),
    ):
        done = zygote.run("certs", *arguments)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert says in " ".join(done.stderr.replace("│", " ").split())
        assert "Traceback" not in done.stderr
        assert "PRIVATE" not in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
