"""The cure: what was found is treated, and whether that helped is measured by runs beside it."""
