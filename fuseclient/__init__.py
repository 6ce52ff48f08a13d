"""The client: speaks the kernel's FUSE protocol, keeps data in object storage and asks the metadata service."""

import os

# gRPC's "event engine" passes every read and write through threads of its own besides the completion thread; without it, a
# request that is alone on its stream costs about a quarter less CPU and latency (docs/BENCHMARKS.md). gRPC reads the choice
# when it is imported, which no module of this package can do before this line. A user's own setting wins.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # lost connections are meta_client.py's to log
