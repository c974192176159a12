"""Evidence: how far the label and the pair of each sample are to be trusted."""
