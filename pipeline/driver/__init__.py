"""Work of the driver before, between and after the phases."""
