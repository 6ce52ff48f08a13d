"""Directories become nodes, whole or not at all: founding, migration, restoring, surviving alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fuseclient.errors import ClientError
from keelfs import node_directory, node_settings
from keelfs.node_settings import complete
from metaserver.store import state_stream
from metaserver.store.lmdb_store import LmdbStore
from raft import quarantine
from raft.certificates import make_ca, make_client, make_node
from raft.disk import RealDisk
from raft.identity import load_identity
from raft.journal import Journal
from raft.membership import Membership, encode, initial
from raft.record import MEMBERSHIP, Entry
from raft.snapshot_file import SnapshotHeader, write
from raft.tls import TlsFiles

if TYPE_CHECKING:
    from pathlib import Path

N1 = complete(name="n1", listen="127.0.0.1:7420")


def journal_of(directory: Path) -> Journal:
    identity = load_identity(RealDisk(), str(directory))
    assert identity is not None
    return Journal.open(directory, identity=identity, state_index=node_directory.state_index(directory))


def test_an_empty_directory_is_founded(tmp_path: Path) -> None:
    membership = node_directory.found(tmp_path / "d", N1)
    assert [(m.name, m.peer, m.voter) for m in membership.members] == [("n1", "127.0.0.1:7422", True)]
    assert node_directory.is_node(tmp_path / "d")
    assert node_settings.read(tmp_path / "d") == N1


def test_it_is_founded_once(tmp_path: Path) -> None:
    node_directory.found(tmp_path, N1)
    with pytest.raises(ClientError, match="belongs to a cluster's node already"):
        node_directory.found(tmp_path, complete(name="n2", listen="127.0.0.1:1000"))
    assert node_settings.read(tmp_path) == N1


def test_a_running_server_is_noticed_and_left_alone(tmp_path: Path) -> None:
    disk = RealDisk()
    fd = disk.lock(str(tmp_path))
    try:
        with pytest.raises(ClientError, match="a server runs on"):
            node_directory.found(tmp_path, N1)
        assert node_settings.read(tmp_path) is None
    finally:
        disk.close(fd)
    node_directory.found(tmp_path, N1)


def test_certificates_must_fit(tmp_path: Path) -> None:
    make_ca(tmp_path)
    make_node(tmp_path, "n2", ["127.0.0.1"])
    make_client(tmp_path, "n1")
    refused = {
        "n2.crt is the certificate of node n2": TlsFiles.of(tmp_path, "n2"),
        "n1.crt is the certificate of client n1": TlsFiles.of(tmp_path, "n1"),
        "No such file": TlsFiles.of(tmp_path, "n3"),
        "n1.key: not the key of": TlsFiles(
            f"{tmp_path}/ca.crt", str(TlsFiles.of(tmp_path, "n2").cert), str(TlsFiles.of(tmp_path, "n1").key)
        ),
    }
    for says, files in refused.items():
        with pytest.raises(ClientError, match=says):
            node_directory.found(tmp_path / "d", complete(name="n1", listen="10.0.0.1:7420", tls=files))
    assert not (tmp_path / "d").exists()


def test_beyond_this_machine_it_takes_certificates(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="reachable from other machines"):
        node_directory.found(tmp_path / "d", complete(name="n1", listen="10.0.0.1:7420"))
    assert not (tmp_path / "d").exists()


def test_forgetting_leaves_nothing(tmp_path: Path) -> None:
    node_directory.join(tmp_path, N1, "11111111-1111-1111-1111-111111111111")
    assert node_directory.is_node(tmp_path)
    node_directory.forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- snapshots


PAIRS = [(b"Ia", b"1"), (b"Ib", b"2" * 1000)]
MEMBERS = initial(N1.member("00000000-0000-0000-0000-000000000001"))


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A file with two keys, as of index 7 of term 3."""
    path = tmp_path / "file.snapshot"
    header = SnapshotHeader("11111111-1111-1111-1111-111111111111", 7, 3, MEMBERS, bytes(16), "test", 0)
    write(RealDisk(), str(path), header, state_stream.encode(PAIRS))
    return path


def state_of(directory: Path) -> tuple[int, list[tuple[bytes, bytes]]]:
    store = LmdbStore.open(directory / "state", create=False, readonly=True)
    try:
        return store.index, [(key, value) for key, value in store.snapshot() if key[0]]
    finally:
        store.close()


def test_a_snapshot_is_restored_into_a_new_cluster(tmp_path: Path, snapshot: Path) -> None:
    read: list[int] = []
    node_directory.restore(snapshot, tmp_path / "d", N1, read.append)
    assert sum(read) > 1000
    assert state_of(tmp_path / "d") == (7, PAIRS)
    journal = journal_of(tmp_path / "d")
    assert (journal.last_index, journal.last_term) == (7, 3)
    assert journal.membership.voters == {"n1"}
    journal.close()
    identity = load_identity(RealDisk(), str(tmp_path / "d"))
    assert identity is not None
    assert identity.cluster_id != "11111111-1111-1111-1111-111111111111"
    assert not (tmp_path / "d" / node_directory.UNFINISHED_NAME).exists()


def test_it_is_restored_into_an_empty_directory_only(tmp_path: Path, snapshot: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "something").touch()
    with pytest.raises(ClientError, match="not empty"):
        node_directory.restore(snapshot, tmp_path / "d", N1)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["something"]
    (tmp_path / "d" / "something").rename(tmp_path / "d" / "lost+found")  # the root of a file system
    node_directory.restore(snapshot, tmp_path / "d", N1)
    with pytest.raises(ClientError, match="already"):
        node_directory.restore(snapshot, tmp_path / "d", N1)


@pytest.mark.parametrize("where", [10, 60, 700, -20])
def test_a_damaged_snapshot_is_not_restored(tmp_path: Path, snapshot: Path, where: int) -> None:
    data = bytearray(snapshot.read_bytes())
    whole = bytes(data)
    data[where] ^= 1
    snapshot.write_bytes(data)
    with pytest.raises(ClientError, match="damaged"):
        node_directory.restore(snapshot, tmp_path / "d", N1)
    assert not node_directory.is_node(tmp_path / "d")
    snapshot.write_bytes(whole)
    node_directory.restore(snapshot, tmp_path / "d", N1)  # the same directory, with a good copy
    assert state_of(tmp_path / "d") == (7, PAIRS)


def test_a_snapshot_that_is_cut_short_is_not_restored(tmp_path: Path, snapshot: Path) -> None:
    snapshot.write_bytes(snapshot.read_bytes()[:-40])
    with pytest.raises(ClientError, match="damaged"):
        node_directory.restore(snapshot, tmp_path / "d", N1)
    assert not node_directory.is_node(tmp_path / "d")


def test_a_restore_that_was_killed_is_done_again(tmp_path: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    for step in ("_install", "_found"):
        with monkeypatch.context() as patch:
            patch.setattr(node_directory, step, killed)
            with pytest.raises(Killed):
                node_directory.restore(snapshot, tmp_path / "d", N1)
        assert (tmp_path / "d" / node_directory.UNFINISHED_NAME).exists()
        assert not node_directory.is_node(tmp_path / "d")
    node_directory.restore(snapshot, tmp_path / "d", N1)
    assert state_of(tmp_path / "d") == (7, PAIRS)


def test_no_file_is_made_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="no such file"):
        node_directory.restore(tmp_path / "missing", tmp_path / "d", N1)
    assert list(tmp_path.iterdir()) == []


# --- a survivor


def survivor(directory: Path, entries: int) -> None:
    """Node n2 of a cluster of three, which has lost its majority."""
    node_directory.join(directory, complete(name="n2", listen="127.0.0.1:200"), "11111111-1111-1111-1111-111111111111")
    identity = load_identity(RealDisk(), str(directory))
    assert identity is not None
    journal = journal_of(directory)
    own = complete(name="n2", listen="127.0.0.1:200").member(identity.node_id)
    other = complete(name="n1", listen="127.0.0.1:100").member("00000000-0000-0000-0000-000000000001")
    third = complete(name="n3", listen="127.0.0.1:300").member("00000000-0000-0000-0000-000000000003")
    journal.save_vote(5, "n1")
    journal.append([Entry(1, 4, encode(Membership((other, own, third))), MEMBERSHIP)])
    journal.append([Entry(index, 5, b"x") for index in range(2, entries + 1)])
    journal.sync()
    journal.close()


def test_looking_says_what_a_survivor_has(tmp_path: Path) -> None:
    survivor(tmp_path, 9)
    found = node_directory.survivor_of(tmp_path)
    assert (found.name, found.rank, found.first_index, found.state_index) == ("n2", (5, 9), 1, 0)
    assert found.membership.voters == {"n1", "n2", "n3"}
    assert node_directory.survivor_of(tmp_path) == found  # and changes nothing


def test_a_survivor_goes_on_alone_under_another_cluster_id(tmp_path: Path) -> None:
    survivor(tmp_path, 9)
    was, now = node_directory.go_alone(tmp_path)
    assert was.rank == (5, 9)
    assert now.rank == (6, 10)
    assert now.membership.voters == {"n2"}
    assert was.identity.cluster_id != now.identity.cluster_id
    assert was.identity.node_id == now.identity.node_id
    journal = journal_of(tmp_path)
    assert (journal.term, journal.voted_for) == (6, "n2")
    assert [entry.payload for entry in journal.entries(2, 1 << 20, 9)] == [b"x"] * 8
    assert journal.membership == Membership(now.membership.members, 10)
    journal.close()


@pytest.mark.parametrize("step", ["after the identity", "after the vote"])
def test_a_crash_in_between_leaves_what_the_same_again_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    survivor(tmp_path, 9)

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "save_vote" if step == "after the identity" else "append", killed)
        with pytest.raises(Killed):
            node_directory.go_alone(tmp_path)
    assert node_directory.survivor_of(tmp_path).membership.voters == {"n1", "n2", "n3"}  # it elects nobody
    _, now = node_directory.go_alone(tmp_path)
    assert now.membership.voters == {"n2"}
    assert (now.last_index, now.name) == (10, "n2")


def test_a_state_that_a_majority_found_wrong_survives_nothing(tmp_path: Path) -> None:
    survivor(tmp_path, 3)
    quarantine.close(RealDisk(), str(tmp_path), "digest of entry 2")
    with pytest.raises(ClientError, match="digest of entry 2"):
        node_directory.go_alone(tmp_path)


def test_who_was_never_added_survives_nothing(tmp_path: Path) -> None:
    node_directory.join(tmp_path, N1, "11111111-1111-1111-1111-111111111111")
    with pytest.raises(ClientError, match="no member of its cluster"):
        node_directory.go_alone(tmp_path)
    with pytest.raises(ClientError, match="no node's data directory"):
        node_directory.survivor_of(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
