"""The web page: a picture, a talk about it, masks to look at, to correct and to take away."""
