"""Entry point of every rank: `python -m engine …`, alone or under torchrun."""

import sys

from engine.server.launch import run

if __name__ == "__main__":
    run(sys.argv[1:])
