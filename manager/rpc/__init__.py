"""The gRPC face of the manager."""
