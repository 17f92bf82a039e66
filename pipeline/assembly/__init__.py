"""Phase two: personas with histories and portraits, and the rows of the finished dataset."""
