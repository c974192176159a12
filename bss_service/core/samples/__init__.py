"""What is known of each training sample: the table, its balance scores and its training dynamics."""
