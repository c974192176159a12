"""What service and client must agree on: messages, arrays, frames."""
