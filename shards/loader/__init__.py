"""From committed shards to batches: order, join, targets, batch memory, augmentation, the loss they are for."""
