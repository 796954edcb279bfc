"""The drawn world: scenes with exact masks, and sentences about them. It imports neither torch nor the product."""
