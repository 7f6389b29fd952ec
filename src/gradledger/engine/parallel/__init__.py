"""Several ranks: one window over all of them, exact under DistributedDataParallel and FSDP2 (``fully_shard``)."""
