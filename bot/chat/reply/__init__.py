"""The writing of one reply: generation, its end, what is kept out of it, and who is told how far it is."""
