"""The drawn world: scenes with exact masks, and what can be said of them. No torch, and nothing of the product."""
