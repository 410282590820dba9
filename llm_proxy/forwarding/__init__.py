"""One exchange from its first byte until it is settled; the only capability that imports the others."""
