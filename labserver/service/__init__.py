"""The production app: what `labserver serve` runs."""
