"""The operator's command line: a gRPC client of the manager, and `up`, which runs a whole cluster on one machine."""
