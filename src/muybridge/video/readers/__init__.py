"""Readers of the data sets that people have on disk, one family a file; `formats.FORMATS` lists them."""
