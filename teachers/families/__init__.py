"""Models of teachers, one file a family, and the parts they share."""
