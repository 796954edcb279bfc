"""SegLens for other programs and for browsers: over HTTP, as a web page, and as tools of agents."""
