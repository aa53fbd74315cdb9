"""Entry point of every rank: `python -m engine …`, alone or under torchrun."""

import gc
import sys

from engine.server.parent_death import die_with_launcher

if __name__ == "__main__":
    die_with_launcher()  # before the imports below, which take a while
    gc.disable()  # until `freeze_gc`, when the model is loaded: collections are a fifth of the time that imports take

    from engine.server.launch import run

    run(sys.argv[1:])
