"""Weights on disk: loaded strictly, kept in 8 bits, and checked byte by byte."""
