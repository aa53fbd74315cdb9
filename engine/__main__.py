"""Entry point of every rank: `python -m engine …`, alone or under torchrun."""

import sys

from engine.server.parent_death import die_with_launcher

if __name__ == "__main__":
    die_with_launcher()  # before the imports below, which take a while

    from engine.server.launch import run

    run(sys.argv[1:])
