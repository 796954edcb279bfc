"""Trained heads: on disk, and on a model hub."""
