"""The site's certificate authority: keys, certificates and the identities in them. Knows the core's names and no service."""
