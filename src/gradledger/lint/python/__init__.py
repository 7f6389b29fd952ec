"""What Python's own functions and the methods of its numbers, text and containers do in the machine."""
