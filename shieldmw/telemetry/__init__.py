"""What operators learn of the gate: log lines, metrics as text, events for a site's own code, and a webhook."""
