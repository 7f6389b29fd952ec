"""What a batch is made of: nested tensors walked, counted, cut into micro-batches, brought to the device."""
