"""Real parts for tests: broker, container engine, unikernel, MongoDB-protocol server, our own processes."""
