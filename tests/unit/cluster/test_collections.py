"""Looking for garbage takes as long as there is much to look at: what a process has loaded is not looked at again."""

import subprocess
import sys

LOADED = 1_000_000
MOST_AT_ONCE = 150_000

_SCRIPT = f"""
import gc
from cluster.process import give_back_memory

loaded = [[number] for number in range({LOADED})]
give_back_memory()
looked_at = []
gc.callbacks.append(lambda phase, info: looked_at.append(len(gc.get_objects()))
                    if phase == "start" and info["generation"] == 2 else None)
more = [[number] for number in range({LOADED} // 2)]
print(looked_at[0] if looked_at else {LOADED})
"""


def test_a_process_that_has_loaded_much_is_not_held_up_for_long() -> None:
    """The first full collection comes before what was made since then is much, and does not look at what was loaded."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < MOST_AT_ONCE
