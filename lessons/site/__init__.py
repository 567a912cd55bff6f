"""The lessons as a static site: pages that open from the file system, with no network and no build chain."""
