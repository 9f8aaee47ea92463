"""Mail out: `smtp`."""
