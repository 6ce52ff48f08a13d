"""What a mount loads: thousands of nodes start one, and each pays for it in time and memory."""

from __future__ import annotations

import subprocess
import sys

#: Administration, certificates and S3 are for those who use them.
NOT_NEEDED = ("grpc", "boto3", "cryptography", "lmdb", "pysyncobj", "metaserver", "raft")


def test_a_mount_loads_nothing_of_administration_or_of_the_server():
    code = f"import sys, keelfs.commands.mount, fuseclient.mount; print([n for n in {NOT_NEEDED} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
