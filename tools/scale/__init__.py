"""Programs that fill a database with as much as a large installation has, and measure lists and housekeeping there."""
