"""The protocol tables say what the kernel's C header says: sizes, offsets and numbers, asked of a C compiler."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from fuseclient.kernel import protocol as p
from protos.attr_layout import ATTR, FUSE_ATTR_BYTES

HEADER = Path("/usr/include/linux/fuse.h")

#: layout, C struct, the C fields that the layout's fields are. A blank name: the layout ends before the struct does.
STRUCTS = [
    (p.IN_HEADER, "fuse_in_header", "len opcode unique nodeid uid gid pid total_extlen"),
    (p.OUT_HEADER, "fuse_out_header", "len error unique"),
    (
        p.FUSE_ATTR,
        "fuse_attr",
        "ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize flags",
    ),
    (p.FORGET_IN, "fuse_forget_in", "nlookup"),
    (p.FORGET_ONE, "fuse_forget_one", "nodeid nlookup"),
    (p.BATCH_FORGET_IN, "fuse_batch_forget_in", "count"),
    (p.GETATTR_IN, "fuse_getattr_in", "getattr_flags fh"),
    (p.SETATTR_IN, "fuse_setattr_in", "valid fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode uid gid"),
    (p.MKNOD_IN, "fuse_mknod_in", "mode rdev umask"),
    (p.MKDIR_IN, "fuse_mkdir_in", "mode umask"),
    (p.RENAME_IN, "fuse_rename_in", "newdir"),
    (p.RENAME2_IN, "fuse_rename2_in", "newdir flags"),
    (p.LINK_IN, "fuse_link_in", "oldnodeid"),
    (p.OPEN_IN, "fuse_open_in", "flags open_flags"),
    (p.CREATE_IN, "fuse_create_in", "flags mode umask open_flags"),
    (p.READ_IN, "fuse_read_in", "fh offset size read_flags lock_owner flags"),
    (p.WRITE_IN, "fuse_write_in", "fh offset size write_flags lock_owner flags"),
    (p.RELEASE_IN, "fuse_release_in", "fh flags release_flags lock_owner"),
    (p.FSYNC_IN, "fuse_fsync_in", "fh fsync_flags"),
    (p.SETXATTR_IN_EXT, "fuse_setxattr_in", "size flags setxattr_flags"),
    (p.GETXATTR_IN, "fuse_getxattr_in", "size"),
    (p.FLUSH_IN, "fuse_flush_in", "fh lock_owner"),
    (p.LK_IN, "fuse_lk_in", "fh owner lk.start lk.end lk.type lk.pid lk_flags"),
    (p.LK_OUT, "fuse_lk_out", "lk.start lk.end lk.type lk.pid"),
    (p.ACCESS_IN, "fuse_access_in", "mask"),
    (p.INTERRUPT_IN, "fuse_interrupt_in", "unique"),
    (p.FALLOCATE_IN, "fuse_fallocate_in", "fh offset length mode"),
    (p.COPY_FILE_RANGE_IN, "fuse_copy_file_range_in", "fh_in off_in nodeid_out fh_out off_out len"),
    (p.LSEEK_IN, "fuse_lseek_in", "fh offset whence"),
    (p.IOCTL_IN, "fuse_ioctl_in", "fh flags cmd arg in_size out_size"),
    (p.IOCTL_OUT, "fuse_ioctl_out", "result flags in_iovs out_iovs"),
    (p.OPEN_OUT, "fuse_open_out", "fh open_flags"),
    (p.WRITE_OUT, "fuse_write_out", "size"),
    (p.STATFS_OUT, "fuse_kstatfs", "blocks bfree bavail files ffree bsize namelen frsize"),
    (p.GETXATTR_OUT, "fuse_getxattr_out", "size"),
    (p.LSEEK_OUT, "fuse_lseek_out", "offset"),
    (
        p.INIT_OUT,
        "fuse_init_out",
        "major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages map_alignment "
        "flags2",
    ),
    (p.NOTIFY_INVAL_INODE_OUT, "fuse_notify_inval_inode_out", "ino off len"),
    (p.NOTIFY_INVAL_ENTRY_OUT, "fuse_notify_inval_entry_out", "parent namelen flags"),
]
#: layouts that are a struct's beginning; what follows is put behind them
HEADS = [
    (p.INIT_IN, "fuse_init_in", "major minor max_readahead flags"),
    (p.SETXATTR_IN, "fuse_setxattr_in", "size flags"),
    (p.ENTRY_OUT_HEAD, "fuse_entry_out", "nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec"),
    (p.ATTR_OUT_HEAD, "fuse_attr_out", "attr_valid attr_valid_nsec"),
    (p.DIRENT, "fuse_dirent", "ino off namelen type"),
]
CONSTANTS = {
    **{f"FUSE_{code.name}": int(code) for code in p.Opcode},
    **{f"FUSE_NOTIFY_{code.name}": int(code) for code in p.Notify},
    **{f"FUSE_{flag.name}": int(flag) for flag in p.InitFlag},
    **{name: value for name, value in vars(p).items() if re.match("(FATTR|FOPEN)_", name)},
    **{
        f"FUSE_{name}": value
        for name, value in vars(p).items()
        if re.match("(GETATTR|OPEN|WRITE|FSYNC|RELEASE|SETXATTR)_[A-Z]+", name) and isinstance(value, int)
    },
    "FUSE_EXPIRE_ONLY": p.EXPIRE_ONLY,
    "FUSE_LK_FLOCK": p.LK_FLOCK,
    "FUSE_ROOT_ID": p.ROOT_ID,
}


def offsets(layout: struct.Struct) -> list[tuple[int, int]]:
    """(offset, size) of every field of a layout."""
    found, at = [], 0
    for count, kind in re.findall(r"(\d*)([a-zA-Z])", layout.format):
        width = struct.calcsize("<" + kind)
        for _ in range(int(count or 1)):
            if kind != "x":
                found.append((at, width))
            at += width
    return found


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the C compiler makes of the header, for every expression that the tests ask about."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to read the kernel's header with")
    if not HEADER.exists():
        pytest.skip(f"no {HEADER}; it comes with linux-libc-dev")
    text = HEADER.read_text()
    asked = []
    for _, name, fields in STRUCTS + HEADS:
        asked.append(f"sizeof(struct {name})")
        for field in fields.split():
            asked += [f"offsetof(struct {name}, {field})", f"sizeof(((struct {name} *)0)->{field})"]
    asked += ["offsetof(struct fuse_entry_out, attr)", "offsetof(struct fuse_attr_out, attr)", "sizeof(struct fuse_entry_out)"]
    asked += ["FUSE_NAME_OFFSET", "FUSE_NAME_OFFSET_DIRENTPLUS", "offsetof(struct fuse_init_in, flags2)"]
    asked += [name for name in CONSTANTS if re.search(rf"\b{name}\b[^*\n]*(=|\s\(|\s\d)", text)]
    lines = "".join(f'printf("%s\\t%llu\\n", "{a}", (unsigned long long)({a}));\n' for a in asked)
    source = tmp_path_factory.mktemp("layouts") / "ask.c"
    source.write_text(f"#include <stdio.h>\n#include <stddef.h>\n#include <linux/fuse.h>\nint main(void) {{\n{lines}}}\n")
    program = source.with_suffix("")
    subprocess.run(["gcc", "-w", "-o", program, source], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split("\t") for line in said.splitlines())}


@pytest.mark.parametrize(("layout", "name", "fields"), STRUCTS, ids=[row[1] for row in STRUCTS])
def test_a_layout_is_the_struct(answers: dict[str, int], layout: struct.Struct, name: str, fields: str) -> None:
    assert layout.size == answers[f"sizeof(struct {name})"]
    places = offsets(layout)[: len(fields.split())]
    assert places == [
        (answers[f"offsetof(struct {name}, {f})"], answers[f"sizeof(((struct {name} *)0)->{f})"]) for f in fields.split()
    ]


@pytest.mark.parametrize(("layout", "name", "fields"), HEADS, ids=[row[1] for row in HEADS])
def test_a_head_is_the_beginning_of_the_struct(answers: dict[str, int], layout: struct.Struct, name: str, fields: str) -> None:
    wanted = [(answers[f"offsetof(struct {name}, {f})"], answers[f"sizeof(((struct {name} *)0)->{f})"]) for f in fields.split()]
    assert offsets(layout) == wanted
    assert layout.size <= answers[f"sizeof(struct {name})"]


def test_what_follows_a_head_lies_where_the_kernel_looks(answers: dict[str, int]) -> None:
    assert answers["offsetof(struct fuse_entry_out, attr)"] == p.ENTRY_OUT_HEAD.size
    assert answers["offsetof(struct fuse_attr_out, attr)"] == p.ATTR_OUT_HEAD.size
    assert answers["sizeof(struct fuse_entry_out)"] == p.ENTRY_OUT_BYTES == p.ENTRY_OUT_HEAD.size + p.FUSE_ATTR.size
    assert answers["FUSE_NAME_OFFSET"] == p.DIRENT.size
    assert answers["FUSE_NAME_OFFSET_DIRENTPLUS"] == p.ENTRY_OUT_BYTES + p.DIRENT.size
    assert answers["offsetof(struct fuse_init_in, flags2)"] == p.INIT_IN.size
    assert p.IN_HEADER.size == p.IN_HEADER_BYTES
    assert p.OUT_HEADER.size == p.OUT_HEADER_BYTES


def test_every_number_that_this_header_knows_is_ours(answers: dict[str, int]) -> None:
    known = {name: value for name, value in CONSTANTS.items() if name in answers}
    assert {name: answers[name] for name in known} == known
    assert len(known) > 90, "the header was not read"


def test_our_attributes_begin_with_the_kernels() -> None:
    assert offsets(ATTR)[:16] == offsets(p.FUSE_ATTR)
    assert p.FUSE_ATTR.size == FUSE_ATTR_BYTES
