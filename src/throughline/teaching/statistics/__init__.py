"""What a store holds, in numbers."""
