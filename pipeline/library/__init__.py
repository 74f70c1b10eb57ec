"""Arrays in, arrays out: the library's face, and export."""
