"""The metadata service: the pure state machine, its stores, and the gRPC services around them."""

import os

# gRPC reads this when it is first imported, which no module of this package does before this line. Its "event engine" hands
# every read and write through threads of its own: measured, a request that is alone on its stream takes a third longer and
# costs half as much CPU again (bench/engine.py --in-flight 1). A user's own setting wins.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
