"""Wire formats: the .proto files, the code generated from them (checked in), and the fixed attribute layout."""
