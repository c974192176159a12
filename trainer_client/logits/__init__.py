"""What is computed of the logits of a step or a validation: signals, losses, a confusion matrix."""
