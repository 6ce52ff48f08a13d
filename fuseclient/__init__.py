"""The client: speaks the kernel's FUSE protocol, keeps data in object storage and asks the metadata service."""

import os

# This package does not use gRPC, but the command line does, and `keelfs server` loads it before metaserver/__init__.py could
# say the same: without gRPC's "event engine" a call costs a quarter less CPU (docs/decisions/0009). gRPC reads the choice when
# it is imported, which nothing of ours does before this line. A user's own setting wins.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # lost connections are for keelfs/admin_client.py to report
