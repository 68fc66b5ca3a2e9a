"""The five pipes: thin shells around the pure rooms, and with the rooms below them the only ones that know torch."""
