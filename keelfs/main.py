"""The `keelfs` command: its subcommands, and the one place where a failure becomes a message and an exit code.

A user never sees a traceback. KEELFS_DEBUG=1 adds it for a bug report.
"""

from __future__ import annotations

import os
import sys
import traceback

import typer

from fuseclient.errors import ClientError
from keelfs.commands import bench, certs, cluster, demo, info, mount, server, status, up, version, volume
from keelfs.commands.connection import reaching
from keelfs.console import fail
from keelfs.exit_codes import ExitCode

app = typer.Typer(
    name="keelfs",
    help="A POSIX file system for clusters: replicated metadata, data in object storage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help texts are plain: [/subdir] is no markup
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("up")(up.up)
app.command("server")(server.server)
app.command("format")(reaching(volume.format_volume))
app.command("mount")(reaching(mount.mount))
app.command("umount")(mount.umount)
app.command("status")(reaching(status.status))
app.command("info")(reaching(info.info))
app.add_typer(volume.app, name="volume")
app.add_typer(certs.app, name="certs")
app.add_typer(cluster.app, name="cluster")
app.command("bench")(bench.bench)
app.command("demo")(demo.demo)
app.command("version")(version.version)


def main() -> None:
    """Run the command line; exits the process."""
    try:
        app()
    except ClientError as error:
        fail(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe has seen enough; stdout is gone, so nothing may be flushed to it any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.FAILURE)
    except Exception as error:
        if os.environ.get("KEELFS_DEBUG"):
            traceback.print_exc()
        fail(
            f"this is a bug in KeelFS: {type(error).__name__}: {error}\n"
            "Please report it with the output of the same command under KEELFS_DEBUG=1."
        )
        sys.exit(ExitCode.FAILURE)
