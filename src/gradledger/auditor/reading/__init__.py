"""What can be read off a running program: its losses' graphs, its lines and loops. Reading waits for no device."""
