"""What every part of the program shares with the machine: clocks, ids, files, shared folders."""
