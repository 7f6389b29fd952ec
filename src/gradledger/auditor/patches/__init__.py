"""Where the auditor stands between a program and torch: ``table.py`` lists every place, the rest says what is done."""
