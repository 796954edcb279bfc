"""An image and a sentence to a mask: what a user calls, and what comes back."""
