"""Other people's trained models as head folders."""
