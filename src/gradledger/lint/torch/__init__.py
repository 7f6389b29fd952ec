"""What torch does with gradients, as the machine sees it. torch itself is never imported."""
