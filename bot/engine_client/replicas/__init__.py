"""Several servers of the same model as one: who is asked, how each of them is, and what happens when one fails."""
