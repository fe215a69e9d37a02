"""Sessions: many generations over one rpc. Each means what StreamGenerate means; only its way is another (ADR 25)."""
