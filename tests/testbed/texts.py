"""Texts of any characters, for properties; their tables of Unicode are made before a test is timed."""

from hypothesis import strategies as st


def texts(max_size: int | None = None) -> st.SearchStrategy[str]:
    """Texts of whatever UTF-8 can write.

    Hypothesis walks through all of Unicode at the first use on a machine, which takes a second and more: done within a
    test's first draw, its health check would take the strategy for a slow one.
    """
    strategy = st.text(max_size=max_size)
    strategy.validate()
    return strategy
