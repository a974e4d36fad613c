"""Implementations of the verbs: each takes dataclasses of settings and returns a dataclass of results."""
