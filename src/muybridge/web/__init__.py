"""A page and an HTTP API for a trained recogniser: `muybridge serve` (docs/serve.md)."""
