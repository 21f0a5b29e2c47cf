"""What a configuration costs before anything is rented: work, memory, time, on a named slice."""
