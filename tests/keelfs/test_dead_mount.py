"""A mount whose process was killed: `keelfs umount` clears it away, whoever still waits for it."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import Cluster, keelfs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="a real mount needs root and /dev/fuse"),
]


def test_umount_clears_away_a_killed_mount_that_is_in_use(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start()
        process = cluster.mounts.pop("mnt")
        assert process.child is not None
        with subprocess.Popen(["sleep", "60"], cwd=cluster.mountpoint) as user:
            process.child.kill()
            process.child.wait()
            keelfs("umount", cluster.mountpoint)
            assert not cluster.mountpoint.is_mount()
            user.kill()
        again = cluster.mount("mnt")
        (again / "file").write_bytes(b"works")
