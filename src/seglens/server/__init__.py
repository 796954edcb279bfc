"""An HTTP server over the public verb."""
