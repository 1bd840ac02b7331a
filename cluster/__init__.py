"""What two processes must agree on: messages, topics, errors and process plumbing."""
