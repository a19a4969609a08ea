"""int8: what is quantized and in which numbers, chosen by what it does to the answers."""
