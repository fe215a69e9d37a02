"""gRPC as this mesh uses it: one boundary on the way in, one wrapper on the way out."""
