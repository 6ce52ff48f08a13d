"""The face of KeelFS: the `keelfs` command and the Python API."""

import os

__version__ = "0.1.0"

# What gRPC's C++ core writes to stderr by itself (a port that is taken, a refused connection) reaches the user as one of our
# messages already. It reads this once, when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
