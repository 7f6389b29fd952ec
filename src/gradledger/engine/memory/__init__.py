"""Updates that fit in memory: what there is, what a micro-batch takes, the right size, going on when it runs out."""
