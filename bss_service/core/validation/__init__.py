"""What validation reports say: of an interval, its reward; of runs, whether one policy is better than another."""
