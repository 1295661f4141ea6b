"""The parts that the commands that train share, from the arguments to the result table."""
