"""The OpenAI-compatible edge: another way to the same router, over HTTP."""
