#!/usr/bin/env bash
# Runs the public suite pjdfstest on a KeelFS mount: totals, every failure, and every file of the suite that tests nothing here.
#
#   tests/posix_suite.sh DIR [NODES]     DIR: a checkout of the suite that is built already; NODES: 1 (default) or 3
#   tests/posix_suite.sh DIR local       the same on a local file system, for comparison
#
# Needs root and prove (perl). KEELFS_TEST_DIR: where to work (default /var/tmp). The exit code is 0 when nothing failed.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
suite=$(cd "$1" && pwd)
nodes=${2:-1}
[ -x "$suite/pjdfstest" ] || { echo "posix_suite: no program $suite/pjdfstest; build the suite first, as its README says" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "posix_suite: needs root" >&2; exit 2; }
command -v prove >/dev/null || { echo "posix_suite: needs prove, which comes with perl" >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
keelfs() { PYTHONPATH="$here" "$here/.venv/bin/python" -m keelfs "$@"; }

work=$(mktemp -d "${KEELFS_TEST_DIR:-/var/tmp}/keel-posix-XXXXXX")
chmod 755 "$work"
mkdir "$work/mnt" "$work/bin"
finish() {
  cd /
  case $nodes in
    1) keelfs umount "$work/mnt" ;;
    3) keelfs cluster down "$work/keel" ;;
  esac >/dev/null 2>&1 || true
  umount -l "$work/mnt" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
case $nodes in
  1) keelfs up -d "$work/keel" "$work/mnt" ;;
  3) keelfs cluster up -d 3 "$work/keel" --mount "$work/mnt" ;;
  local) ;;
  *) echo "posix_suite: 1 or 3 nodes, or local, not $nodes" >&2; exit 2 ;;
esac

# The suite asks df for the file system's type and leaves tests out for types that it does not know. What ext4 must pass, we must.
printf '#!/bin/sh\n%s "$@" | sed "s/fuse\\.keelfs/ext4/"\n' "$(command -v df)" >"$work/bin/df"
chmod +x "$work/bin/df"
mkdir "$work/mnt/suite"
cd "$work/mnt/suite"
status=0
PATH="$work/bin:$PATH" prove -rv "$suite/tests" >"$work/log" 2>&1 || status=$?

# Every file of the suite begins with its name and dots; one that leaves everything out prints a plan of one test that is ok.
awk -v suite="$suite/tests/" '
  index($0, suite) == 1 && / \.\./ { name = substr($1, length(suite) + 1); plan = 0; next }
  /^1\.\.1$/ { plan = NR }
  /^ok 1$/ && plan == NR - 1 { empty[++left] = name }
  /^not ok/ && /# TODO/ { expected++; next }
  /^not ok/ { failed[++failures] = name ": " $0 }
  /# [Ss][Kk][Ii][Pp]/ { empty[++left] = name ": " $0 }
  /^(Files=|Result:)/ { totals[++lines] = $0 }
  END {
    print "--- failed: " failures + 0; for (i = 1; i <= failures; i++) print failed[i]
    print "--- left out by the suite on this system: " left + 0; for (i = 1; i <= left; i++) print empty[i]
    print "--- expected to fail on Linux, by the word of the suite: " expected + 0
    print "--- totals"; for (i = 1; i <= lines; i++) print totals[i]
  }' "$work/log"
exit "$status"
