"""The HTTP edge: every documented HTTP contract translated into typed gRPC calls. Holds no state."""
