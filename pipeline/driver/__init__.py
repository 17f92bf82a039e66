"""What the driver does before, between and after the phases."""
