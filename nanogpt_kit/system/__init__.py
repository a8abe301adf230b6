"""Access to the operating system: reading and writing files safely, the user's folders, cores, signals."""
