"""The planner: which node gets which instance, and why not. Holds nothing that the manager's stream cannot rebuild."""
