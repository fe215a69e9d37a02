"""Wire formats: how each kind of provider is asked, and how its answers, refusals and headers are read. No I/O."""
