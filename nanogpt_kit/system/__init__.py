"""What the operating system gives: files that are read and written safely, the user's folders, cores, signals."""
