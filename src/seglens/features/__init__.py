"""What frozen models say of an image, computed once: for training, live or from a cache."""
