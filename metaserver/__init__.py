"""The metadata service: the pure state machine, its stores, and the gRPC services around them."""
