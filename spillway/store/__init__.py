"""The Redis or Valkey that replicas share: leases, reservations, hints."""
