"""The process on a node: runs what the manager commands, reports the truth, and goes on without the manager."""
