"""Whether a recipe can work at all: shapes, memory, disk and data, before anything starts."""
