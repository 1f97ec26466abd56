"""Parts of training that all modules share: resuming, checkpoints, lengths of runs, optimizers, scores."""
