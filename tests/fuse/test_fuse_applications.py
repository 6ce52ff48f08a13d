"""Applications whose data must survive, and programs on two mounts of one volume at once: PostgreSQL, sqlite, git, make, rsync,
tar, a wheel build. Small programs on one mount are in test_fuse_programs.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import Cluster, wait_for
from tests.fuse.test_fuse_programs import needs, sh

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def pair(scratch: Path) -> Iterator[Cluster]:
    """A volume on mounts 'a' and 'b'."""
    with Cluster(Path(tempfile.mkdtemp(dir=scratch))) as running:
        running.start_unmounted()
        running.mount("a")
        running.mount("b")
        yield running


@pytest.fixture
def sides(pair: Cluster, request: pytest.FixtureRequest) -> Iterator[tuple[Path, Path]]:
    """A fresh directory, as both mounts name it."""
    a, b = (pair.home / mount / request.node.name for mount in ("a", "b"))
    a.mkdir()
    wait_for(b.exists, "the directory on the other mount")
    yield a, b
    subprocess.run(["rm", "-rf", str(a)], check=True)


# PostgreSQL


def postgres_programs() -> Path | None:
    """Where Debian puts initdb and postgres; the newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    return found[-1].parent if found else None


POSTGRES = postgres_programs()
needs_postgres = pytest.mark.skipif(POSTGRES is None, reason="not installed: postgresql (initdb, postgres, pgbench)")


class Postgres:
    """One database server with its data on the mount, run by the user `postgres`; its socket on a local disk."""

    def __init__(self, data: Path, sockets: Path) -> None:
        assert POSTGRES is not None
        self.bin, self.data, self.sockets = POSTGRES, data, sockets
        self.log = sockets / "log"
        self.child: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.env = {**os.environ, "PGHOST": str(sockets), "PGUSER": "postgres", "PGDATABASE": "postgres"}
        for folder in (data, sockets):
            folder.mkdir()
            shutil.chown(folder, "postgres", "postgres")
        self.run("initdb", "-D", data, "--auth=trust", "--no-sync", "--data-checksums")

    def command(self, program: str, *arguments: object) -> list[str]:
        """As the user postgres, by a program that ends by running it in its own place."""
        who = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
        return [*who, str(self.bin / program), *map(str, arguments)]

    def run(self, program: str, *arguments: object, timeout: float = 250) -> str:
        done = subprocess.run(
            self.command(program, *arguments), capture_output=True, text=True, timeout=timeout, cwd=self.sockets, env=self.env
        )
        assert done.returncode == 0, f"{program}: {done.stdout[-1500:]}{done.stderr[-1500:]}{self.said()[-3000:]}"
        return done.stdout

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def start(self) -> None:
        settings = ("listen_addresses=", f"unix_socket_directories={self.sockets}", "fsync=on", "checkpoint_timeout=30s")
        options = [word for setting in settings for word in ("-c", setting)]
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(self.command("postgres", "-D", self.data, *options), stderr=log, cwd=self.sockets)
        self.starts += 1
        wait_for(lambda: self.said().count("ready to accept connections") == self.starts, "the database server", 250)

    def ask(self, query: str) -> str:
        return self.run("psql", "-X", "-A", "-t", "-c", query).strip()

    def kill(self) -> None:
        """SIGKILL to the server and all that it forked."""
        assert self.child is not None
        forked = subprocess.run(["pgrep", "-P", str(self.child.pid)], capture_output=True, text=True, check=False).stdout
        for one in (self.child.pid, *map(int, forked.split())):
            os.kill(one, signal.SIGKILL)
        self.child.wait()

    def stop(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)
            assert self.child.wait(250) == 0, self.said()


def bench_and_crash(here: Path, home: Path, seconds: int) -> None:
    """Transactions from four connections; the server is killed under them, recovers, and has every one that was acknowledged.
    Each is written down outside, by the client, after its COMMIT returned."""
    home.chmod(0o755)
    server = Postgres(here / "data", home / "sockets")
    server.start()
    try:
        server.run("pgbench", "-i", "-q", "-s", "1")
        server.run("pgbench", "-c", "4", "-j", "2", "-T", seconds)
        server.ask("create table acknowledged (n integer primary key)")
        acknowledged: list[int] = []
        killed = threading.Event()
        client = subprocess.Popen(
            server.command("psql", "-X", "-q", "-A", "-t"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            cwd=server.sockets,
            env=server.env,
        )

        def insert() -> None:
            assert client.stdin is not None
            assert client.stdout is not None
            for n in range(100_000):
                try:
                    client.stdin.write(f"insert into acknowledged values ({n}) returning n;\n")
                    if client.stdout.readline().strip() != str(n):
                        return
                except OSError:
                    return
                acknowledged.append(n)
                if killed.is_set():
                    return

        inserting = threading.Thread(target=insert)
        inserting.start()
        wait_for(lambda: len(acknowledged) > 100, "a hundred transactions")
        server.kill()
        killed.set()
        inserting.join()
        client.kill()
        client.wait()
        for stream in (client.stdin, client.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        server.start()
        assert "database system was not properly shut down" in server.said()
        present = {int(line) for line in server.ask("select n from acknowledged").split()}
        assert set(acknowledged) <= present
        assert present <= set(range(len(acknowledged) + 1))
        sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)"
        assert server.ask(sums) == "t"
        assert server.ask("select count(*) from pgbench_accounts") == "100000"
    finally:
        server.stop()
    server.run("pg_checksums", "--check", "-D", server.data)


@needs_postgres
def test_postgres_recovers_from_a_kill_with_everything_acknowledged(here: Path, home: Path) -> None:
    bench_and_crash(here, home, 3)


@needs_postgres
@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_postgres_for_two_minutes(here: Path, home: Path) -> None:
    bench_and_crash(here, home, 120)


# sqlite

WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=120, isolation_level=None)
db.execute("pragma synchronous=full")
for n in range(100000):
    db.execute("insert into t values (?, ?)", (int(sys.argv[2]), n))
    print(n, flush=True)
"""


def test_sqlite_with_a_log_keeps_what_four_killed_processes_committed(here: Path) -> None:
    path = here / "data.db"
    database = sqlite3.connect(path)
    assert database.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    database.execute("create table t (writer integer, n integer, primary key (writer, n))")
    database.commit()
    database.close()
    logs = [here / f"log{number}" for number in range(4)]
    children = []
    for number, log in enumerate(logs):
        with open(log, "wb") as out:
            children.append(subprocess.Popen([sys.executable, "-c", WRITER, path, str(number)], stdout=out))
    wait_for(lambda: all(log.read_bytes().count(b"\n") > 20 for log in logs), "twenty transactions of each")
    for child in children:
        child.kill()
        child.wait()
    database = sqlite3.connect(path)
    assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    for number, log in enumerate(logs):
        acknowledged = log.read_bytes().count(b"\n")
        (count,) = database.execute("select count(*) from t where writer = ?", (number,)).fetchone()
        assert count in (acknowledged, acknowledged + 1)
    database.close()


# two mounts

GIT = "git -c user.name=t -c user.email=t@localhost -c core.checkStat=default"


@needs("git")
def test_git_works_from_two_mounts_in_turn(sides: tuple[Path, Path]) -> None:
    a, b = sides
    sh("git init -q -b main repo", a)
    wait_for((b / "repo/.git/HEAD").exists, "the repository on the other mount")
    for turn in range(10):
        here, there = (a, b) if turn % 2 == 0 else (b, a)
        repo = here / "repo"
        (repo / f"f{turn}").write_text(f"turn {turn}\n" * 50)
        with open(repo / "shared", "a") as file:
            file.write(f"{turn}\n")
        sh(f"{GIT} add -A && {GIT} commit -qm {turn}", repo)
        wait_for(lambda other=there / "repo": sh("git status --porcelain", other) == "", "a clean tree on the other mount")
        assert len(sh("git log --format=%s", there / "repo").split()) == turn + 1
    assert (b / "repo/shared").read_text() == "".join(f"{turn}\n" for turn in range(10))
    sh("git gc -q && git fsck --full --strict", b / "repo")
    sh("git fsck --full --strict", a / "repo")


@needs("gcc", "make")
def test_make_on_two_mounts_at_once(sides: tuple[Path, Path]) -> None:
    """Two builds of the same sources, each into its own folder; the programs are the same and both work."""
    a, b = sides
    (a / "m.h").write_text("".join(f"int f{n}(void);\n" for n in range(12)))
    for number in range(12):
        (a / f"m{number}.c").write_text(f'#include "m.h"\nint f{number}(void) {{ return {number}; }}\n')
    total = " + ".join(f"f{n}()" for n in range(12))
    (a / "main.c").write_text(f'#include <stdio.h>\n#include "m.h"\nint main(void) {{ printf("%d", {total}); return 0; }}\n')
    objects = " ".join(f"$(OUT)/m{n}.o" for n in range(12))
    (a / "Makefile").write_text(
        f"$(OUT)/prog: {objects} $(OUT)/main.o\n\tgcc -o $@ $^\n$(OUT)/%.o: %.c m.h\n\tgcc -O1 -c $< -o $@\n"
    )
    wait_for((b / "Makefile").exists, "the sources on the other mount")
    builds = [
        subprocess.Popen(["make", "-s", "-j2", f"OUT={out}"], cwd=side, stderr=subprocess.PIPE)
        for side, out in ((a, made(a, "out-a")), (b, made(b, "out-b")))
    ]
    for build in builds:
        _, said = build.communicate(timeout=250)
        assert build.returncode == 0, said
    wait_for((a / "out-b/prog").exists, "the other mount's program")
    assert sh("out-a/prog; echo; out-b/prog", a).split() == ["66", "66"]
    assert (a / "out-b/m3.o").read_bytes() == (b / "out-a/m3.o").read_bytes()
    for out in ("out-a", "out-b"):
        assert "up to date" in sh(f"make OUT={out}", b)


def made(side: Path, name: str) -> str:
    (side / name).mkdir()
    return name


# copies


def odd_tree(root: Path) -> Path:
    """Modes, owners, times, hard links, symbolic links, holes, xattrs, a FIFO."""
    (root / "d" / "e").mkdir(parents=True)
    for number in range(60):
        path = root / "d" / f"file {number}"
        path.write_bytes(os.urandom(number * 137))
        os.chown(path, number * 7, number * 5)
        path.chmod((0o644, 0o4755, 0o2711, 0o600)[number % 4])
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1_000_003))
        if number % 5 == 0:
            os.link(path, root / "d" / "e" / f"hard {number}")
            os.setxattr(path, "user.note", b"n" * (number + 1))
            os.setxattr(path, "trusted.note", b"t")
    with open(root / "sparse", "wb") as file:
        file.seek(5 << 20)
        file.write(b"in the middle")
        file.truncate(20 << 20)
    os.symlink("d/nowhere", root / "link")
    os.mkfifo(root / "fifo", 0o640)
    (root / "d").chmod(0o3771)
    return root


def acls(folder: Path) -> bool:
    """Whether access control lists can be set there."""
    probe = folder / "probe"
    probe.touch()
    done = subprocess.run(["setfacl", "-m", "u:4711:r", probe], capture_output=True, check=False)
    probe.unlink()
    return done.returncode == 0


@needs("rsync", "setfacl")
def test_rsync_there_and_back_leaves_nothing_to_do(here: Path, home: Path) -> None:
    source = odd_tree(home / "source")
    options = "-aHXS --numeric-ids"
    if acls(here):
        sh("setfacl -m u:4711:rw,g:4712:x 'd/file 0' && setfacl -d -m u:4711:rwx d/e", source)
        options += " -A"
    (here / "copy").mkdir()
    (home / "back").mkdir()
    sh(f'rsync {options} "{source}/" "{here}/copy/" && rsync {options} "{here}/copy/" "{home}/back/"', home)
    for one, other in ((source, here / "copy"), (here / "copy", home / "back"), (source, home / "back")):
        assert sh(f'rsync {options} -c --delete --dry-run --itemize-changes "{one}/" "{other}/"', home) == ""
    assert os.stat(here / "copy/sparse").st_blocks * 512 < 1 << 20


@needs("tar", "setfacl")
def test_tar_there_and_back_with_acls_and_xattrs(here: Path, home: Path) -> None:
    source = odd_tree(home / "source")
    keep = '--xattrs --xattrs-include="*" --sparse --numeric-owner'
    if acls(here):
        sh("setfacl -m u:4711:rw,g:4712:x 'd/file 0' && setfacl -d -m u:4711:rwx d/e", source)
        keep += " --acls"
    for one, other in ((source, here / "copy"), (here / "copy", home / "back")):
        other.mkdir()
        sh(f'tar -C "{one}" {keep} -cf - . | tar -C "{other}" {keep} -xpf -', home)
    look = 'find . -printf "%P %y %m %n %U %G %s %l\\n" | grep -v " d " | sort; getfattr -dhR -m - . ; getfacl -Rn .'
    assert sh(look, source) == sh(look, here / "copy") == sh(look, home / "back")
    sh(f'diff -r --no-dereference "{source}/d" "{home}/back/d" && cmp "{source}/sparse" "{home}/back/sparse"', home)


def test_a_wheel_is_built_and_installed(here: Path) -> None:
    """With the build backend that the tests' environment has."""
    pytest.importorskip("hatchling", reason="not installed: hatchling")
    package = here / "src" / "keel_sample"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def answer() -> int:\n    return 42\n")
    (here / "src" / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "keel-sample"\nversion = "1.0"\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["keel_sample"]\n'
    )
    pip = f'"{sys.executable}" -m pip --disable-pip-version-check'
    sh(f"{pip} wheel -q --no-index --no-build-isolation --no-deps -w dist ./src", here)
    sh(f"{pip} install -q --no-index --no-deps --target installed dist/*.whl", here)
    assert sh(f'"{sys.executable}" -c "import keel_sample; print(keel_sample.answer())"', here / "installed") == "42\n"
