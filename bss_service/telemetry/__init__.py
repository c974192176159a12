"""What operators see of a service: metrics, and traces of the hot call."""
