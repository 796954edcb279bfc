"""The outputs of frozen models for an image, computed once: for training, live or from a cache."""
