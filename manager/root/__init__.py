"""The link to the root orchestrator: registration in the dialect of its generation, and reports."""
