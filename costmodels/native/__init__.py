"""What makes code compile: the decorators, named tuples passed by pointer, calls through an address."""
