"""The exported networks in NumPy alone, for one decision at a time; agents/networks says what they are."""
