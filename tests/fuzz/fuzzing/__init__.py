"""Files of every format, damaged at random, and a slow validator that says what must become of each row."""
