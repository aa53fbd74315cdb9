"""`python -m tests.bench` runs the database benchmark (database.py)."""

from tests.bench.database import main

main()
