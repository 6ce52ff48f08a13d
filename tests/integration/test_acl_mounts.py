"""Access control lists between mounts: what one sets, the other enforces at once; on one node and on three; off and on again.

The kernel may keep what it knows for a minute, so that what is seen at once was pushed.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.acl_text import ACCESS, DEFAULT, to_bytes, to_text
from tests.fuse.cluster import Cluster, keelfs, wait_for
from tests.fuse.users import ALICE, BOB, CAROL, as_user
from tests.integration.node_cluster import NodeCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Far below the kernel's minute, far above what a loaded machine needs.
SOON_S = 5.0
KEEPING = ("--attr-timeout", "60s", "--entry-timeout", "60s")
LIST = "u::rw-,u:4101:r--,g::---,g:4202:rw-,m::rw-,o::---"


@pytest.fixture(scope="module")
def pair(scratch: Path) -> Iterator[Cluster]:
    """A volume on mounts 'a' and 'b'."""
    with Cluster(Path(tempfile.mkdtemp(dir=scratch))) as cluster:
        cluster.start_unmounted()
        for name in ("a", "b"):
            cluster.mount(name, *KEEPING)
        yield cluster


def of(path: Path, name: str = ACCESS) -> str:
    try:
        return to_text(os.getxattr(path, name))
    except OSError as error:
        return errno.errorcode[error.errno or errno.EIO]


def opened(path: Path, *modes: int) -> list[Any]:
    """What ALICE, BOB and CAROL get when they open the file in each mode."""
    return [
        "".join(letter if as_user(user, lambda flags=flags: os.close(os.open(path, flags))) is None else "-"
                for letter, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY)))
        for user in (ALICE, BOB, CAROL)
    ]  # fmt: skip


def exercise(a: Path, b: Path) -> None:
    """A life of lists, each step done on one mount and seen on the other."""
    (a / "f").write_bytes(b"x")
    (a / "f").chmod(0o600)
    wait_for((b / "f").exists, "the file on the other mount")
    assert (of(b / "f"), opened(b / "f")) == ("ENODATA", ["--", "--", "--"])
    os.setxattr(a / "f", ACCESS, to_bytes(LIST))
    wait_for(lambda: opened(b / "f") == ["r-", "rw", "rw"], "the rights by the list", SOON_S)
    assert of(b / "f") == LIST
    (b / "f").chmod(0o640)
    wait_for(lambda: opened(a / "f") == ["r-", "r-", "r-"], "the narrower mask", SOON_S)
    assert of(a / "f") == LIST.replace("m::rw-", "m::r--")
    os.removexattr(a / "f", ACCESS)
    wait_for(lambda: opened(b / "f") == ["--", "--", "--"], "the rights without a list", SOON_S)
    (a / "d").mkdir()
    wait_for((b / "d").exists, "the directory on the other mount")
    os.setxattr(a / "d", DEFAULT, to_bytes(LIST))
    wait_for(lambda: of(b / "d", DEFAULT) == LIST, "the default list", SOON_S)
    before = os.umask(0o077)
    try:
        (b / "d/new").write_bytes(b"x")
    finally:
        os.umask(before)
    wait_for((a / "d/new").exists, "the new file on the first mount")
    (a / "d").chmod(0o755)
    wait_for(lambda: opened(a / "d/new") == ["r-", "rw", "rw"], "the rights that were inherited", SOON_S)
    assert of(a / "d/new") == of(b / "d/new") == LIST


def test_a_change_on_one_mount_is_enforced_on_the_other(pair: Cluster) -> None:
    a, b = pair.home / "a", pair.home / "b"
    (a / "one").mkdir()
    wait_for((b / "one").exists, "the directory on the other mount")
    exercise(a / "one", b / "one")


def test_off_and_on_again(pair: Cluster) -> None:
    """Mounts follow when they are mounted again; one that is there meanwhile does not fail."""
    a = pair.home / "a"
    (a / "switch").write_bytes(b"x")
    os.setxattr(a / "switch", ACCESS, to_bytes(LIST))
    assert opened(a / "switch") == ["r-", "rw", "rw"]
    changed = json.loads(keelfs("volume", "set", pair.url, "--no-acl", "--json").stdout)
    assert changed["settings"]["acl"] is False
    with pytest.raises(OSError, match="not supported") as refused:
        os.setxattr(a / "switch", ACCESS, to_bytes(LIST))
    assert refused.value.errno == errno.EOPNOTSUPP
    third = pair.mount("c", *KEEPING)
    assert (of(third / "switch"), os.listxattr(third / "switch")) == ("ENOTSUP", [])
    assert opened(third / "switch") == ["--", "--", "--"]  # the owning group has the mask's bits, and nobody here is in it
    assert as_user(BOB._replace(groups=(0,)), lambda: (third / "switch").read_bytes().decode()) == "x"
    (third / "new").write_bytes(b"x")
    pair.unmount("c")
    keelfs("volume", "set", pair.url, "--acl")
    third = pair.mount("c", *KEEPING)
    assert of(third / "switch") == LIST
    assert opened(third / "switch") == ["r-", "rw", "rw"]
    assert as_user(BOB._replace(groups=(0,)), lambda: (third / "switch").read_bytes().decode()) == "EACCES"
    pair.unmount("c")


def test_three_nodes(home: Path) -> None:
    with NodeCluster(home) as cluster:
        cluster.start()
        a, b = cluster.mount("a", *KEEPING), cluster.mount("b", *KEEPING)
        exercise(a, b)
        cluster.kill(cluster.leader())
        os.setxattr(a / "d/new", ACCESS, to_bytes("u::rw-,u:4103:rw-,g::---,m::rw-,o::---"))
        wait_for(lambda: opened(b / "d/new") == ["--", "--", "rw"], "the list that was set after a leader's death", 30)
        assert of(b / "d", DEFAULT) == LIST
