"""One fit: sampling, augmentation, the training loop, checkpoints."""
