"""What service and client must agree on: messages by what they are about, arrays, frames."""
