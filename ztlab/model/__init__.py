"""What node, coordinator and lab say to each other: pure values, standard library only, no I/O."""
