"""Calls to Discord's REST API: messages and threads by id, paced, and stopped after too many refusals."""
