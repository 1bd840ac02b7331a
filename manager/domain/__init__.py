"""Decisions without IO: records, states, the life-cycle machine and the aggregate of the whole cluster."""
