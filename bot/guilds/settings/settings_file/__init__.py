"""A guild's settings as a file: written with the names of channels and roles, read strictly. Pure functions.

A file says nothing of members. What it leaves out stays as it is in the guild that reads it; null is the default.
Channels and roles that the guild does not have are left out and named: a list of none but such stays as it was, since
an empty one would open what the file meant to close.
"""
