"""randlabels: what does a model do when its labels are wrong?

A sweep framework for the experiments of Zhang et al. 2017, "Understanding deep learning
requires rethinking generalization". One run lives in `randlabels.run`; many runs become
tables in the package `analysis`.
"""

import atexit
import gc
import sys

__version__ = "0.1.0"

# Importing torch makes a million objects and no garbage; looking for it takes a fifth of the time.
gc.set_threshold(50_000)


@atexit.register
def _leave_garbage() -> None:
    """A process ends half a second earlier if it does not look for garbage once more."""
    if "triton" not in sys.modules:  # whose bindings would call it leaked
        gc.freeze()
