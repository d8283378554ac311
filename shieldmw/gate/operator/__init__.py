"""What operators see and change: the status, the switch, limits, the deny list, resets, the busiest, metrics."""
