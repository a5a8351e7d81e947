"""Whether what Trimtab is pinned to may be used: not withdrawn, not known to break, under a licence that fits."""
