"""What is compared on the same tasks: each tool as its documentation shows it, and with gradledger's adapter."""
