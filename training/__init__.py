"""Training of the models that Spillway brings along."""
