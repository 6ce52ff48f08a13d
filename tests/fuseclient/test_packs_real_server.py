"""Small scattered writes on the real metadata service: several rounds of packs over each other, cut, read by another mount."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from fs_fakes import USER
from test_filesystem_files import close, read, write
from test_filesystem_names import answer, lookup
from test_filesystem_real_server import pair  # noqa: F401  # a fixture

from fuseclient.data.slices import NewSlice
from fuseclient.operations import Changes
from fuseclient.slice_service import COMMIT_BYTES_MAX, COMMIT_SLICES_MAX, _parts

if TYPE_CHECKING:
    from pathlib import Path

    from fuseclient.filesystem import FileSystem

SIZE = 3 << 20


async def test_packs_over_packs(pair: tuple[FileSystem, FileSystem], tmp_path: Path) -> None:  # noqa: F811
    one, other = pair
    rng = random.Random(3)
    attr, opened = await one.create(one.root, b"f", 0o644, 0, os.O_RDWR, USER)
    content = bytearray(SIZE)
    await write(one, attr.ino, opened.fh, 0, bytes(SIZE))
    for number in range(6):
        for _ in range(400):
            data = rng.randbytes(rng.randint(1, 5000))
            at = rng.randrange(SIZE - len(data))
            await write(one, attr.ino, opened.fh, at, data)
            content[at : at + len(data)] = data
        await one.fsync(attr.ino, opened.fh, datasync=False)
        if number == 3:
            await one.setattr(attr.ino, Changes(1 << 3, 0, 0, 0, SIZE // 2, 0, 0, 0), opened.fh, USER)
            content[SIZE // 2 :] = bytes(SIZE - SIZE // 2)
            await write(one, attr.ino, opened.fh, SIZE - 1, b"\0")
    await close(one, attr.ino, opened.fh)
    assert sum(path.is_file() for path in (tmp_path / "objects").rglob("*")) <= 16
    found = await lookup(other, other.root, b"f")
    theirs = await answer(other.open(found.ino, os.O_RDONLY, USER))
    for at in range(0, SIZE, 1 << 20):
        assert await read(other, found.ino, theirs.fh, at, 1 << 20) == content[at : at + (1 << 20)]
    await close(other, found.ino, theirs.fh)


def test_the_places_of_a_slice_are_not_divided() -> None:
    lone = [NewSlice(0, n, n + 1, 1, 0, 1, b"") for n in range(COMMIT_SLICES_MAX - 10)]
    shared = [NewSlice(0, 5000 + n, 9999, 20, n, 1, b"") for n in range(20)]
    assert list(_parts([*lone, *shared])) == [lone, shared]
    assert list(_parts([*lone, *shared[:10]])) == [[*lone, *shared[:10]]]


def test_inline_bytes_of_a_request_are_bounded() -> None:
    inline = [NewSlice(0, n * 4096, n + 1, 4096, 0, 4096, bytes(4096)) for n in range(20)]
    assert [sum(len(one.data) for one in part) for part in _parts(inline)] == [COMMIT_BYTES_MAX, 4 * 4096]
    assert COMMIT_BYTES_MAX == 64 << 10
