"""What a run leaves behind: keys, schemas, tables, manifests, and the store that holds them. Never imports torch."""
