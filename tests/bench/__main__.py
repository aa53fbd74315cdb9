"""`python -m tests.bench`: the database benchmark."""

from tests.bench.database import main

main()
