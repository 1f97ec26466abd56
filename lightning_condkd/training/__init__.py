"""What every module needs of Lightning: resuming, checkpoints, lengths of runs, optimizers, scores."""
