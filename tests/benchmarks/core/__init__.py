"""`make bench-core`: what the product's own decisions cost for one job on 6,250 nodes of 8 accelerators."""
