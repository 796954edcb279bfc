"""How good masks and answers are: published protocols, scores, reports, and what a layer can tell."""
