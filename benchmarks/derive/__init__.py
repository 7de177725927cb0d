"""Scripts that derive the tables of constants in the package from structures."""
