"""What trained generators are measured by: pure functions of arrays."""
