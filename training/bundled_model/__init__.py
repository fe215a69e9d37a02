"""The bundled model: a small customer-support model, trained from scratch on text that this package generates."""
